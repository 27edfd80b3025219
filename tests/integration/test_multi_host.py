"""Hosts made of Linux namespaces, with a real Ray over them: one is cut off and returns, one is killed."""

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from scripts import multi_host
from tests.integration.test_quickstart import trained_tasks

STEPS, GROUPS = 300, 8  # enough steps for all that happens on a fast machine; the script trains 8 groups in each

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2 * multi_host.RUN_S),
    pytest.mark.skipif(multi_host.obstacle() is not None, reason=f"{multi_host.obstacle()}"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[multi_host.Seen, multi_host.Seen]:
    """The run left alone, and the run disturbed; `compare` fails unless all processes of the hosts end behind it."""
    folder = tmp_path_factory.mktemp("hosts") / "lan"
    options = [f"run.steps={STEPS}", "rollout.transport=broadcast", "model.training.steps=30"]
    return multi_host.compare(folder, options, cut_s=0.0)


def test_lost_hosts_cost_nothing_but_time(runs):
    """Both runs end with exit code 0 and the same groups trained, each once, as a script from outside finds too."""
    for seen in runs:
        assert seen.exit_code == 0, seen.folder.with_suffix(".console").read_text()
        assert Counter(trained_tasks(seen.folder)) == Counter(range(STEPS * GROUPS))
        assert seen.trained_groups() == STEPS * GROUPS
        assert not seen.faults()


def test_a_host_that_returns_gets_an_engine_again(runs):
    """Three engines in all: two at first, and one more on the host that came back, which draws; the killed one has none
    at the end."""
    _, disturbed = runs
    last = disturbed.engine_on(multi_host.CUT)
    assert last not in ("rollout-0", "rollout-1")
    assert any(step.get(f"rollout/{last}/tokens_per_s") for step in disturbed.steps())
    assert f"rollout/{disturbed.engine_on(multi_host.KILLED)}/tokens_per_s" not in disturbed.steps()[-1]


def test_a_host_that_is_cut_off_is_noticed_by_the_run_itself(runs):
    """Within health_every_s + health_deadline_s = 20 s and what a loaded machine adds; Ray takes 65 s."""
    _, disturbed = runs
    assert disturbed.seconds["from link down until its engine is given up"] < 40.0
    assert disturbed.seconds["from the kill until its engine is given up"] < 40.0


def test_roles_stay_on_the_hosts_with_their_labels(runs):
    """Every actor that started is on a host of its role."""
    for seen in runs:
        for role, _, host in seen.places():
            assert multi_host.ROLES[host][0] == role


def test_nothing_is_left_of_the_hosts(runs):
    """No link of theirs on this machine, no process that works in their folder."""
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    assert not any(f" {name}" in links for name in [*multi_host.ROLES, "switch"])
    folder = str(Path(runs[0].folder).parent)
    assert folder not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
