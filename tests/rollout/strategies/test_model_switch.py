"""Entropy-adaptive decoding: who draws which token, exactly as if every single one were looked at."""

import asyncio
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.draw.temperature import Fixed
from rollout.errors import RolloutError
from rollout.messages import FinishReason, GroupRequest, Rollout
from rollout.strategies import Circumstances, ModelSwitch
from rollout.strategies.model_switch import Rolling, calibrated_threshold
from tests.rollout.strategies.fakes import STOP, FakeEngine, check_record, resources


def rule(**changes) -> ModelSwitch:
    return ModelSwitch(**{"other_model": "large", "policy": "small", "threshold": 2.0} | changes)


def drawn(rule: ModelSwitch, policy: FakeEngine, other: FakeEngine, n: int = 2, max_tokens: int = 60) -> list[Rollout]:
    request = GroupRequest(group_id="g", prompt_ids=(1, 5), n=n, max_tokens=max_tokens, temperature=Fixed())

    async def all_of():
        return [rollout async for rollout in rule.over(resources(policy, other)).generate(request)]

    return sorted(asyncio.run(all_of()), key=lambda rollout: rollout.index)


def who_should_draw(rule: ModelSwitch, entropies: list[float]) -> list[bool]:
    """For each token whether the large model draws it: the rule as the paper tells it, one token after the other."""
    large, since, found = False, 0, []
    for t in range(len(entropies)):
        found.append(large)
        since += 1
        recent = [h / math.log(2) for h in entropies[max(0, t + 1 - rule.window) : t + 1]]
        mean = math.fsum(recent) / len(recent)
        if since >= rule.dwell:
            wanted = True if mean >= rule.threshold else False if mean <= rule.down else large
            if wanted != large:
                large, since = wanted, 0
    return found


@settings(deadline=None, max_examples=40)
@given(
    threshold=st.floats(0.5, 3.5),
    gap=st.floats(0.0, 1.0),
    window=st.integers(1, 6),
    dwell=st.integers(1, 12),
    segment=st.integers(1, 20),
    policy=st.sampled_from(["small", "large"]),
    update_every=st.integers(0, 3),
)
def test_every_token_is_drawn_by_the_model_the_rule_names(threshold, gap, window, dwell, segment, policy, update_every):
    """Whatever the segments: `policy_drawn` is who should have drawn, and each record is the drawing engine's own."""
    chosen = rule(
        threshold=threshold, threshold_down=threshold - gap, window=window, dwell=dwell, segment=segment, policy=policy
    )
    mine, other = FakeEngine("policy", update_every=update_every, kept=True), FakeEngine("other")
    for rollout in drawn(chosen, mine, other):
        large = who_should_draw(chosen, rollout.entropies.astype(float).tolist())
        expected = [one == (policy == "large") for one in large]
        found = [True] * len(expected) if rollout.policy_drawn is None else rollout.policy_drawn.tolist()
        assert found == expected
        check_record(rollout, mine)
        ids = rollout.response_ids.tolist()
        for place in np.flatnonzero(~np.array(found)):
            prefix = (*rollout.prompt_ids, *ids[:place])
            assert rollout.sampler_logprobs[place] == other.logprob(prefix, ids[place], 0)
        assert rollout.finish_reason == (FinishReason.STOP if STOP in ids else FinishReason.LENGTH)
        assert STOP not in ids[:-1]
        assert len(ids) == 60 or ids[-1] == STOP


def test_an_infinite_threshold_never_asks_the_large_model():
    """tau = +inf: all tokens are the small model's, and the other engine is never called."""
    policy, other = FakeEngine(stop_rate=0.0), FakeEngine("other")
    [rollout] = drawn(rule(threshold=math.inf), policy, other, n=1)
    assert rollout.policy_drawn is None
    assert other.requests == []


def test_a_threshold_of_zero_asks_for_it_for_good():
    """tau = 0: the small model draws the first `dwell` tokens, the large one every token behind them."""
    policy, other = FakeEngine(stop_rate=0.0), FakeEngine("other", stop_rate=0.0)
    [rollout] = drawn(rule(threshold=0.0), policy, other, n=1)
    assert rollout.policy_drawn.tolist() == [True] * 10 + [False] * 50


