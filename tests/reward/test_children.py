"""Worker processes: what they answer, what they cannot do, and what it costs to kill them."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

import reward.children
from reward.children import ATTEMPTS, Children
from reward.config import ChildConfig, RewardConfig
from reward.deadline import Deadline
from reward.errors import ToolError

TARGET = "hostile_target:judge"
PROMPT_S = 5.0  # far below any deadline here that is not meant to pass, far above what a fork takes
isolations = pytest.mark.parametrize(
    "isolation",
    [
        "unsafe",
        pytest.param("bubblewrap", marks=pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bubblewrap")),
    ],
    scope="module",
)


@pytest.fixture(scope="module", autouse=True)
def importable():
    """The target is found as any module is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        yield


@pytest.fixture(scope="module")
def shared(isolation):
    """One template for all tests that leave it alive."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECRET_TOKEN", "sesame")
        children = Children(TARGET, config(isolation), {"act": "echo"})
        children.warm()
    yield children
    children.close()


@pytest.fixture
def build(isolation):
    """Make Children that end with the test."""
    built = []

    def make(target=TARGET, **child):
        built.append(Children(target, config(isolation, **child), {"act": "echo"}))
        return built[-1]

    yield make
    for children in built:
        children.close()


def config(isolation, **child):
    return RewardConfig(sandbox=isolation, child=ChildConfig(memory_bytes=1 << 30, **child))


def ask(children, act, *arguments, within_s=30.0):
    return children.ask({"act": act, "with": arguments}, Deadline.after(within_s))


def below(children):
    """Every process below the template's outermost one, but those that make up an idle template."""
    assert children.template_pid is not None
    return psutil.Process(children.template_pid).children(recursive=True)


def eventually(condition, within_s=PROMPT_S):
    deadline = Deadline.after(within_s)
    while not condition() and not deadline.passed:
        time.sleep(0.005)
    assert condition()


def gone(pid):
    """It has ended, and been waited for where its parent was one of ours."""
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE and process.ppid() == 1
    except psutil.NoSuchProcess:
        return True


@isolations
def test_one_worker_answers_one_after_the_other(shared):
    """The same process judges again and again, and its answer is what the function returned."""
    answers = [ask(shared, "echo", value) for value in ("a", {"b": [1, 2.5, None]}, "ü\n\ud800")]
    assert [answer["said"] for answer in answers] == ["a", {"b": [1, 2.5, None]}, "ü\n\ud800"]
    assert len({answer["pid"] for answer in answers}) == 1
    assert len(shared.pids()) == 1


