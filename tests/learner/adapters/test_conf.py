"""Every file in conf/adapter: built by path, run or refused in one sentence, and told of in docs/adapters.md."""

from pathlib import Path

import pytest

from learner.adapters import Adapter
from orchestration.config import load_plan, load_saved_plan
from orchestration.errors import ConfigError

CONF = Path(__file__).parents[3] / "conf"
NAMES = sorted(path.stem for path in (CONF / "adapter").glob("*.yaml"))
REFUSED = {"lora_moe", "smora", "radar_gate", "dynmole", "queryable", "expert_losses"}


@pytest.mark.parametrize("name", NAMES)
def test_every_file_runs_or_is_refused(name):
    overrides = ["experiment=quickstart", f"adapter={name}"]
    if name in REFUSED:
        with pytest.raises(
            ConfigError, match="^learner.adapter: .* mixes its experts anew for every token, so no weight"
        ):
            load_plan(overrides)
    else:
        adapter = load_plan(overrides).learner.adapter
        assert adapter is None if name == "none" else isinstance(adapter, Adapter)


def test_every_knob_has_a_path(tmp_path):
    """From the command line, and again from the plan a run has saved."""
    plan = load_plan(["adapter=lora_kappa", "learner.adapter.rank=3", "learner.adapter.targets.keep=7"])
    assert (plan.learner.adapter.rank, plan.learner.adapter.targets.keep) == (3, 7)
    import yaml

    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plan.tree))
    again = load_saved_plan(tmp_path / "config.yaml", ["learner.adapter.publish=merged"])
    assert again.learner.adapter.publish == "merged"
    assert again.learner.adapter.targets == plan.learner.adapter.targets


def test_whatever_merges_is_let_through():
    """The same method, refused and run, by one knob."""
    assert load_plan(["adapter=lora_moe", "learner.adapter.routing=static"]).learner.adapter.losses.keys() == {
        "balance"
    }
    with pytest.raises(ConfigError, match="LoraMoe with routing=token mixes"):
        load_plan(["adapter=hilo", "learner.adapter.routing=token"])


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["learner.adapter.rank=0"], "learner.adapter.rank is positive, got 0"),
        (["learner.adapter.ranks=4"], "unknown key learner.adapter.ranks; Lora has .* did you mean rank"),
        (
            ["rollout.transport=cuda_ipc", "rollout.num_gpus=0.5"],
            "whole weights: set learner.adapter.publish=merged",
        ),
    ],
)
def test_wrong_values_are_one_sentence(overrides, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_plan(["adapter=lora", *overrides])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "none"])
def test_the_page_of_adapters_names_every_file(name):
    """With the grade of its header, and a test that exists."""
    header = " ".join(line for line in (CONF / "adapter" / f"{name}.yaml").read_text().splitlines() if line[0] == "#")
    page = (CONF.parent / "docs" / "adapters.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    _, _, _, paper, grade, test, _ = (cell.strip() for cell in row.split("|"))
    assert paper == "-" or f"arXiv:{paper}" in header
    assert f"Evidence {grade}" in header
    assert test.strip("`") in header
    assert (CONF.parent / test.strip("`")).is_file()