def test_by_hand():
    """Window 2, dwell 3, 2 bits: means (bits) 0, 0.5, 2.1 -> large; 3.1, 1.95, 0.9 -> back after its third token."""
    rolling = Rolling(rule(window=2, dwell=3))
    bits = np.array([0.0, 1.0, 3.2]) * math.log(2)
    assert (rolling.read(bits), rolling.large, rolling.until_free) == (3, True, 3)
    bits = np.array([3.0, 0.9, 0.9, 9.0]) * math.log(2)
    assert (rolling.read(bits), rolling.large) == (3, False)


def test_between_the_two_thresholds_nothing_changes():
    """Up at 2 bits, down at 1: 2.5 calls the large model, 1.5 keeps it, 0.5 sends it back, 1.5 does not call it."""
    rolling = Rolling(rule(window=1, dwell=1, threshold_down=1.0))
    found = []
    for bits in (1.5, 2.5, 1.5, 0.5, 1.5):
        rolling.read([bits * math.log(2)])
        found.append(rolling.large)
    assert found == [False, True, True, False, False]


def test_entropies_are_read_as_bits():
    """1 nat is 1.44 bits: above a threshold of 1.4, which in nats it is not."""
    rolling = Rolling(rule(window=1, dwell=1, threshold=1.4))
    rolling.read([1.0])
    assert rolling.large


def test_a_response_of_the_other_model_alone_has_a_version():
    """The policy is the large model and never asked: nothing is trained, and the spans still say a version."""
    policy = FakeEngine()
    policy.version = 4
    [rollout] = drawn(rule(threshold=math.inf, policy="large"), policy, FakeEngine("other"), n=1)
    assert not rollout.policy_drawn.any()
    assert {span.version for span in rollout.spans} == {4}


def test_a_token_the_policy_does_not_know_is_refused():
    """Padding of a wider output layer never reaches the learner."""
    with pytest.raises(RolloutError, match=r"drew token 200, but the policy has embeddings for 128"):
        drawn(rule(policy="large"), FakeEngine(), FakeEngine("other", alphabet=chr(200)), n=1)


def test_the_calibrated_threshold_gives_its_share():
    """At the threshold, the asked share of the windows' means lies above it."""
    random = np.random.default_rng(0)
    entropies = [random.gamma(1.0, 1.0, size) for size in (400, 3, 600)]
    threshold = calibrated_threshold(entropies, share=0.3, window=4)
    means = np.array([row[i : i + 4].mean() / math.log(2) for row in entropies for i in range(len(row) - 3)])
    assert (means >= threshold).mean() == pytest.approx(0.3, abs=0.002)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": math.nan}, "threshold_down <= threshold"),
        ({"threshold": 1.0, "threshold_down": 2.0}, "threshold_down <= threshold, got 2.0 and 1.0"),
        ({"window": 0}, "window is at least 1 token"),
        ({"dwell": 0}, "dwell is at least 1 token"),
        ({"segment": 0}, "segment is at least 1 token"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    """One sentence, when the configuration is built."""
    with pytest.raises(ValueError, match=message):
        rule(**changes)


def test_a_second_model_is_needed(tmp_path):
    """Before anything starts: no folder, no run; and no learned temperature, which would start anew at each switch."""
    run = Circumstances(group_size=4, max_tokens=8, learned_temperature=False, plain_draw=True)
    with pytest.raises(RolloutError, match=r"Hugging Face folder of the second model, but .* has no config.json"):
        rule(other_model=str(tmp_path)).check_files()
    (tmp_path / "config.json").write_text("{}")
    rule(other_model=str(tmp_path)).check_files()
    rule().check(run)
    learned = Circumstances(group_size=4, max_tokens=8, learned_temperature=True, plain_draw=False)
    with pytest.raises(ValueError, match="a learned temperature head cannot follow"):
        rule(other_model=str(tmp_path)).check(learned)
