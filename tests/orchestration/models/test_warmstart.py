"""The supervised start: deterministic, cached, and a folder that transformers loads."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from orchestration.models.prompts import encode_plain
from orchestration.models.resolve import WarmStarted
from orchestration.models.tiny import TinyArchitecture
from orchestration.models.warmstart import IGNORED, SupervisedStart, _batch
from orchestration.tasks.arithmetic import Arithmetic
from orchestration.tasks.spec_to_verilog import SpecToVerilog

SMALL = TinyArchitecture(hidden=32, mlp=64, layers=1, heads=1, kv_heads=1)
SHORT = SupervisedStart(steps=40, batch=16, warmup=5, lr=1e-2, tokenizer_demonstrations=200)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


@pytest.mark.parametrize("source", [SpecToVerilog(), Arithmetic()], ids=["verilog", "arithmetic"])
def test_a_short_start_learns_and_loads(source):
    """The loss falls by more than half, and transformers loads an untied fp32 Qwen2 with the tokenizer's end token."""
    losses = []
    folder = WarmStarted(architecture=SMALL, training=SHORT).resolve(
        source, lambda step, total, loss: losses.append(loss)
    )
    assert len(losses) == 40
    assert losses[-1] < losses[0] / 2
    policy, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert policy.config.model_type == "qwen2"
    assert policy.dtype == torch.float32
    assert policy.lm_head.weight.data_ptr() != policy.model.embed_tokens.weight.data_ptr()
    assert policy.generation_config.eos_token_id == policy.config.eos_token_id == tokenizer.eos_token_id


def test_the_same_start_is_found_and_another_is_not(root):
    """Same settings: the cached folder, without training. Another seed or task: another folder."""
    calls = []
    start = WarmStarted(architecture=SMALL, training=SupervisedStart(steps=2, batch=4))
    first = start.resolve(SpecToVerilog(), lambda *step: calls.append(step))
    again = start.resolve(SpecToVerilog(max_tokens=99), lambda *step: calls.append(step))
    assert first == again
    assert len(calls) == 2
    other_seed = WarmStarted(architecture=SMALL, training=SupervisedStart(steps=2, batch=4, seed=1))
    assert len({first, other_seed.resolve(SpecToVerilog()), start.resolve(SpecToVerilog(bias=0.5))}) == 3


def test_the_start_is_deterministic(tmp_path, monkeypatch):
    """Two builds in two caches, with other random numbers drawn in between, give equal weights."""
    start = WarmStarted(architecture=SMALL, training=SupervisedStart(steps=3, batch=4))
    folders = []
    for cache in ("one", "two"):
        monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / cache))
        folders.append(start.resolve(SpecToVerilog()))
        torch.rand(3), random.random()
    first, second = (weights(folder) for folder in folders)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_only_the_response_and_its_end_carry_loss():
    """Labels are the response and eos, aligned with the ids; prompt and padding have none."""
    source, rng = SpecToVerilog(), random.Random(0)
    pairs = [source.demonstration(rng) for _ in range(8)]
    from orchestration.models.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["".join(pair) for pair in pairs], source.boilerplate, 512)
    ids, labels = _batch(tokenizer, pairs)
    for row, (prompt, response) in enumerate(pairs):
        kept = labels[row] != IGNORED
        assert torch.equal(ids[row][kept], labels[row][kept])
        assert kept.nonzero()[0].item() == len(encode_plain(tokenizer, prompt))
        assert tokenizer.decode(labels[row][kept][:-1]) == response
        assert labels[row][kept][-1] == tokenizer.eos_token_id


def test_the_rate_rises_and_falls():
    """Linear over the warmup, then down to a tenth at the end (by hand)."""
    training = SupervisedStart(steps=100, lr=1.0, warmup=10)
    assert training.lr_at(0) == pytest.approx(0.1)
    assert training.lr_at(9) == pytest.approx(1.0 - 0.9 * 0.09)
    assert training.lr_at(99) == pytest.approx(1.0 - 0.9 * 0.99)
