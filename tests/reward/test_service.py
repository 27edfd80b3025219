"""The pool: order, batching, counts, faults, and processes killed under its hands."""

import asyncio
import os
import shutil
import signal
import threading
import time
from collections.abc import Sequence

import pytest

import reward.service
import reward.verifier
from reward.config import RewardConfig
from reward.errors import NoRoom, RewardError
from reward.lane import Lane
from reward.messages import Status, Verdict, VerifyRequest
from reward.service import VerifierPool, check_tools


class Echo:
    """A fake verifier: the reward is the response; it remembers its batches."""

    name = "echo"
    batches: list[list[str]]

    def __init__(self, config: RewardConfig) -> None:
        self.batches = []

    @staticmethod
    def check(config: RewardConfig) -> None:
        raise RewardError("echo is not installed")

    def verify(self, requests: Sequence[VerifyRequest]) -> list[Verdict]:
        self.batches.append([request.id for request in requests])
        time.sleep(0.05)
        if any(request.response == "fault" for request in requests):
            raise RewardError("the tool is gone")
        return [Verdict(id=one.id, reward=float(one.response), status=Status.SCORED) for one in requests]

    def pids(self) -> list[int]:
        return [1, 2]

    def close(self) -> None:
        pass


@pytest.fixture
def echo(monkeypatch):
    monkeypatch.setattr(reward.service, "verifier_class", lambda name: Echo)


def ask(name: str, *responses: str, reference: dict | None = None) -> list[VerifyRequest]:
    return [
        VerifyRequest(id=str(index), verifier=name, response=response, reference=reference or {})
        for index, response in enumerate(responses)
    ]


@pytest.mark.usefixtures("echo")
def test_order_batches_and_counts():
    """One call is one batch; calls that come while it runs are the next one; verdicts keep their order."""

    async def scenario():
        pool = VerifierPool(RewardConfig())
        first = asyncio.create_task(pool.verify(ask("echo", "0.1", "0.2", "0.3")))
        await asyncio.sleep(0.02)
        later = [asyncio.create_task(pool.verify(ask("echo", "0.4"))) for _ in range(5)]
        rewards = [verdict.reward for verdict in await first]
        await asyncio.gather(*later)
        batches = pool._lanes["echo"]._workers[0].batches
        counts, pids = await pool.counts(), await pool.pids()
        await pool.close()
        return rewards, [len(batch) for batch in batches], counts, pids

    rewards, sizes, counts, pids = asyncio.run(scenario())
    assert rewards == [0.1, 0.2, 0.3]
    assert sizes == [3, 5]
    assert counts == {"scored": 8, "timeout": 0, "resource": 0, "malformed": 0, "error": 0}
    assert pids == [1, 2]


@pytest.mark.usefixtures("echo")
def test_workers_share_a_batch():
    """Two workers take half each."""

    async def scenario():
        pool = VerifierPool(RewardConfig(workers={"echo": 2}))
        await pool.verify(ask("echo", *["0.5"] * 8))
        sizes = [len(batch) for batch in pool._lanes["echo"]._workers[0].batches]
        await pool.close()
        return sizes

    assert sorted(asyncio.run(scenario())) == [4, 4]


@pytest.mark.usefixtures("echo")
def test_a_fault_reaches_its_callers_and_nobody_else():
    """A verifier that breaks raises for the requests of that batch; the pool goes on."""

    async def scenario():
        pool = VerifierPool(RewardConfig())
        with pytest.raises(RewardError, match="the tool is gone"):
            await pool.verify(ask("echo", "0.1", "fault"))
        verdicts = await pool.verify(ask("echo", "0.25"))
        await pool.close()
        return verdicts[0].reward

    assert asyncio.run(scenario()) == 0.25


@pytest.mark.usefixtures("echo")
def test_check_tools_passes_the_sentence_on():
    """What a verifier lacks is known before a run."""
    with pytest.raises(RewardError, match="echo is not installed"):
        check_tools(["echo"], RewardConfig())


def test_unknown_verifier():
    """One sentence names those there are."""
    with pytest.raises(RewardError, match="unknown verifier mth: there are .*math, .*verilog"):
        check_tools(["mth"], RewardConfig())


def test_missing_iverilog(monkeypatch):
    """The sentence names the package."""
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(RewardError, match="iverilog is not installed.*`apt-get install iverilog`"):
        check_tools(["verilog"], RewardConfig())


