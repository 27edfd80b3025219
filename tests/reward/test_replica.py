"""A verifier's worker as a process: verdicts through it, its death, its end."""

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from reward.config import RewardConfig
from reward.errors import RewardError
from reward.lane import Lane
from reward.messages import Status, VerifyRequest
from reward.replica import Replica

DYING = '''
import os, time
from pathlib import Path
from reward.errors import RewardError
from reward.messages import Status, Verdict

class Dying:
    """Does what a response says; the reference names a file that counts its batches."""
    name = "dying"
    def __init__(self, config):
        pass
    def verify(self, requests):
        for request in requests:
            with open(request.reference["log"], "a") as log:
                log.write(f"{os.getpid()} {request.response}\\n")
            if request.response == "die":
                os._exit(1)
            if request.response == "wait":
                time.sleep(60)
            if request.response == "fail":
                raise KeyError("no such thing")
        return [Verdict(id=one.id, reward=0.5, status=Status.SCORED, seconds=0.0) for one in requests]
    def pids(self):
        return []
    def close(self):
        pass
'''


@pytest.fixture
def log(tmp_path: Path, monkeypatch) -> Path:
    (tmp_path / "dying_verifier.py").write_text(DYING)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path / "log"


def replica() -> Replica:
    return Replica("dying", "dying_verifier:Dying", RewardConfig())


def asked(log: Path, *responses: str, reference: str = "") -> list[VerifyRequest]:
    fields = {"log": str(log), "text": reference}
    return [
        VerifyRequest(id=f"{reference}{index}", verifier="dying", response=response, reference=fields)
        for index, response in enumerate(responses)
    ]


def test_one_response_that_kills_its_judge(log):
    """It costs its own verdict only: `resource` after three processes; its neighbours are scored, in order."""
    worker = replica()
    verdicts = worker.verify(asked(log, "a", "die", "b", "c"))
    worker.close()
    assert [verdict.id for verdict in verdicts] == ["0", "1", "2", "3"]
    assert [verdict.status for verdict in verdicts] == [Status.SCORED, Status.RESOURCE, Status.SCORED, Status.SCORED]
    processes = {line.split()[0] for line in log.read_text().splitlines() if line.endswith("die")}
    assert len(processes) == 1 + 1 + 3  # in the batch, in its half, then alone


def test_a_kill_in_the_middle_costs_a_retry(log):
    """kill -9 while it judges: the verdict comes from a fresh process, once."""
    worker = replica()
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(worker.verify(asked(log, "wait"))))
    waiting.start()
    deadline = time.monotonic() + 20
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    (first,) = worker.pids()
    source = Path(sys.path[0]) / "dying_verifier.py"
    source.write_text(DYING.replace("time.sleep(60)", "pass"))
    os.utime(source, (0, 0))  # a compiled copy of the same second is not taken for it
    os.kill(first, signal.SIGKILL)
    waiting.join(20)
    assert [[verdict.reward for verdict in verdicts] for verdicts in answers] == [[0.5]]
    assert worker.pids() != [first]
    worker.close()


def test_a_fault_of_the_verifier_is_an_error_and_not_a_death(log):
    """What it raises reaches the caller as a RewardError; the process goes on."""
    worker = replica()
    with pytest.raises(RewardError, match="dying failed on a batch of 1 responses.*KeyError"):
        worker.verify(asked(log, "fail"))
    (pid,) = worker.pids()
    assert worker.verify(asked(log, "a"))[0].reward == 0.5
    assert worker.pids() == [pid]
    worker.close()
    assert not psutil.pid_exists(pid)


def test_closing_ends_a_batch_at_work(log):
    """Whoever waits hears of it at once."""
    worker = replica()
    closer = threading.Timer(1.0, worker.close)
    closer.start()
    started = time.monotonic()
    with pytest.raises(RewardError, match="was closed"):
        worker.verify(asked(log, "wait"))
    assert time.monotonic() - started < 10


def test_the_process_ends_with_the_service(log):
    """A service that is killed leaves no process behind."""
    code = (
        "import sys, time; from pathlib import Path; from reward.config import RewardConfig;"
        " from reward.messages import VerifyRequest; from reward.replica import Replica;"
        " worker = Replica('dying', 'dying_verifier:Dying', RewardConfig());"
        f" worker.verify([VerifyRequest(id='1', verifier='dying', response='a', reference={{'log': {str(log)!r}}})]);"
        " print(*worker.pids(), flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with psutil.Popen([sys.executable, "-c", code], stdout=-1, env=environment) as service:
        pid = int(service.stdout.readline())
        service.kill()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not psutil.pid_exists(pid)


def test_a_subject_stays_with_its_worker(log):
    """Two workers divide subjects, not responses; a subject's next responses go to the same process."""

    async def scenario() -> None:
        lane = Lane([replica(), replica()], max_waiting=100)
        for _ in range(3):
            calls = [
                lane.judge([(request,) for request in asked(log, *[subject] * 4, reference=subject)])
                for subject in ("p", "q")
            ]
            answers = await asyncio.gather(*calls)
            assert [[one[0].id for one in units] for units in answers] == [
                [f"{subject}{index}" for index in range(4)] for subject in ("p", "q")
            ]
        await lane.close()

    asyncio.run(scenario())
    pids = {"p": set(), "q": set()}
    for line in log.read_text().splitlines():
        pid, subject = line.split()
        pids[subject].add(pid)
    assert len(pids["p"]) == len(pids["q"]) == 1
    assert pids["p"] != pids["q"]
