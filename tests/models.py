"""Tiny random models and a byte-level tokenizer, made on the spot, for tests that need real engines."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

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


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte after <pad>, <s>, </s>."""
    vocab = {"<pad>": PAD, "<s>": BOS, "</s>": EOS}
    for byte in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab[byte] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
