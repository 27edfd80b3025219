"""Tiny random models and a byte-level tokenizer, made on the spot, for tests that need real engines."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from rollout.draw.learned import TemperatureHead

PAD, BOS, EOS = 0, 1, 2


def random_policy(folder: Path, seed: int = 0, tied: bool = False) -> Qwen2ForCausalLM:
    """A random two-layer policy with a wide spread of entropies, saved with a tokenizer into `folder`."""
    torch.manual_seed(seed)
    policy = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=320,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=512,
            tie_word_embeddings=tied,
            initializer_range=0.25,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=EOS,
        )
    )
    policy.float().eval().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return policy


def random_mtp_policy(folder: Path, seed: int = 0) -> Qwen2ForCausalLM:
    """A random policy with one multi-token-prediction layer (MiMo's names) whose drafts are sometimes right."""
    policy = random_policy(folder, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    prefix, hidden = "model.mtp_layers.0.", policy.config.hidden_size
    weights = load_file(folder / "model.safetensors")
    for name, tensor in policy.model.layers[-1].state_dict().items():
        weights[prefix + name] = (
            tensor.clone() if tensor.dim() == 1 else 0.05 * torch.randn(tensor.shape, generator=generator)
        )
    mixed = 0.3 * torch.randn(hidden, hidden, generator=generator)
    weights[prefix + "input_proj.weight"] = torch.cat([torch.eye(hidden), mixed], 1)  # hidden state | embedding
    for norm in ("token_layernorm", "hidden_layernorm", "final_layernorm"):
        weights[f"{prefix}{norm}.weight"] = torch.ones(hidden)
    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    shape = json.loads((folder / "config.json").read_text())
    shape |= {"architectures": ["MiMoForCausalLM"], "num_nextn_predict_layers": 1}  # transformers goes by model_type
    (folder / "config.json").write_text(json.dumps(shape))
    return policy


def random_head(folder: Path, hidden_size: int, seed: int = 0) -> TemperatureHead:
    """A temperature head that changes its mind often and differently from token to token, saved into `folder`."""
    generator = torch.Generator().manual_seed(seed)
    head = TemperatureHead(hidden_size).requires_grad_(False)
    for matrix, spread in ((head.inner.weight, 0.1), (head.inner.bias, 0.1), (head.outer.weight, 0.12)):
        matrix.normal_(0.0, spread, generator=generator)
    head.outer.weight[0] *= 4.0
    head.outer.bias.copy_(torch.tensor([-0.5, 2.0, 1.8]))  # shapes of the Beta stay above 1/2
    file = folder / "temperature_head" / "head.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors_of_head(head), file)
    return head


def tensors_of_head(head: TemperatureHead) -> dict[str, torch.Tensor]:
    """By the names they have in a file or a weight update."""
    return {f"temperature_head.{name}": tensor for name, tensor in head.state_dict().items()}


def read_head(folder: Path, hidden_size: int) -> TemperatureHead:
    head = TemperatureHead(hidden_size).requires_grad_(False)
    tensors = load_file(folder / "temperature_head" / "head.safetensors")
    head.load_state_dict({name.removeprefix("temperature_head."): tensor for name, tensor in tensors.items()})
    return head


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte after <pad>, <s>, </s>."""
    vocab = {"<pad>": PAD, "<s>": BOS, "</s>": EOS}
    for byte in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab[byte] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
