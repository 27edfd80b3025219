"""Drafts whose number follows what is measured, inside a real engine: it moves, and what is drawn stays exact."""

import pytest

from rollout.config import RolloutConfig, SpeculativeConfig
from rollout.draw.temperature import EntropyLinear, Fixed
from rollout.draw.truncation import Truncation
from tests.models import random_mtp_policy
from tests.rollout.engines import ask, started
from tests.rollout.exactness import examine

LARGEST = 4


@pytest.fixture(scope="module")
def running(ray_cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    policy = random_mtp_policy(folder)
    config = RolloutConfig(max_model_len=512, max_num_seqs=64, kv_cache_gib=0.1)
    drafting = SpeculativeConfig(method="mtp", tokens=LARGEST, adaptive=True)
    with started(folder, policy, config, drafting, "rollout-adaptive-drafts") as worker:
        yield worker


def test_the_number_of_drafts_moves(running):
    """A random drafter does not pay: fewer than the largest number of drafts are made, and some all the same."""
    [rollouts] = running.generate(ask("moves", Fixed(), n=16, max_tokens=320))
    steps = sum(sum(one.accepted_histogram) for one in rollouts)
    drafted = sum(one.drafted_tokens for one in rollouts)
    assert 0 < drafted < 0.9 * LARGEST * max(steps, sum(len(one.response_ids) for one in rollouts) / (LARGEST + 1))


def test_what_is_drawn_is_what_is_recorded(running):
    """Whatever K a step had: the record agrees with transformers to 1e-4, and tokens fall where it says."""
    request = ask("fit", EntropyLinear(low=0.5, high=1.6, entropy_low=2.5, entropy_high=5.0), n=64, max_tokens=200)
    cut = ask("cut", Fixed(temperature=1.4), n=16, max_tokens=64, truncation=Truncation(top_p=0.8))
    found, others = running.generate(request, cut)
    for rollouts, asked in ((found, request), (others, cut)):
        examined = examine(running.policy, None, rollouts, asked)
        assert max(examined.errors.values()) < 1e-4
        assert examined.p_values()["tokens"] > 1e-4
