"""The group conf/strategy: every file builds what it names, survives being saved, and nonsense gets one sentence."""

import pytest

from orchestration.config import build_plan, load_plan
from orchestration.errors import ConfigError
from rollout.strategies import DiffAdapt, Evolution, ModelSwitch, Plain, SecondRollout

SWITCH = ["strategy=model_switch", "strategy.other_model=large", "strategy.threshold=1.0"]
ADAPT = ["strategy=diff_adapt", "strategy.probe=probe.safetensors"]


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        ([], Plain),
        (["strategy=second_rollout"], SecondRollout),
        (["strategy=bes"], Evolution),
        (SWITCH, ModelSwitch),
        (ADAPT, DiffAdapt),
    ],
)
def test_a_strategy_is_built_and_survives_being_saved(overrides, kind):
    """The saved plan builds the same strategy; without a choice there is none."""
    plan = load_plan(overrides)
    assert type(plan.strategy) is kind
    assert build_plan(plan.tree).strategy == plan.strategy


def test_the_ways_are_the_releases():
    """conf/strategy/diff_adapt.yaml pins temperatures, top-p and lengths; openers are texts with their line breaks."""
    strategy = load_plan(ADAPT).strategy
    found = [(way.temperature, way.top_p, way.length) for way in (strategy.easy, strategy.normal, strategy.hard)]
    assert found == [(0.5, 1.0, 0.4), (0.8, 0.95, 1.0), (0.4, 1.0, 0.5)]
    assert strategy.easy.opener.startswith("<think>\n")
    assert "</think>" in strategy.easy.opener
    assert "</think>" not in strategy.normal.opener + strategy.hard.opener


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["strategy=model_switch", "strategy.threshold=1"], "strategy.other_model is not set; give it a value"),
        (SWITCH[:2], "strategy.threshold is not set; give it a value"),
        (["strategy=diff_adapt"], "strategy.probe is not set; give it a value"),
        ([*SWITCH, "strategy.policy=medium"], "strategy.policy: .*'small' or 'large', got 'medium'"),
        ([*SWITCH, "temperature=learned"], "which a learned temperature head cannot follow"),
        (["strategy=bes", "temperature=learned"], "which a learned temperature head cannot follow"),
        ([*ADAPT, "temperature.temperature=0.7"], "would overrule the run's: leave temperature=fixed"),
        ([*ADAPT, "truncation=top_p"], "would overrule the run's: leave temperature=fixed"),
        (["strategy=second_rollout", "run.group_size=2", "strategy.share=0.1"], "is 0 responses, but both rollouts"),
        (["strategy=second_rollout", "strategy.second=3"], "strategy.second: .*TemperatureController, got 3"),
        (["strategy=bes", "strategy.judge=good"], "strategy.judge: .*instance of Judge, got 'good'"),
        ([*ADAPT, "rollout.model_runner=v2"], "set rollout.model_runner=v1"),
        (["strategy=bess"], "there is no strategy=bess; .*did you mean bes"),
        (["strategy._target_=rollout.draw.temperature.Fixed"], "should name a strategy of rollout.strategies, got F"),
    ],
)
def test_what_cannot_work_is_one_sentence(overrides, message):
    """Named by its path, before anything starts."""
    with pytest.raises(ConfigError, match=message) as refused:
        load_plan(overrides)
    assert "\n" not in str(refused.value)
