"""A method without its own piece is the method it is built on, to the bit: nothing else hides in its file."""

import hydra.utils
import pytest
import torch
from omegaconf import OmegaConf

from learner.objective import Counts, Objective
from tests.learner.objective.test_objective import CONF, objective_of, random_stats, with_needs

PER_TOKEN = "aggregate={_target_: learner.objective.aggregate.TokenMean}"
HIGHER = "surrogate.eps_hi=0.28"
# What its header says to leave out -> the method it then is, and in which constants that differs from its file.
ABLATIONS = {
    "apo": (["surrogate.push=1", "surrogate.pull=0"], "grpo", []),
    "attention_entropy": (["~weights.attention", "~controllers.low_to_high"], "dapo", []),
    "clip_b": (["~select.outliers"], "grpo", [PER_TOKEN]),
    "clip_cov": (["~select.cov"], "grpo", [PER_TOKEN]),
    "clip_v": (["~select.below"], "grpo", [PER_TOKEN]),
    "dapo": (["~filters.mixed", "surrogate.eps_hi=0.2"], "grpo", [PER_TOKEN]),
    "dcpo": (["~controllers.contrast"], "grpo", [PER_TOKEN]),
    "dr_grpo": (
        ["advantage.divide_by_std=true"],
        "grpo",
        ["aggregate={_target_: learner.objective.aggregate.SequenceSum, max_tokens: 64}"],
    ),
    "earl": (["~select.forks", "~regularisers.reference"], "dapo", []),
    "empg": (["~credit.steps"], "dapo", []),
    "entropic": (["~controllers.entropy"], "dapo", []),
    "erpo": (["~credit.progress"], "grpo", [PER_TOKEN]),
    "forking_tokens": (["~select.forks"], "dapo", []),
    "gspo": (
        ["surrogate._target_=learner.objective.surrogate.Clipped"],
        "grpo",
        ["surrogate.eps_lo=3.0e-4", "surrogate.eps_hi=4.0e-4"],
    ),
    "hidden_align": (["~regularisers.align"], "dapo", []),
    "introllm": (["head=null"], "dapo", []),
    "kl_cov": (["~regularisers.cov"], "grpo", [PER_TOKEN, "surrogate.eps_lo=1.0", "surrogate.eps_hi=.inf"]),
    "ps_grpo": (["advantage.within=group", "~regularisers.reference"], "grpo", []),
    "siren": (["~regularisers.peaks", "~controllers.anchor"], "dr_grpo", [HIGHER]),
    "steer": (["~weights.steer"], "grpo", [PER_TOKEN, HIGHER, "surrogate.dual=10.0"]),
    "tea_rl": (["~regularisers.tea"], "grpo", [PER_TOKEN]),
}


def changed(name: str, overrides: list[str]) -> Objective:
    """The objective of a file, with `~path` taken out and `path=value` set."""
    groups = {"temperature": "learned" if name == "introllm" else "fixed", "strategy": "none", "algorithm": name}
    run = OmegaConf.create({group: OmegaConf.load(CONF / group / f"{file}.yaml") for group, file in groups.items()})
    for override in overrides:
        path, _, value = override.removeprefix("~").partition("=")
        if override[0] == "~":
            parent, _, piece = path.rpartition(".")
            del run.algorithm[parent][piece]
        else:
            OmegaConf.update(run.algorithm, path, OmegaConf.create(f"value: {value}").value, merge=False)
    return hydra.utils.instantiate(run.algorithm, _convert_="all")


@pytest.mark.parametrize("name", ABLATIONS)
def test_without_its_piece_a_method_is_the_one_it_is_built_on(name, token_stats):
    """Loss and gradient to the bit; and before that, the file's own are not."""
    flags, base, constants = ABLATIONS[name]
    plain, rest, whole = (
        changed(base, constants),
        changed(name, flags),
        objective_of(CONF / "algorithm" / f"{name}.yaml"),
    )
    assert (rest.advantage, rest.filters, rest.head) == (plain.advantage, plain.filters, None)
    assert whole != rest
    counts = Counts(tokens=9, sequences=3, groups=1)
    for seed in range(3):
        stats = random_stats(token_stats, seed)
        expected, _ = plain(stats, counts)
        found, _ = rest(with_needs(stats, rest), counts)
        assert found.item() == expected.item()
        assert torch.equal(*(torch.autograd.grad(one, stats.lp, retain_graph=True)[0] for one in (found, expected)))


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_header_names_what_is_left_out(name):
    """Every flag, as one writes it."""
    header = [line for line in (CONF / "algorithm" / f"{name}.yaml").read_text().splitlines() if line[0] == "#"]
    named = " ".join(line.removeprefix("# ") for line in header).partition("Ablate:")[2]
    for flag in ABLATIONS[name][0]:
        assert flag[0] + "algorithm." + flag[1:] in named if flag[0] == "~" else f"algorithm.{flag}" in named
