"""A group's life with a fake engine that draws one token a tick: streaming, abort, deadline, loss; nothing leaks."""

import asyncio
import time
from contextlib import aclosing
from dataclasses import replace

import numpy as np
import pytest

from rollout.continuation import not_begun
from rollout.draw.temperature import Fixed
from rollout.errors import DeadlineError, EngineLostError, RequestError
from rollout.groups import Groups
from rollout.health import health_of
from rollout.messages import FinishReason, GroupRequest, Rollout, VersionSpan

TICK_S = 0.002


class Ticking:
    """Response i of a group stops after lengths[i] tokens, or at max_tokens; token t of a response is t + 1."""

    def __init__(self, lengths=()):
        self.lengths = lengths
        self.version = 0
        self.inside: dict[tuple[str, int], list[bool]] = {}  # -> [was it asked to stop?]
        self.most_inside = 0
        self.order: list[str] = []
        self.lost = asyncio.Event()
        self.frozen = False

    async def draw(self, request: GroupRequest, index: int) -> Rollout:
        key = (request.group_id, index)
        stop = self.inside[key] = [False]
        self.most_inside = max(self.most_inside, len(self.inside))
        self.order.append(request.group_id)
        length = self.lengths[index] if self.lengths else request.max_tokens
        versions = []
        try:
            while len(versions) < min(length, request.max_tokens) and not stop[0]:
                await asyncio.sleep(TICK_S)
                if self.lost.is_set():
                    raise EngineLostError("rollout-0 lost its engine")
                if not self.frozen:
                    versions.append(self.version)
            reason = FinishReason.ABORT if stop[0] else FinishReason.STOP
            return drawn(request, index, versions, reason)
        finally:
            del self.inside[key]

    async def stop(self, request: GroupRequest, index: int) -> None:
        self.inside[request.group_id, index][0] = True


def drawn(request: GroupRequest, index: int, versions: list[int], reason: FinishReason) -> Rollout:
    count, first = len(versions), len(request.prompt_ids)
    numbers = np.arange(first, first + count, dtype=np.float32)  # its own place in the text, so joins can be checked
    spans = tuple(
        VersionSpan(
            version=version, start=versions.index(version), end=versions.index(version) + versions.count(version)
        )
        for version in sorted(set(versions))
    )
    return replace(
        not_begun(request, index),
        response_ids=numbers.astype(np.int32),
        sampler_logprobs=-numbers,
        temperatures=numbers + 0.5,
        entropies=numbers + 0.25,
        spans=spans,
        finish_reason=reason,
        drafted_tokens=3,
        accepted_histogram=(1, 0, count),
    )


def text(ids) -> str:
    return " ".join(map(str, ids))


def ask(name="g", n=3, max_tokens=1000, **more) -> GroupRequest:
    return GroupRequest(group_id=name, prompt_ids=(7, 8), n=n, max_tokens=max_tokens, temperature=Fixed(), **more)


def groups_of(core: Ticking, capacity=8, deadline_s=20.0) -> Groups:
    return Groups(core, capacity, deadline_s, text)


def nothing_left(core: Ticking, groups: Groups) -> bool:
    return not core.inside and (groups.admission.inside, groups.admission.waiting, groups._groups) == (0, 0, {})


async def collect(groups: Groups, request: GroupRequest) -> list[Rollout]:
    return [rollout async for rollout in groups.generate(request)]


def test_each_response_arrives_when_it_is_finished():
    """The shortest comes first, long before the longest; the group ends with the last."""

    async def run():
        core = Ticking(lengths=(60, 2, 20))
        groups = groups_of(core)
        began, seen = time.perf_counter(), []
        async for rollout in groups.generate(ask()):
            seen.append((rollout.index, len(rollout.response_ids), time.perf_counter() - began))
        assert [(index, length) for index, length, _ in seen] == [(1, 2), (2, 20), (0, 60)]
        assert seen[0][2] < 0.5 * seen[2][2]
        assert nothing_left(core, groups)

    asyncio.run(run())


