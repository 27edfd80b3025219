"""The real W&B library, without a network: it records offline and never holds a run up."""

import time

from orchestration.monitor import wandb_log
from orchestration.monitor.wandb_log import WandbLog


def test_offline_rows_are_in_the_run_folder(tmp_path):
    """A run without a key leaves a W&B file to upload later, in the run folder."""
    folder = tmp_path / "quickstart" / "s0"
    folder.mkdir(parents=True)
    log = WandbLog(folder=folder, project="temper", name="t", config={"a": {"b": 1}}, online=False)
    log.write({"step": 2, "train/reward": 0.5})
    log.write({"step": 1, "eval/pass@1": 0.5})
    log.close()
    files = list(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 1
    deadline = time.monotonic() + 20.0  # W&B's own process writes the file
    while b"eval/pass@1" not in files[0].read_bytes() and time.monotonic() < deadline:
        time.sleep(0.02)
    content = files[0].read_bytes()
    assert b"train/reward" in content
    assert b"eval/pass@1" in content


class Stuck:
    def finish(self):
        time.sleep(5)


def test_an_upload_that_does_not_end_is_left_behind(tmp_path, monkeypatch, caplog):
    """Past the deadline the run goes on, and the log says where the data is and how to upload it."""
    monkeypatch.setattr(wandb_log, "UPLOAD_DEADLINE_S", 0.05)
    log = WandbLog.__new__(WandbLog)
    log._run, log._folder = Stuck(), tmp_path
    started = time.monotonic()
    log.close()
    assert time.monotonic() - started < 2
    assert "wandb sync" in caplog.text
