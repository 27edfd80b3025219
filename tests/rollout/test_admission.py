"""The line before an engine: bounded inside, ordered by age outside, nobody forgotten."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.admission import Admission


def test_lower_numbers_go_first_and_equals_in_the_order_they_came():
    """With one place, six waiters enter sorted by priority, and by arrival where it is equal."""

    async def run():
        admission = Admission(capacity=1)
        entered = []

        async def visit(name: str, priority: int):
            assert await admission.join(priority)
            entered.append(name)
            await asyncio.sleep(0)
            admission.leave()

        first = admission.join(9)
        visits = [
            asyncio.create_task(visit(name, priority))
            for name, priority in zip("abcdef", (5, 3, 5, 1, 3, 7), strict=True)
        ]
        await asyncio.sleep(0)
        assert (first.result(), admission.inside, admission.waiting) == (True, 1, 6)
        admission.leave()
        await asyncio.gather(*visits)
        assert (admission.inside, admission.waiting, admission.busy_since) == (0, 0, None)
        return entered

    assert "".join(asyncio.run(run())) == "dbeacf"


STEPS = st.lists(st.tuples(st.sampled_from(["join", "leave", "send away", "cancel"]), st.integers(0, 9)), max_size=60)


@settings(max_examples=200, deadline=None)
@given(capacity=st.integers(1, 4), steps=STEPS)
def test_nobody_waits_while_a_place_is_free_and_the_bound_holds(capacity, steps):
    """Whatever joins, leaves, is sent away or cancelled: inside <= capacity, and a full house while anybody waits."""

    async def run():
        admission = Admission(capacity)
        tickets, inside = [], []
        for action, number in steps:
            waiting = [ticket for ticket in tickets if not ticket.done()]
            if action == "join":
                tickets.append(admission.join(number))
            elif action == "leave" and inside:
                inside.pop(number % len(inside))
                admission.leave()
            elif action == "send away" and waiting:
                waiting[number % len(waiting)].set_result(False)
            elif action == "cancel" and waiting:
                waiting[number % len(waiting)].cancel()
            entered = [t for t in tickets if t.done() and not t.cancelled() and t.result()]
            tickets = [t for t in tickets if t not in entered]
            inside += entered
            assert admission.inside == len(inside) <= capacity
            assert admission.waiting == sum(not ticket.done() for ticket in tickets)
            assert not admission.waiting or admission.inside == capacity

    asyncio.run(run())
