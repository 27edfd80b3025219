"""The pool: order, batching, counts, faults, and processes killed under its hands."""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Sequence

import pytest

import reward.service
import reward.verifier
from reward.config import RewardConfig
from reward.errors import RewardError
from reward.messages import Status, Verdict, VerifyRequest
from reward.service import Lane, VerifierPool, check_tools


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
        batches = pool._lanes["echo"].verifier.batches
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
        sizes = [len(batch) for batch in pool._lanes["echo"].verifier.batches]
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
    with pytest.raises(RewardError, match="unknown verifier mth: there are math, reasoning_gym, verilog"):
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
        lane = Lane(Echo(RewardConfig()), workers=1)
        async with asyncio.timeout(5):
            verdicts = [await lane.judge(request) for request in ask("echo", "0", "1", "0.5")]
        await lane.close()
        return verdicts

    assert [verdict.reward for verdict in asyncio.run(one_after_the_other())] == [0.0, 1.0, 0.5]
