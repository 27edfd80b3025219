"""The tiny policy: a Qwen2-shaped transformer of about 0.6M parameters that trains on one core in minutes.

Qwen2, because vLLM serves it as it is and, with MiMo's multi-token-prediction layers added under the same `model_type`,
as a model that drafts for itself. The head is untied: vLLM on CPU packs a tied head apart and would need two names for
one tensor.
"""

from dataclasses import dataclass

import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

VOCAB_MULTIPLE = 64  # vLLM pads the embedding to this; doing it here keeps the two shapes equal


@dataclass(frozen=True, kw_only=True)
class TinyArchitecture:
    """Shape of the tiny policy. Head dimension = hidden / heads; 32 is the smallest vLLM's CPU attention takes."""

    hidden: int = 128
    mlp: int = 512
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    max_positions: int = 512  # tokens of prompt and response together
    init_std: float = 0.04  # twice the usual: hidden is a tenth of the usual

    def build(self, tokenizer: Qwen2Tokenizer, seed: int) -> Qwen2ForCausalLM:
        """A randomly initialised fp32 policy for this tokenizer; the same weights for the same seed."""
        vocab = -(-len(tokenizer) // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
        special = {
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        }
        config = Qwen2Config(
            vocab_size=vocab,
            hidden_size=self.hidden,
            intermediate_size=self.mlp,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            max_position_embeddings=self.max_positions,
            initializer_range=self.init_std,
            tie_word_embeddings=False,
            dtype="float32",
            **special,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            policy = Qwen2ForCausalLM(config).float()
        policy.generation_config = GenerationConfig(**special)
        return policy