@isolations
def test_a_worker_sees_nothing_it_does_not_need(shared, isolation, tmp_path):
    """No variable, descriptor, input or folder of the service; sandboxed, no file of its user and no network either."""
    canary = tmp_path / "canary"
    canary.write_text("sing")
    with socket.create_server(("127.0.0.1", 0)) as server:
        seen = ask(shared, "look", str(canary), server.getsockname()[1])
    allowed = {"PATH", "HOME", "LC_ALL", "PYTHONPATH", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PWD", "LC_CTYPE"}
    assert set(seen["environment"]) <= allowed
    assert (seen["folder"], seen["descriptors"], seen["input"]) == ("/", [0, 1, 2, 3], "")
    assert seen["main_thread"]
    assert seen["memory"] == 1 << 30
    assert 30 <= seen["cpu"] <= 60
    assert (seen["file"], seen["network"]) == ((False, False) if isolation == "bubblewrap" else (True, True))


@isolations
@pytest.mark.parametrize(
    ("act", "arguments", "status"),
    [
        ("null", [], "resource"),
        ("vanish", [], "resource"),
        ("memory", [], "resource"),
        ("recursion", [], "resource"),
        ("leave", [], "error"),
        ("fault", [], "error"),
        ("no_json", [], "error"),
        ("write", [], "error"),
        ("no_object", [], "resource"),
        ("odd_status", [], "resource"),
        ("garbage", [], "resource"),
        ("forged", [], "resource"),
        ("early", [], "resource"),
        ("flood", [], "resource"),
        ("close", [], "resource"),
        ("big", [8 << 20], "resource"),
    ],
)
def test_harm_is_a_status(shared, act, arguments, status):
    """A payload that breaks its worker gets a status and a sentence, and the next payload is judged."""
    answer = ask(shared, act, *arguments)
    assert (answer["status"], len(answer["detail"]) < 300) == (status, True)
    assert ask(shared, "echo", "next")["said"] == "next"


@isolations
@pytest.mark.parametrize("act", ["power", "stop", "deaf"])
def test_the_deadline_kills(shared, act):
    """What never answers is killed on time, whether it computes, is stopped or ignores signals."""
    started = time.monotonic()
    answer = ask(shared, act, within_s=0.3)
    assert answer["status"] == "timeout"
    assert 0.3 <= time.monotonic() - started < 0.3 + 0.5
    assert shared.pids() == []
    assert ask(shared, "echo", "next")["said"] == "next"


@isolations
def test_answers_larger_than_a_pipe_and_noise_on_the_standard_streams(shared):
    """A long answer arrives whole, and what a library prints is no part of an answer."""
    assert ask(shared, "big", 3 << 20)["said"] == "x" * (3 << 20)
    assert "said" in ask(shared, "prints")


@isolations
def test_a_stopped_worker_cannot_make_the_service_wait(shared):
    """A payload larger than a pipe, for a worker that does not read, costs the deadline and no more."""
    ask(shared, "echo")
    for pid in shared.pids():
        os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    assert ask(shared, "echo", "x" * (4 << 20), within_s=0.3)["status"] == "timeout"
    assert time.monotonic() - started < 0.8


@isolations
def test_no_json_is_an_error_of_the_caller(shared):
    """A payload that cannot be sent becomes a status, not an exception."""
    assert ask(shared, "echo", object())["status"] == "error"


@isolations
def test_threads_get_their_own_answers(shared):
    """Callers at the same time have a worker each, and none hears the other's answer."""

    def one(number):
        return [ask(shared, "echo", [number, turn])["said"] for turn in range(200)]

    with ThreadPoolExecutor(4) as threads:
        for number, said in enumerate(threads.map(one, range(4))):
            assert said == [[number, turn] for turn in range(200)]
    assert 1 <= len(shared.pids()) <= 4


@isolations
@pytest.mark.parametrize("hang", [True, False])
def test_what_a_worker_starts_dies_with_it(build, hang):
    """Children of a worker, in its process group or out of it, end when it is killed; or it can start none at all."""
    children = build()
    children.warm()
    idle = len(below(children))
    answer = ask(children, "fork", hang, within_s=0.5)
    if not hang:
        for pid in children.pids():
            os.kill(pid, signal.SIGKILL)
    assert answer.get("status") in ("timeout", "error") if hang else answer.get("status") in (None, "error")
    eventually(lambda: len([one for one in below(children) if one.pid not in children.pids()]) <= idle)


@isolations
@pytest.mark.parametrize("end", ["close", "killed service"])
def test_what_a_worker_starts_dies_with_the_template(build, end):
    """Closing the verifier, or losing the service, ends what workers started too."""
    children = build()
    ask(children, "fork", True, within_s=0.2)
    ask(children, "fork", False)
    started = below(children)
    if end == "close":
        children.close()
    else:
        os.kill(children.template_pid, signal.SIGTERM)  # the kernel's message to it that its parent died
    eventually(lambda: not any(process.is_running() and not gone(process.pid) for process in started))


@isolations
def test_an_heir_on_the_channel_is_no_worker(build):
    """A worker that ends is seen to, though a process it started keeps the channel open."""
    started = time.monotonic()
    assert ask(build(), "die_with_heir")["status"] in ("resource", "error")
    assert time.monotonic() - started < PROMPT_S


@isolations
@pytest.mark.parametrize("victims", ["worker", "template", "both"])
def test_kill_mid_verdict(build, victims):
    """kill -9 costs a retry: one answer arrives all the same, from a fresh worker."""
    children = build()
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(ask, children, "sleep", 0.3)
        eventually(lambda: children.pids())
        time.sleep(0.1)
        (worker,), template = children.pids(), children.template_pid
        for pid in {"worker": [worker], "template": [template], "both": [template, worker]}[victims]:
            os.kill(pid, signal.SIGKILL)
        assert set(answer.result()) == {"said", "pid"}
    assert worker not in children.pids()
    eventually(lambda: gone(worker))
    assert (template == children.template_pid) == (victims == "worker")
    assert gone(template) == (victims != "worker")


@isolations
def test_kill_of_the_innermost_template_and_of_idle_workers(build):
    """The process that forks, killed inside its sandbox, is replaced with all it had forked, however many they are."""
    children, many = build(), ATTEMPTS + 1
    with ThreadPoolExecutor(many) as threads:
        list(threads.map(lambda _: ask(children, "sleep", 0.2), range(many)))
    workers = children.pids()
    assert len(workers) == many
    os.kill(psutil.Process(workers[0]).ppid(), signal.SIGKILL)
    eventually(lambda: all(map(gone, workers)))
    assert children.pids() == []
    assert ask(children, "echo", 1)["said"] == 1


@isolations
def test_kills_at_any_moment(build):
    """Under random kills of workers and templates, every payload gets its own answer exactly once."""
    children = build()
    children.warm()
    over = threading.Event()

    def kill():
        for turn in range(1000):
            if over.wait(0.03):
                return
            victims = [children.template_pid] if turn % 8 == 7 else children.pids()[:1]
            for pid in victims:
                if pid is not None and psutil.pid_exists(pid):
                    os.kill(pid, signal.SIGKILL)

    with ThreadPoolExecutor(1) as threads:
        killer = threads.submit(kill)
        answers = [ask(children, "sleep", 0.001) if turn % 2 else ask(children, "echo", turn) for turn in range(300)]
        over.set()
        killer.result()
    assert [answer["said"] for answer in answers] == [None if turn % 2 else turn for turn in range(300)]


@isolations
def test_a_template_killed_while_it_starts(build):
    """Nobody notices but by the clock."""
    children = build()

    def killed() -> bool:
        with contextlib.suppress(ProcessLookupError):  # it tries one way to start after the other
            if (pid := children.template_pid) is not None:
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    eventually(killed)
    assert ask(children, "echo", 1)["said"] == 1


@isolations
def test_a_stopped_template_is_replaced(build, monkeypatch):
    """A template that does not fork in time is killed, and the payload judged by a worker of the next one."""
    monkeypatch.setattr(reward.children, "FORK_S", 0.6)
    children = build(verdicts=1)
    assert ask(children, "sleep", 0)["pid"]
    first = children.template_pid
    for process in (psutil.Process(first), *below(children)):
        with contextlib.suppress(psutil.NoSuchProcess):  # the worker that has done its share
            process.suspend()
    assert ask(children, "echo", 1)["said"] == 1
    assert children.template_pid != first


@isolations
def test_ten_thousand_verdicts_leave_nothing(build):
    """Workers are replaced after their share; no descriptor, process, zombie or memory is left behind."""
    children = build(verdicts=500)
    children.warm()
    me, pids = psutil.Process(), set()
    idle, descriptors = len(below(children)), me.num_fds()
    for _ in range(1000):
        pids.add(ask(children, "echo")["pid"])
    memory = me.memory_info().rss
    for _ in range(9000):
        pids.add(ask(children, "echo")["pid"])
    assert len(pids) == 20
    assert me.num_fds() <= descriptors
    assert me.memory_info().rss - memory < 8 << 20
    eventually(lambda: len(below(children)) <= idle)
    template = children.template_pid
    children.close()
    assert gone(template)
    assert me.num_fds() < descriptors


@isolations
def test_workers_die_with_the_service(isolation):
    """A service killed with -9 leaves no process behind, whatever they are doing."""
    program = (
        "import sys, time; from reward.children import Children; from reward.config import RewardConfig;"
        "from reward.deadline import Deadline; import threading;"
        f"children = Children({TARGET!r}, RewardConfig(sandbox={isolation!r}));"
        "threading.Thread(target=children.ask, args=({'act': 'deaf'}, Deadline.after(60)), daemon=True).start()\n"
        "while not children.pids(): time.sleep(0.01)\n"
        "print(children.template_pid, *children.pids(), flush=True); time.sleep(60)"
    )
    service = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    with service:
        assert service.stdout is not None
        pids = list(map(int, service.stdout.readline().split()))
        service.kill()
    assert len(pids) == 2
    for pid in pids:
        eventually(lambda pid=pid: gone(pid))


@isolations
def test_close_tells_those_who_wait(build):
    """A verifier that is closed does not keep its callers until the deadline."""
    children = build()
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(ask, children, "sleep", 60)
        eventually(lambda: children.pids())
        children.close()
        assert answer.result(timeout=PROMPT_S)["status"] == "error"
    assert children.pids() == []


@isolations
def test_a_deadline_already_over(shared):
    """No time, no verdict: a fault of ours."""
    assert ask(shared, "echo", within_s=0.0)["status"] == "error"


@isolations
@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("import no_such_library", "cannot start .*No module named 'no_such_library'.*-c 'import broken_target'"),
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()", "1 threads"),
        ("import time\ntime.sleep(60)", "not ready after 0.7 s"),
    ],
)
def test_a_template_that_cannot_start(build, monkeypatch, tmp_path, source, sentence):
    """Missing libraries, threads before the fork and an import without end are each one sentence."""
    (tmp_path / "broken_target.py").write_text(f"{source}\ndef judge(payload): return {{}}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    children = build("broken_target:judge", start_s=0.7)
    with pytest.raises(ToolError, match=sentence) as error:
        children.warm()
    assert "\n" not in str(error.value)
    with pytest.raises(ToolError, match=sentence):
        ask(children, "echo")


def test_an_unknown_target_is_told_at_once():
    """The module is looked for before any process starts."""
    with pytest.raises(ToolError, match="no module missing_target"):
        Children("missing_target:judge", config("unsafe"))
