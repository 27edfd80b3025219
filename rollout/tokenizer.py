"""The tokenizer as rollouts need it: which tokens end a response, and text from tokens."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from rollout.errors import RolloutError


@dataclass(frozen=True)
class Tokenizer:
    """`stop_token_ids` are the tokenizer's end-of-sequence and those the model's generation_config names."""

    stop_token_ids: tuple[int, ...]
    _tokenizer: Any

    @classmethod
    def load(cls, model: Path) -> "Tokenizer":
        tokenizer = AutoTokenizer.from_pretrained(model)
        stop = {tokenizer.eos_token_id}
        generation_config = model / "generation_config.json"
        if generation_config.exists():
            named = json.loads(generation_config.read_text()).get("eos_token_id")
            stop.update(named if isinstance(named, list) else [named])
        stop.discard(None)
        if not stop:
            raise RolloutError(f"the tokenizer of {model} has no end-of-sequence token: responses would never end")
        return cls(tuple(sorted(stop)), tokenizer)

    @property
    def vocabulary(self) -> dict[str, int]:
        """Token -> id, added tokens included."""
        return self._tokenizer.get_vocab()

    def encode(self, text: str) -> tuple[int, ...]:
        """Without special tokens: text to be put inside a prompt or a response."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=True)
