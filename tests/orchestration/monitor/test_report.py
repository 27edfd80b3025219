"""curves.png and report.html are made from the run folder alone, and hold nothing from elsewhere."""

import json
import re
from html.parser import HTMLParser

import pytest

from orchestration.errors import OrchestrationError
from orchestration.monitor import Monitor, MonitorConfig, Sample
from orchestration.monitor.report import FULL_SHADE_NATS, SHADE_ENTROPY, write_report
from orchestration.monitor.sample import append_samples, read_samples

QUIET = MonitorConfig(console="none", wandb="disabled")
PNG = b"\x89PNG\r\n\x1a\n"


def sample(**changes):
    fields = {
        "prompt": "a < b",
        "response": "x <= y",
        "reward": 0.0,
        "status": "scored",
        "step": 0,
        "tokens": ("x", " <= y"),
        "temperatures": (1.0, 1.5),
        "entropies": (0.0, FULL_SHADE_NATS / 2),
    }
    return Sample(**{**fields, **changes})


def finished_run(folder):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("model: <tiny>\n")
    monitor = Monitor(QUIET, folder=folder, title="t", total_steps=3, run_config={})
    monitor.samples([sample()])
    for step in range(1, 4):
        monitor.record({"step": step, "time/elapsed_s": 10.0 * step, "train/reward": 0.3 * step, "staleness/max": 1})
    monitor.evaluated({"step": 3, "time/elapsed_s": 31.0, "eval/pass@1": 0.91})
    monitor.evaluated({"step": 0, "time/elapsed_s": 0.5, "eval/pass@1": 0.32})
    monitor.samples([sample(step=3, reward=1.0)])
    monitor.event("worker <0> died", problem=True)
    monitor.close()
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("runs") / "quickstart" / "s0")


def test_a_run_leaves_its_curves_and_its_report(run):
    """Closing the monitor writes both, and the report can be made again from the files."""
    assert (run / "curves.png").read_bytes().startswith(PNG)
    page = (run / "report.html").read_text()
    assert write_report(run) == run / "report.html"
    assert (run / "report.html").read_text() == page


def test_the_report_says_how_busy_both_sides_were(tmp_path):
    """Over time, not over steps: 90 % of 1 s and 30 % of 3 s are 45 %."""
    monitor = Monitor(QUIET, folder=tmp_path, title="t", total_steps=2, run_config={})
    for step, step_s, rollout in ((1, 1.0, 0.9), (2, 3.0, 0.3)):
        clock = {"step": step, "time/elapsed_s": 4.0, "time/step_s": step_s, "train/reward": 0.5}
        monitor.record({**clock, "rollout/utilisation": rollout, "learner/utilisation": 0.2})
    monitor.close()
    page = re.sub(r"<[^>]+>", " ", (tmp_path / "report.html").read_text())
    assert re.search(r"engines busy\s+45%\s+of the time\s+learner busy\s+20%", page)


def test_the_report_needs_nothing_from_elsewhere(run):
    """No script, image, style sheet or font is loaded: one file can be mailed."""
    page = (run / "report.html").read_text()

    class Loads(HTMLParser):
        found: list[str] = []

        def handle_starttag(self, tag, attrs):
            self.found += [tag for name, value in attrs if name in ("src", "xlink:href", "href") and value[:1] != "#"]
            self.found += [tag] if tag in ("script", "link", "img", "iframe") else []

    Loads().feed(page)
    assert Loads.found == []
    assert "@import" not in page
    assert "url(http" not in page
    assert len(page) < 300_000


def test_the_report_says_how_it_went(run):
    """First and last held-out success, the time it took, the mishap and the config are all there, escaped."""
    page = (run / "report.html").read_text()
    assert '<div class="value">0.91</div><div class="note">from 0.32' in page
    assert "until pass@1 ≥ 0.9</div>" in page
    assert '<div class="value">31 s</div>' in page
    assert "worker &lt;0&gt; died" in page
    assert "model: &lt;tiny&gt;" in page


def test_samples_stand_before_and_after(run):
    """The same prompt's earliest and latest response stand side by side with their verdicts."""
    page = (run / "report.html").read_text()
    sides = re.findall(r'<div class="when"><span>(.*?)</span><span class="verdict.*?">(.*?)</span>', page)
    assert sides == [("before training", "wrong"), ("after 3 steps", "correct")]
    assert '<p class="prompt">a &lt; b</p>' in page


def test_tokens_are_shaded_by_entropy_and_temperature(run):
    """A sure token has no shade; half the full entropy has half the full shade; the hottest token the full one."""
    page = (run / "report.html").read_text()
    tokens = re.findall(r'<i style="--h:([\d.]+);--t:([\d.]+)" title="(.*?)">(.*?)</i>', page)
    assert tokens[0] == ("0.00", "0.00", "entropy 0.000 nats, T = 1.00", "x")
    assert tokens[1] == (f"{SHADE_ENTROPY / 2:.2f}", "0.80", "entropy 0.500 nats, T = 1.50", " &lt;= y")


def test_what_was_drawn_greedily_is_not_shaded_by_temperature(tmp_path):
    """Where every token has the same temperature, the page does not offer to show it."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time/elapsed_s": 1.0}\n')
    for temperatures, offered in (((0.0, 0.0), False), ((0.0, 1.0), True)):
        (tmp_path / "samples.jsonl").unlink(missing_ok=True)
        append_samples(tmp_path / "samples.jsonl", [sample(temperatures=temperatures)])
        assert ('id="temperature"' in write_report(tmp_path).read_text()) is offered


def test_an_unmeasured_run_has_no_report(tmp_path):
    """A folder without metrics is refused in one sentence."""
    with pytest.raises(OrchestrationError, match=r"no metrics\.jsonl"):
        write_report(tmp_path)


def test_a_run_that_was_only_trained_has_a_report(tmp_path):
    """Evaluation, samples and events may all be missing."""
    monitor = Monitor(QUIET, folder=tmp_path, title="t", total_steps=1, run_config={})
    monitor.record({"step": 1, "time/elapsed_s": 1.0, "train/reward": float("nan")})
    monitor.close()
    assert "This run was not evaluated" in (tmp_path / "report.html").read_text()


def test_samples_come_back_as_they_were(tmp_path):
    """What is written to samples.jsonl is read back equal."""
    samples = [sample(), sample(tokens=None, temperatures=None, entropies=None, detail="no\nanswer")]
    append_samples(tmp_path / "samples.jsonl", samples)
    assert read_samples(tmp_path / "samples.jsonl") == samples
    assert len([json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]) == 2


def test_a_sample_keeps_its_arrays_aligned():
    """Three entropies for two tokens are refused."""
    with pytest.raises(ValueError, match="3 of them for 2 tokens"):
        sample(entropies=(0.0, 0.0, 0.0))