async def kill_while_waiting(pool: VerifierPool, requests: list[VerifyRequest], kills: int) -> list[Verdict]:
    """Ask, and kill -9 whatever process is at work, a few times."""
    verdicts = asyncio.create_task(pool.verify(requests))
    killed: set[int] = set()
    deadline = time.monotonic() + 30
    while len(killed) < kills and not verdicts.done() and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
        for pid in set(await pool.pids()) - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
            break
    assert len(killed) == kills
    return await verdicts


@pytest.mark.skipif(
    shutil.which("iverilog") is None or shutil.which("bwrap") is None, reason="no iverilog or bubblewrap"
)
def test_kill_of_a_simulation():
    """kill -9 of a simulation costs a retry: the verdicts arrive all the same, once each."""
    slow = (
        "module m(input a, output y); reg q; integer i;"
        " always @* begin q = a; for (i = 0; i < 300000; i = i + 1) q = ~q; end assign y = q; endmodule"
    )
    reference = {"reference_source": "module m(input a, output y); assign y = a; endmodule", "top_module": "m"}

    async def scenario():
        pool = VerifierPool(RewardConfig())
        requests = ask("verilog", slow, reference["reference_source"], reference=reference)
        verdicts = await kill_while_waiting(pool, requests, kills=2)
        await pool.close()
        return verdicts

    verdicts = asyncio.run(scenario())
    assert [(verdict.id, verdict.status) for verdict in verdicts] == [("0", Status.SCORED), ("1", Status.SCORED)]
    assert verdicts[1].reward == 1.0


def test_kill_of_a_math_process():
    """kill -9 of a math process costs a fresh one: the verdict arrives all the same."""

    async def scenario():
        pool = VerifierPool(RewardConfig())
        requests = ask("math", r"\boxed{(x+1)^2}", r"\boxed{2x+1}", reference={"answer": "x^2+2x+1"})
        await pool.verify(requests[:1])
        (pid,) = await pool.pids()
        os.kill(pid, signal.SIGKILL)
        verdicts = await pool.verify(requests[1:])
        fresh = await pool.pids()
        await pool.close()
        return verdicts, pid, fresh

    verdicts, pid, fresh = asyncio.run(scenario())
    assert (verdicts[0].status, verdicts[0].reward) == (Status.SCORED, 0.0)
    assert fresh
    assert pid not in fresh


def test_the_registry_names_what_exists():
    """Every registered verifier can be imported and is called what the registry says."""
    for name in reward.verifier.VERIFIERS:
        assert reward.verifier.verifier_class(name).name == name


def test_a_request_in_the_moment_a_runner_ends_is_judged():
    """Asking again as soon as a verdict arrives meets a runner that has just seen an empty queue: nothing hangs."""

    async def one_after_the_other() -> list[Verdict]:
        lane = Lane([Echo(RewardConfig())], max_waiting=10)
        async with asyncio.timeout(5):
            verdicts = [(await lane.judge([(request,)]))[0][0] for request in ask("echo", "0", "1", "0.5")]
        await lane.close()
        return verdicts

    assert [verdict.reward for verdict in asyncio.run(one_after_the_other())] == [0.0, 1.0, 0.5]


def held(monkeypatch) -> tuple[threading.Event, list[list[VerifyRequest]]]:
    """A verifier under every name, whose batches wait for an event; and the batches it got."""
    go, batches = threading.Event(), []

    class Held(Echo):
        def verify(self, requests: Sequence[VerifyRequest]) -> list[Verdict]:
            batches.append(list(requests))
            if requests[0].verifier == "slow":
                assert go.wait(20)
            return [Verdict(id=one.id, reward=0.5, status=Status.SCORED) for one in requests]

        def close(self) -> None:
            go.set()

    monkeypatch.setattr(reward.service, "verifier_class", lambda name: Held)
    return go, batches


def grouped(*members: tuple[str, str | None], verifier: str = "echo") -> list[VerifyRequest]:
    return [
        VerifyRequest(id=str(index), verifier=verifier, response=response, reference={}, group=group)
        for index, (response, group) in enumerate(members)
    ]


