"""The tiny policy's tokenizer: one decision one token, nothing lost, the same when loaded by name."""

import random

import pytest
from transformers import AutoTokenizer

from orchestration.models.tokenizer import train_tokenizer
from orchestration.tasks.spec_to_verilog import FOOTER, HEADER, SpecToVerilog


@pytest.fixture(scope="module")
def tokenizer():
    source, rng = SpecToVerilog(), random.Random(0)
    texts = ["".join(source.demonstration(rng)) for _ in range(500)]
    return train_tokenizer(texts, source.boilerplate, vocab_size=512)


def pieces(tokenizer, text: str) -> list[str]:
    return [tokenizer.decode([token]) for token in tokenizer.encode(text, add_special_tokens=False)]


def test_every_decision_is_one_token(tokenizer):
    """Gates, inversions, literals and parentheses are tokens of their own; what never varies is one token."""
    response = f"{HEADER}~(~(a & ~c) | b){FOOTER}"
    expected = [HEADER, "~(", "~(", "a", " &", " ~", "c", ")", " |", " b", ")", FOOTER]
    assert pieces(tokenizer, response) == expected
    prompt = "a nand not c then nor b\n"
    assert pieces(tokenizer, prompt) == ["a", " nand", " not", " c", " then", " nor", " b", "\n"]


@pytest.mark.parametrize(
    "text",
    ["assign y = (a & b;", "  \t\n\n x  ", "naïve Σ 漢字 🦜", "<not a token>", "module m(input a, input b", "~~((", ""],
)
def test_any_text_comes_back(tokenizer, text):
    """Text the tokenizer has never seen, or broken boilerplate, is encoded without loss."""
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_loaded_by_auto_tokenizer_it_is_the_same(tokenizer, tmp_path):
    """AutoTokenizer, which is what vLLM asks, must not replace the pre-tokenizer or lose a token."""
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    source, rng = SpecToVerilog(), random.Random(1)
    for _ in range(50):
        text = "".join(source.demonstration(rng))
        assert loaded.encode(text, add_special_tokens=False) == tokenizer.encode(text, add_special_tokens=False)
        assert loaded.decode(loaded.encode(text), skip_special_tokens=True) == text
    assert (loaded.pad_token_id, loaded.bos_token_id, loaded.eos_token_id) == (0, 1, 2)
    assert len(loaded) == len(tokenizer) <= 512
