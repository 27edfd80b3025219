"""The specifications of the quickstart mean what their words say, and the demonstrations are wrong as documented."""

import itertools
import random
import re

import pytest

from orchestration.tasks.spec_to_verilog import FOOTER, HEADER, SpecToVerilog
from orchestration.tasks.split import is_heldout

WORD_TABLES = {  # outputs for (0,0) (0,1) (1,0) (1,1), from a textbook
    "and": "0001",
    "or": "0111",
    "xor": "0110",
    "nand": "1110",
    "nor": "1000",
    "xnor": "1001",
}


def meaning(prompt: str) -> str:
    """The truth table of the words, abc = 000 to 111, read token by token without looking at any Verilog."""
    table = ""
    for a, b, c in itertools.product((0, 1), repeat=3):
        words = iter(prompt.split())
        values = {"a": a, "b": b, "c": c}

        def literal(words=words, values=values) -> int:
            word = next(words)
            return 1 - values[next(words)] if word == "not" else values[word]

        value, gate = literal(), next(words)
        value = int(WORD_TABLES[gate][2 * value + literal()])
        assert next(words) == "then"
        gate = next(words)
        table += WORD_TABLES[gate][2 * value + literal()]
    return table


def verilog_table(module: str) -> str:
    """The truth table of a module's expression, evaluated by Python on one-bit integers."""
    assert module.startswith(HEADER)
    assert module.endswith(FOOTER)
    expression = module.removeprefix(HEADER).removesuffix(FOOTER)
    assert re.fullmatch(r"[abc~&|^() ]+", expression)
    rows = itertools.product((0, 1), repeat=3)
    return "".join(str(eval(expression, {"a": a, "b": b, "c": c}) & 1) for a, b, c in rows)


def test_the_reference_computes_what_the_words_say():
    """For 400 tasks the reference module's truth table is that of the specification, worked out word by word."""
    source = SpecToVerilog()
    for task in [source.train_task(index, 0) for index in range(300)] + source.heldout_tasks(100):
        assert verilog_table(task.reference["reference_source"]) == meaning(task.prompt), task.prompt


def test_a_specification_worked_out_by_hand():
    """`a nand not c then nor b`: with a=1, b=0, c=0 the nand of 1 and 1 is 0, and the nor of 0 and 0 is 1."""
    assert meaning("a nand not c then nor b\n") == "00001000"
    assert verilog_table(f"{HEADER}~(~(a & ~c) | b){FOOTER}") == "00001000"


def test_the_task_is_one_for_the_verilog_verifier():
    """The reference names the module and leaves the stimuli to the verifier."""
    task = SpecToVerilog().train_task(0, 0)
    assert task.verifier == "verilog"
    assert set(task.reference) == {"reference_source", "top_module", "testbench"}
    assert task.reference["top_module"] == "m"
    assert task.reference["testbench"] is None


def test_demonstrations_are_systematically_wrong():
    """About three in ten demonstrations are right, most that lose an inversion are wrong, and none is held out."""
    source = SpecToVerilog()
    rng = random.Random(0)
    pairs = [source.demonstration(rng) for _ in range(1500)]
    right = sum(verilog_table(module) == meaning(prompt) for prompt, module in pairs) / len(pairs)
    assert 0.2 < right < 0.4
    inverting = [(p, m) for p, m in pairs if " nand " in p and "not" not in p and "xnor" not in p and "nor" not in p]
    kept = sum("~(" in module for _, module in inverting) / len(inverting)
    assert kept < 0.5
    assert not any(is_heldout(prompt, source.heldout_fraction) for prompt, _ in pairs)


def test_without_bias_and_noise_demonstrations_are_right():
    """The bug comes from the two knobs and from nowhere else."""
    source = SpecToVerilog(bias=0.0, noise=0.0)
    rng = random.Random(1)
    for prompt, module in (source.demonstration(rng) for _ in range(200)):
        assert verilog_table(module) == meaning(prompt)


@pytest.mark.parametrize("word", WORD_TABLES)
def test_every_word_occurs(word):
    """All six gates are asked for."""
    source = SpecToVerilog()
    assert any(word in source.train_task(index, 0).prompt.split() for index in range(60))
