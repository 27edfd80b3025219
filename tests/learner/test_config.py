import pytest

from learner.config import LearnerConfig


def test_the_learning_rate_by_hand():
    """Four steps of warm-up, then down to a tenth at the last of 11 steps."""
    config = LearnerConfig(lr=1.0, warmup_steps=4, final_lr_fraction=0.1)
    rates = [config.lr_at(step, 11) for step in range(12)]
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates[7] == pytest.approx(0.55)
    assert rates[10:] == pytest.approx([0.1, 0.1])


def test_the_default_schedule_is_constant():
    config = LearnerConfig(lr=3.0)
    assert [config.lr_at(step, 1) for step in (0, 1, 50)] == [3.0, 3.0, 3.0]


def test_a_cosine_by_hand():
    """Two steps of warm-up, then a quarter, a half and all of the way down to a fifth, as 1 - cos goes."""
    config = LearnerConfig(lr=1.0, warmup_steps=2, final_lr_fraction=0.2, schedule="cosine")
    rates = [config.lr_at(step, 15) for step in range(16)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[5] == pytest.approx(1.0 - 0.8 * (1.0 - 0.5**0.5) / 2.0)
    assert rates[8] == pytest.approx(0.6)
    assert rates[14:] == pytest.approx([0.2, 0.2])


@pytest.mark.parametrize(
    "wrong",
    [
        {"ranks": 0},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"betas": (0.9, 1.0)},
        {"betas": (0.9,)},
        {"weight_decay": -1.0},
        {"final_lr_fraction": 1.5},
        {"zero_stage": 4},
        {"dtype": "fp32"},
        {"layout": "packed"},
        {"minibatches": 0},
        {"schedule": "step"},
        {"offload_optimizer": True},
        {"offload_parameters": True, "zero_stage": 2},
    ],
)
def test_impossible_values_are_named(wrong):
    """The error names the field as one would override it, and the value that was given."""
    with pytest.raises(ValueError, match=f"learner.{next(iter(wrong))}"):
        LearnerConfig(**wrong)
