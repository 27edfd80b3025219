"""Settings of the reward service are checked where they are built."""

import pytest

from reward.config import RewardConfig, VerilogConfig


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RewardConfig(sandbox="none"), "bubblewrap or unsafe, got none"),
        (lambda: RewardConfig(deadline_s=0.0), "above 0, got 0"),
        (lambda: RewardConfig(default_workers=0), "at least 1"),
        (lambda: RewardConfig(workers={"math": 0}), "at least 1"),
        (lambda: RewardConfig(cache_entries=-1), "at least 0, got -1"),
        (lambda: VerilogConfig(cycles=0), r"reward\.verilog\.cycles is at least 1, got 0"),
    ],
)
def test_bad_settings_name_field_rule_and_value(build, message):
    """Each bad setting is one sentence."""
    with pytest.raises(ValueError, match=message):
        build()


def test_workers_for():
    """A verifier that is not named gets the default."""
    config = RewardConfig(default_workers=2, workers={"math": 3})
    assert (config.workers_for("math"), config.workers_for("verilog")) == (3, 2)