def test_the_oldest_group_goes_first_and_the_bound_holds():
    """40 responses through 4 places: never more than 4 inside, entered in order of age whatever order they came in."""

    async def run():
        core = Ticking()
        groups = groups_of(core, capacity=4)
        requests = [ask(f"{age}", n=4, max_tokens=3, priority=age) for age in (8, 3, 9, 1, 4, 0, 7, 2, 6, 5)]
        tasks = [asyncio.create_task(collect(groups, request)) for request in requests]
        await asyncio.sleep(0)
        finished = await asyncio.gather(*tasks)
        assert [len(group) for group in finished] == [4] * 10
        assert core.most_inside == 4
        # Group 8 came first and found the engine empty; everybody else was in line by then.
        assert core.order == ["8"] * 4 + [f"{age}" for age in (0, 1, 2, 3, 4, 5, 6, 7, 9) for _ in range(4)]
        assert nothing_left(core, groups)

    asyncio.run(run())


def test_abort_yields_what_there_is_and_the_rest_can_go_on():
    """Running responses keep their tokens, waiting ones have none; continued, records join and versions follow."""

    async def run():
        core = Ticking()
        groups = groups_of(core, capacity=2)
        request = ask(n=3, max_tokens=40)
        task = asyncio.create_task(collect(groups, request))
        await asyncio.sleep(10 * TICK_S)
        assert await groups.abort("g") == 3
        partial = await task
        assert {rollout.finish_reason for rollout in partial} == {FinishReason.ABORT}
        lengths = {rollout.index: len(rollout.response_ids) for rollout in partial}
        assert 0 < lengths[0] < 40
        assert 0 < lengths[1] < 40
        assert lengths[2] == 0
        assert nothing_left(core, groups)
        assert groups.aborted == 3
        core.version = 5
        whole = await collect(groups, ask("again", n=3, max_tokens=40, partial=tuple(partial)))
        assert sorted(rollout.index for rollout in whole) == [0, 1, 2]
        for rollout in whole:
            before = lengths[rollout.index]
            places = np.arange(2, 42)
            assert rollout.response_ids.tolist() == places.tolist()
            assert rollout.sampler_logprobs.tolist() == (-places).tolist()
            assert rollout.temperatures.tolist() == (places + 0.5).tolist()
            assert rollout.entropies.tolist() == (places + 0.25).tolist()
            assert rollout.versions.tolist() == [0] * before + [5] * (40 - before)
            assert rollout.text == text(places)
            assert (rollout.group_id, rollout.prompt_ids, rollout.finish_reason) == ("again", (7, 8), FinishReason.STOP)
            assert rollout.drafted_tokens == (6 if before else 3)

    asyncio.run(run())


def test_an_abort_waits_for_nobody_else():
    """A group in line behind another one's long responses, and one that has not even joined it, end at once."""

    async def run():
        core = Ticking()
        groups = groups_of(core, capacity=2)
        other = asyncio.create_task(collect(groups, ask("other", n=2)))
        in_line = asyncio.create_task(collect(groups, ask("in line")))
        await asyncio.sleep(3 * TICK_S)
        assert await groups.abort("in line") == 3
        partial = await asyncio.wait_for(in_line, 20 * TICK_S)
        assert [len(rollout.response_ids) for rollout in partial] == [0, 0, 0]
        await groups.abort("other")
        await other
        early = asyncio.create_task(collect(groups, ask("early")))
        await asyncio.sleep(0)  # its responses are tasks now, none of which has run
        assert await groups.abort("early") == 3
        assert [len(rollout.response_ids) for rollout in await asyncio.wait_for(early, 20 * TICK_S)] == [0, 0, 0]
        assert core.order == ["other", "other"]
        assert nothing_left(core, groups)

    asyncio.run(run())


@pytest.mark.parametrize("how", ["abort", "cancel"])
def test_a_place_is_given_back_that_came_too_late(how):
    """A response is called in the very moment in which its group ends: it does not draw, and its place is free."""

    async def run():
        core = Ticking()
        groups = groups_of(core, capacity=1)
        await groups.admission.join(0)
        task = asyncio.create_task(collect(groups, ask("g", n=1)))
        await asyncio.sleep(TICK_S)
        assert groups.admission.waiting == 1
        groups.admission.leave()  # calls the response, which has not run yet
        if how == "abort":
            await groups.abort("g")
            assert [len(rollout.response_ids) for rollout in await task] == [0]
        else:
            groups._groups["g"].tasks[0].cancel()
            await asyncio.wait({task})
        assert core.order == []
        assert nothing_left(core, groups)

    asyncio.run(run())


