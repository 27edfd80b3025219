"""Groups drawn response by response: handed on as they finish, ended on demand, and nothing is left running."""

import asyncio

import pytest

from rollout.draw.temperature import Fixed
from rollout.errors import DeadlineError, RequestError
from rollout.messages import FinishReason, GroupRequest
from rollout.strategies import Plain
from rollout.strategies.samples import SampleBySample, no_plan
from tests.rollout.strategies.fakes import FakeEngine, resources

REQUEST = GroupRequest(group_id="g", prompt_ids=(1, 5), n=3, max_tokens=8, temperature=Fixed())


class SlowEngine(FakeEngine):
    """Each draw of index i (in the name) takes as many turns of the loop as `turns` says; aborts are counted."""

    def __init__(self, turns: dict[str, int]) -> None:
        super().__init__()
        self.turns = turns
        self.ended: list[str] = []
        self.aborted: list[str] = []

    async def generate(self, request):
        try:
            for _ in range(self.turns[request.group_id]):
                await asyncio.sleep(0)
                if request.group_id in self.aborted:
                    break
            async for rollout in super().generate(request):
                yield rollout
        finally:
            self.ended.append(request.group_id)

    async def abort(self, group_id):
        self.aborted.append(group_id)
        return 1


def source_over(engine: FakeEngine, deadline_s: float = 60.0) -> SampleBySample:
    async def sample(draws, plan):
        return await draws.one(engine, max_tokens=2)

    return SampleBySample(sample, no_plan, deadline_s)


def test_the_plain_strategy_is_the_engine():
    """Nothing stands between worker and engine where there is no strategy."""
    engine = FakeEngine()
    assert Plain().over(resources(engine)) is engine


def test_responses_come_as_they_finish():
    """The second is done first and is the first to be handed on; single draws have names of their own."""
    engine = SlowEngine({"g~0.1": 9, "g~1.1": 1, "g~2.1": 5})

    async def names():
        return [rollout.group_id async for rollout in source_over(engine).generate(REQUEST)]

    assert asyncio.run(names()) == ["g~1.1", "g~2.1", "g~0.1"]


def test_whoever_stops_early_ends_the_rest():
    """Closing the iterator cancels every draw, and the group's name is free again."""
    engine = SlowEngine({"g~0.1": 1, "g~1.1": 10**9, "g~2.1": 10**9})
    source = source_over(engine)

    async def first():
        rollouts = source.generate(REQUEST)
        await anext(rollouts)
        await rollouts.aclose()

    asyncio.run(first())
    assert sorted(engine.ended) == ["g~0.1", "g~1.1", "g~2.1"]
    assert source._groups == {}


def test_a_failure_of_one_response_is_the_groups():
    """The error comes out as it is, and the others are cancelled."""
    engine = SlowEngine({"g~0.1": 1, "g~1.1": 10**9})  # none for the third: KeyError

    async def all_of():
        return [rollout async for rollout in source_over(engine).generate(REQUEST)]

    with pytest.raises(KeyError):
        asyncio.run(all_of())
    assert "g~1.1" in engine.ended


def test_abort_ends_running_draws_and_begins_no_others():
    """A strategy that would draw on gets an empty aborted draw instead."""
    engine = SlowEngine({"g~0.1": 10**9})
    seen = []

    async def sample(draws, plan):
        await draws.one(engine, max_tokens=2)
        seen.append(await draws.one(engine, max_tokens=2))
        return seen[-1]

    source = SampleBySample(sample, no_plan, 60.0)

    async def run():
        rollouts = source.generate(GroupRequest(group_id="g", prompt_ids=(1,), n=1, max_tokens=8, temperature=Fixed()))
        waiting = asyncio.ensure_future(anext(rollouts))
        await asyncio.sleep(0.01)
        ended = await source.abort("g")
        rollout = await waiting
        await rollouts.aclose()
        return ended, rollout

    ended, rollout = asyncio.run(run())
    assert (ended, engine.aborted) == (1, ["g~0.1"])
    assert (rollout.finish_reason, len(rollout.response_ids)) == (FinishReason.ABORT, 0)
    assert asyncio.run(source.abort("nobody")) == 0


def test_a_group_is_drawn_once_at_a_time():
    """The same name twice would mix two groups' draws."""
    engine = SlowEngine({f"g~{i}.1": 2 for i in range(3)})
    source = source_over(engine)

    async def twice():
        first = source.generate(REQUEST)
        await anext(first)
        try:
            await anext(source.generate(REQUEST))
        finally:
            await first.aclose()

    with pytest.raises(RequestError, match="give every group its own id"):
        asyncio.run(twice())


def test_a_group_has_a_deadline():
    """What does not finish in time is ended, and the sentence says how many responses were still being made."""
    engine = SlowEngine({"g~0.1": 1, "g~1.1": 10**9, "g~2.1": 10**9})

    async def all_of():
        return [rollout async for rollout in source_over(engine, deadline_s=0.2).generate(REQUEST)]

    with pytest.raises(DeadlineError, match=r"within 0.2 s .*: 2 of its 3 responses still wanted draws"):
        asyncio.run(all_of())
    assert len(engine.ended) == 3
