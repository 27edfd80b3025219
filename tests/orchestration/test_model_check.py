"""What an algorithm wants of the model is checked against its config before an actor starts."""

import json

import pytest

from orchestration.config import load_plan
from orchestration.errors import ConfigError
from orchestration.launch import check_model

APO = ["experiment=quickstart", "algorithm=apo"]


@pytest.fixture
def model(tmp_path):
    """A folder with nothing but a config: no weights are looked at."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", "vocab_size": 64}))
    return tmp_path


def test_anchors_that_the_vocabulary_has_are_accepted(model):
    check_model(load_plan([*APO, "algorithm.surrogate.anchor.k=64"]), model)


def test_more_anchors_than_tokens_are_refused_in_a_sentence(model):
    plan = load_plan([*APO, "algorithm.surrogate.anchor.k=65"])
    with pytest.raises(ConfigError, match=r"^algorithm: the model has 64 tokens, too few for AnchorRatio\(k=65"):
        check_model(plan, model)


@pytest.mark.parametrize(
    "wrong",
    [
        ["algorithm.surrogate.anchor=null"],
        ["algorithm.surrogate.anchor.k=0"],
        [
            "algorithm.surrogate.anchor._target_=learner.objective.reads.ReferenceDivergence",
            "~algorithm.surrogate.anchor.k",
        ],
    ],
)
def test_apo_without_the_references_likeliest_tokens_is_refused(wrong):
    with pytest.raises(ConfigError, match="AnchorRatio"):
        load_plan([*APO, *wrong])