def test_a_group_reaches_the_verifier_in_one_batch(monkeypatch):
    """Five workers would share ten requests; those of a group stay together, and others are told apart by call."""
    _, batches = held(monkeypatch)
    members = [("a", "g"), ("b", None), ("c", "h"), ("d", "g"), ("e", "g"), ("f", "h"), ("g", "g")]

    async def scenario():
        pool = VerifierPool(RewardConfig(default_workers=5))
        verdicts = await asyncio.gather(pool.verify(grouped(*members)), pool.verify(grouped(("x", "g"))))
        await pool.close()
        return verdicts

    first, _ = asyncio.run(scenario())
    assert [verdict.id for verdict in first] == [str(index) for index in range(7)]
    together = [{one.response for one in batch if one.group is not None} for batch in batches]
    assert sum({"a", "d", "e", "g"} <= batch for batch in together) == 1
    assert sum({"c", "f"} <= batch for batch in together) == 1
    names = {one.response: one.group for batch in batches for one in batch}
    assert names["a"] == names["d"] == names["e"] == names["g"] != names["c"] == names["f"]
    assert names["x"] != names["a"]  # the other caller's group of the same name
    assert names["b"] is None


def test_a_caller_with_too_much_waits_for_room(monkeypatch):
    """At most `max_waiting` responses wait; the rest of the call comes in as the queue moves; nothing is lost."""
    go, _ = held(monkeypatch)

    async def scenario():
        pool = VerifierPool(RewardConfig(max_waiting=4))
        call = asyncio.create_task(pool.verify(ask("slow", *["x"] * 30)))
        await asyncio.sleep(0.05)
        load, room = (await pool.load())["slow"], await pool.room("slow")
        with pytest.raises(NoRoom, match="responses wait for the verifier echo and at most 4 may"):
            await pool.verify(ask("slow", "x"), wait=False)
        go.set()
        verdicts = await call
        done = await pool.verify(ask("slow", "x"), wait=False)
        await pool.close()
        return load, room, verdicts, done

    load, room, verdicts, done = asyncio.run(scenario())
    assert load.waiting == 4
    assert load.busy >= 1
    assert room == 0
    assert [verdict.id for verdict in verdicts] == [str(index) for index in range(30)]
    assert len(done) == 1


def test_without_waiting_all_or_nothing_is_taken(monkeypatch):
    """One full lane refuses the whole call: no part of it is judged."""
    go, batches = held(monkeypatch)

    async def scenario():
        pool = VerifierPool(RewardConfig(max_waiting=2))
        waiting = [asyncio.create_task(pool.verify(ask("slow", "x"))) for _ in range(5)]
        await asyncio.sleep(0.05)
        with pytest.raises(NoRoom):
            await pool.verify([*ask("quick", "never"), *ask("slow", "y")], wait=False)
        go.set()
        await asyncio.gather(*waiting)
        await pool.close()

    asyncio.run(scenario())
    assert not any(one.response == "never" for batch in batches for one in batch)


def test_a_flood_of_one_verifier_does_not_block_another(monkeypatch):
    """While one lane is full and stuck, another answers."""
    go, _ = held(monkeypatch)

    async def scenario():
        pool = VerifierPool(RewardConfig(max_waiting=2))
        flood = asyncio.create_task(pool.verify(ask("slow", *["x"] * 50)))
        await asyncio.sleep(0.02)
        async with asyncio.timeout(5):
            quick = await pool.verify(ask("quick", "x"))
        assert not flood.done()
        go.set()
        await flood
        await pool.close()
        return quick

    assert asyncio.run(scenario())[0].reward == 0.5


def test_a_group_larger_than_the_queue_is_judged_all_the_same(monkeypatch):
    """Whole groups go in when nothing waits, so none waits for ever."""
    _, batches = held(monkeypatch)

    async def scenario():
        pool = VerifierPool(RewardConfig(max_waiting=3))
        await pool.verify(grouped(*[("x", "g")] * 10, ("y", None)))
        await pool.close()

    asyncio.run(scenario())
    assert max(map(len, batches)) == 10


def test_what_nobody_waits_for_is_not_judged(monkeypatch):
    """A caller that goes away takes its waiting requests along."""
    go, batches = held(monkeypatch)

    async def scenario():
        pool = VerifierPool(RewardConfig())
        first = asyncio.create_task(pool.verify(ask("slow", "first")))
        await asyncio.sleep(0.02)
        gone = asyncio.create_task(pool.verify(ask("slow", "gone")))
        await asyncio.sleep(0.02)
        gone.cancel()
        await asyncio.sleep(0.02)
        go.set()
        await first
        await pool.verify(ask("slow", "last"))
        await pool.close()

    asyncio.run(scenario())
    assert [one.response for batch in batches for one in batch] == ["first", "last"]