def test_aborting_what_is_not_there_does_nothing():
    """A group that is unknown, or finished in the meantime, is no error: 0 responses were ended."""

    async def run():
        groups = groups_of(Ticking())
        assert await groups.abort("nobody") == 0
        await collect(groups, ask(max_tokens=1))
        assert await groups.abort("g") == 0

    asyncio.run(run())


def test_a_group_that_takes_too_long_ends_with_one_error():
    """After request_deadline_s what runs is ended in the engine, and the sentence names the group and the knob."""

    async def run():
        core = Ticking(lengths=(2, 10_000, 10_000))
        groups = groups_of(core, capacity=2, deadline_s=0.1)
        seen = []

        async def look():
            async for rollout in groups.generate(ask(max_tokens=20_000)):
                seen.append(rollout.index)

        with pytest.raises(DeadlineError, match=r"group g was not finished within 0.1 s .* 2 of 3 responses"):
            await look()
        assert seen == [0]
        assert nothing_left(core, groups)

    asyncio.run(run())


def test_whoever_stops_iterating_ends_the_rest():
    """Breaking out of the stream, or cancelling the task that iterates, leaves nothing in the engine or the line."""

    async def run():
        core = Ticking(lengths=(1, 10_000, 10_000))
        groups = groups_of(core, capacity=2)
        async with aclosing(groups.generate(ask(max_tokens=20_000))) as rollouts:
            assert (await anext(rollouts)).index == 0
        assert nothing_left(core, groups)
        task = asyncio.create_task(collect(groups, ask(max_tokens=20_000)))
        await asyncio.sleep(5 * TICK_S)
        task.cancel()
        await asyncio.wait({task})
        assert nothing_left(core, groups)

    asyncio.run(run())


def test_every_waiting_call_ends_when_the_engine_is_lost():
    """Three groups, running and waiting: each ends with EngineLostError, none hangs."""

    async def run():
        core = Ticking()
        groups = groups_of(core, capacity=2)
        tasks = [asyncio.create_task(collect(groups, ask(f"{i}"))) for i in range(3)]
        await asyncio.sleep(5 * TICK_S)
        core.lost.set()
        ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert [type(error) for error in ended] == [EngineLostError] * 3
        assert nothing_left(core, groups)

    asyncio.run(run())


def test_one_group_id_is_one_group():
    """A second group under a name that is in use is refused at once."""

    async def run():
        groups = groups_of(Ticking())
        task = asyncio.create_task(collect(groups, ask()))
        await asyncio.sleep(TICK_S)
        with pytest.raises(RequestError, match="group g is being generated already"):
            await collect(groups, ask())
        await groups.abort("g")
        await task

    asyncio.run(run())


def test_an_engine_that_does_not_move_is_said_to_be_stuck():
    """No step for stuck_after_s while responses are inside; an idle engine may be silent for ever."""

    async def run():
        core = Ticking()
        groups = groups_of(core)
        judge = {"name": "rollout-0", "dead": "", "groups": groups, "stuck_after_s": 0.05}
        long_ago = time.perf_counter() - 1000
        assert health_of(**judge, moved_at=long_ago).well
        task = asyncio.create_task(collect(groups, ask()))
        await asyncio.sleep(TICK_S)
        assert health_of(**judge, moved_at=long_ago).well, "it was given work only now"
        await asyncio.sleep(0.1)
        stuck = health_of(**judge, moved_at=long_ago)
        assert not stuck.well
        assert "rollout-0 is stuck: it holds 3 responses and has taken no step for" in stuck.reason
        assert health_of(**judge, moved_at=time.perf_counter()).well
        assert health_of(**{**judge, "dead": "gone"}, moved_at=time.perf_counter()).reason == "gone"
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(run())
