"""From a plan to what its scheduler is told."""

from types import SimpleNamespace

import pytest

from orchestration.config import RunConfig
from orchestration.pace import worker_capacity
from rollout.config import RolloutConfig


@pytest.mark.parametrize(
    ("running", "queued", "staleness", "groups"),
    [
        (256, 256, 1, 32),  # 512 responses are 32 groups of 16: all that may be in flight
        (48, 256, 1, 19),  # 304 responses
        (40, 0, 1, 5),  # as many wait as run, 80, whatever the engine's own queue
        (4, 0, 1, 1),  # less than a group is a group
        (1024, 256, 0, 16),  # a synchronous run has one step's groups in flight
    ],
)
def test_a_worker_takes_what_it_runs_and_as_much_again(running: int, queued: int, staleness: int, groups: int):
    """In whole groups, and never more than the bound on staleness lets start."""
    plan = SimpleNamespace(
        run=RunConfig(groups_per_step=16, group_size=16, max_staleness=staleness),
        rollout=RolloutConfig(max_num_seqs=running, max_queued_seqs=queued),
    )
    assert worker_capacity(plan) == groups