def test_closing_tells_whoever_waits(monkeypatch):
    """A request in the queue, and one at the door, get a RewardError instead of silence."""
    held(monkeypatch)

    async def scenario():
        pool = VerifierPool(RewardConfig(max_waiting=1))
        calls = [asyncio.create_task(pool.verify(ask("slow", "x"))) for _ in range(4)]
        await asyncio.sleep(0.05)
        await pool.close()
        return await asyncio.gather(*calls, return_exceptions=True)

    at_work, *waiting = asyncio.run(scenario())
    assert at_work[0].reward == 0.5
    assert [type(error) for error in waiting] == [RewardError] * 3
    assert all("closed before" in str(error) for error in waiting)


@pytest.mark.usefixtures("echo")
def test_what_no_verifier_sees():
    """A response past the bound is `resource`, one that is no text `malformed`; both are counted by verifier."""

    async def scenario():
        pool = VerifierPool(RewardConfig(max_response_chars=3))
        verdicts = await pool.verify(ask("echo", "0.25", "\ud800", "0.5"))
        seen = [one for batch in pool._lanes["echo"]._workers[0].batches for one in batch]
        counts, by_verifier = await pool.counts(), await pool.counts_by_verifier()
        await pool.close()
        return verdicts, seen, counts, by_verifier

    verdicts, seen, counts, by_verifier = asyncio.run(scenario())
    assert [verdict.status for verdict in verdicts] == [Status.RESOURCE, Status.MALFORMED, Status.SCORED]
    assert verdicts[0].detail == "the response has 4 characters, and more than 3 are not read"
    assert seen == ["2"]
    assert counts == {"scored": 1, "timeout": 0, "resource": 1, "malformed": 1, "error": 0}
    assert by_verifier == {"echo": counts}


@pytest.mark.parametrize("answer", ["too few", "other ids", "a bug"])
def test_a_strangers_verifier_that_breaks_its_promise(monkeypatch, answer):
    """Too few verdicts, verdicts of others, or an exception of any kind: a RewardError that names the verifier."""

    class Broken(Echo):
        def verify(self, requests):
            if answer == "a bug":
                raise KeyError("answer")
            verdicts = [Verdict(id="7", reward=1.0, status=Status.SCORED) for _ in requests]
            return verdicts[1:] if answer == "too few" else verdicts

    monkeypatch.setattr(reward.service, "verifier_class", lambda name: Broken)

    async def scenario():
        pool = VerifierPool(RewardConfig())
        async with asyncio.timeout(5):
            with pytest.raises(RewardError, match="the verifier echo .*(KeyError: 'answer'|one verdict per request)"):
                await pool.verify(ask("echo", "a", "b"))
        await pool.close()

    asyncio.run(scenario())


def test_composed_requests_are_taken_apart_and_put_together():
    """Every part is judged by its verifier; a reference that makes no sense is a verdict `error`, counted as such."""
    reference = {
        "parts": {
            "right": {"verifier": "math", "weight": 3.0, "reference": {"answer": "7"}},
            "other": {"verifier": "math", "weight": 1.0, "reference": {"answer": "8"}},
        }
    }

    async def scenario():
        pool = VerifierPool(RewardConfig())
        verdicts = await pool.verify(
            [
                *ask("composed", r"\boxed{7}", reference=reference),
                *ask("composed", "x"),
                *ask("math", "", reference={"answer": "7"}),
            ]
        )
        counts = await pool.counts_by_verifier()
        await pool.close()
        return verdicts, counts

    (sum_of_parts, senseless, plain), counts = asyncio.run(scenario())
    assert (sum_of_parts.id, sum_of_parts.status, sum_of_parts.reward) == ("0", Status.SCORED, 0.75)
    assert senseless.status is Status.ERROR
    assert plain.status is Status.MALFORMED
    assert counts["composed"] == {"scored": 1, "timeout": 0, "resource": 0, "malformed": 0, "error": 1}
    assert sum(counts["math"].values()) == 1


def test_an_unknown_verifier_stops_the_call_before_anything_is_judged(monkeypatch):
    """The known verifiers of the same call see nothing."""

    async def scenario():
        pool = VerifierPool(RewardConfig())
        with pytest.raises(RewardError, match="unknown verifier nope"):
            await pool.verify([*ask("math", "7", reference={"answer": "7"}), *ask("nope", "x")])
        load = await pool.load()
        await pool.close()
        return load

    assert all(lane.waiting + lane.busy == 0 for lane in asyncio.run(scenario()).values())
