"""BES: operators by hand, parents by their weights, and a record that holds through every recombination."""

import asyncio
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.draw.temperature import Fixed
from rollout.messages import FinishReason, GroupRequest, Rollout
from rollout.strategies import Circumstances, Evolution
from rollout.strategies.bes import Certainty, Landmarks
from rollout.strategies.bes.paragraphs import (
    Paragraph,
    combine,
    crossover,
    delete,
    paragraph_length,
    settle,
    shared,
    translocate,
)
from rollout.strategies.bes.pool import Node, Pool
from rollout.strategies.passage import Passage
from tests.rollout.strategies.fakes import STOP, FakeEngine, check_record, decode, encode, resources

SEPARATOR = Passage.forced(encode("\n\n"))


def paragraph(text: str, ends: bool = False) -> Paragraph:
    """Drawn by the policy, as far as anybody knows."""
    ids = (*encode(text), STOP) if ends else encode(text)
    passage = Passage.forced(ids)
    passage.drawn[:] = True
    return Paragraph(passage=passage, ends=ends)


def texts(row) -> list[str]:
    return [decode(one.passage.ids) for one in row]


def random() -> np.random.Generator:
    return np.random.default_rng(0)


class Scripted:
    """In place of a random generator: the integers it is told, checked against the bounds it is asked for."""

    def __init__(self, *integers: int) -> None:
        self._integers = list(integers)
        self.asked: list[tuple[int, int]] = []

    def integers(self, low: int, high: int) -> int:
        self.asked.append((low, high))
        return self._integers.pop(0)


class Length:
    """A judge that likes long solutions."""

    def __call__(self, text: str, passage: Passage) -> tuple[float, ...]:
        return (min(len(passage) / 100, 0.99),)


A, B, C, D, E = (paragraph(f"{one}\n\n") for one in "ABCDE")


def test_where_a_paragraph_ends():
    """With the token that completes the first blank line behind some text; leading line breaks are no paragraph."""
    assert paragraph_length(np.array(encode("ab\n\ncd\n\n")), decode) == 4
    assert paragraph_length(np.array(encode("\n\n\nab\n\nc")), decode) == 7
    assert paragraph_length(np.array(encode("ab\nc\n")), decode) is None
    assert paragraph_length(np.array([], np.int32), decode) is None


def test_combine_by_hand():
    """Shared beginning, tail of a, tail of b; nothing where a tail is empty."""
    assert texts(combine((A, B, C), (A, D, E), random())) == texts((A, B, C, D, E))
    assert combine((A, B), (A, B, C), random()) is None
    assert combine((A, B, C), (A, B), random()) is None
    assert combine((), (A,), random()) is None


def test_delete_by_hand():
    """An interior paragraph only, and each of them can go."""
    assert delete((A, B), random()) is None
    scripted = Scripted(2)
    assert texts(delete((A, B, C, D), scripted)) == texts((A, B, D))
    assert scripted.asked == [(1, 3)]


def test_translocate_by_hand():
    """The second of a's tail gives way to the first of b's; the shared beginning is never touched."""
    scripted = Scripted(2, 1)
    assert texts(translocate((A, B, C), (A, D, E), scripted)) == texts((A, B, D))
    assert scripted.asked == [(1, 3), (1, 3)]
    assert translocate((A,), (A, B), random()) is None


def test_crossover_by_hand():
    """The first of a's tail (none of it, if so drawn), then the last of b's, at least one."""
    scripted = Scripted(2, 2)
    assert texts(crossover((A, B, C), (A, D, E), scripted)) == texts((A, B, E))
    assert scripted.asked == [(1, 4), (1, 3)]
    assert texts(crossover((A, B, C), (A, D, E), Scripted(1, 1))) == texts((A, D, E))


def test_what_is_shared_is_told_by_tokens():
    """The same text at the same place counts, whoever drew it."""
    assert shared((A, B), (paragraph("A\n\n"), C)) == 1
    assert shared((A, B), (A, B, C)) == 2


def test_records_hold_up_to_the_first_change():
    """Behind it the same tokens are context; the beginning may come from either parent."""
    parents = [(A, B, C), (A, D, E)]
    settled = settle((A, B, D), parents, SEPARATOR)
    assert [bool(one.passage.drawn.all()) for one in settled] == [True, True, False]
    settled = settle((A, D, E), parents, SEPARATOR)
    assert all(one.passage.drawn.all() for one in settled)
    twin = paragraph("A\n\n")  # the same tokens, drawn elsewhere
    settled = settle((twin, B), [(A, B)], SEPARATOR)
    assert not any(one.passage.drawn.any() for one in settled)


def test_an_end_in_the_middle_is_taken_back():
    """The stop token goes, a blank line nobody drew comes, and only the last paragraph ends the response."""
    last = paragraph("Z", ends=True)
    settled = settle((A, last, E), [(A, last)], SEPARATOR)
    assert texts(settled) == ["A\n\n", "Z\n\n", "E\n\n"]
    assert settled[1].passage.drawn.tolist() == [True, False, False]
    assert [one.ends for one in settled] == [False, False, False]
    assert STOP not in np.concatenate([one.passage.ids for one in settled])
    assert settle((A, last), [(A, last)], SEPARATOR)[1].ends


def node(score: float, row=(A,), complete: bool = False, childless: bool = True, marks=None) -> Node:
    marks = np.array([score] if marks is None else marks, np.float64)
    return Node(row=row, marks=marks, complete=complete, childless=childless)


def shares(choose, of: int, draws: int = 5_000) -> np.ndarray:
    found = np.zeros(of)
    for _ in range(draws):
        found[choose()] += 1
    return found / draws


def test_parents_to_expand_by_their_weights():
    """exp((10 score + 1[no child]) / T), complete solutions never; 5 000 draws, to 4 standard errors."""
    nodes = [node(0.1), node(0.2, childless=False), node(0.9, complete=True)]
    pool = Pool(random(), nodes)
    found = shares(lambda: nodes.index(pool.to_expand(1.5)), 3)
    weights = np.array([math.exp(2.0 / 1.5), math.exp(2.0 / 1.5), 0.0])
    assert found == pytest.approx(weights / weights.sum(), abs=4 * math.sqrt(0.25 / 5_000))


def test_pairs_by_their_joint_coverage():
    """u of a pair is the mean over marks of the better one: two halves beat a good one."""
    nodes = [node(0, marks=[1, 0]), node(0, marks=[0, 1]), node(0, marks=[0.4, 0.4])]
    pool = Pool(random(), nodes)
    found = shares(lambda: sum(1 << nodes.index(one) for one in pool.pair(2.0)), 8)
    halves, mixed = math.exp(10 * 1.0 / 2), math.exp(10 * 0.7 / 2)
    expected = np.array([halves, mixed, mixed]) / (halves + 2 * mixed)
    assert found[[3, 5, 6]] == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 5_000))
    assert Pool(random(), nodes[:1]).pair(2.0) is None


def test_deletion_wants_an_interior_and_weighs_the_bare_score():
    """exp(score / T) without the factor 10, among nodes of more than two paragraphs."""
    nodes = [node(0.0, row=(A, B, C)), node(1.0, row=(A, B, D)), node(1.0, row=(A, B))]
    pool = Pool(random(), nodes)
    found = shares(lambda: nodes.index(pool.to_delete_from(1.0)), 3)
    assert found == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e), 0], abs=4 * math.sqrt(0.25 / 5_000))
    assert Pool(random(), nodes[2:]).to_delete_from(1.0) is None


def test_the_best_is_complete_if_any_is():
    """A complete solution wins over a better unfinished one; the empty one only where there is no other."""
    empty = node(1.0, row=())
    assert Pool(random(), [empty, node(0.3), node(0.2, complete=True)]).best().marks == [0.2]
    assert Pool(random(), [empty, node(0.3), node(0.5)]).best().marks == [0.5]
    assert Pool(random(), [empty]).best() is empty


def test_temperature_falls_from_two_to_one():
    """Linearly over the budget less two."""
    rule = Evolution(budget=12)
    assert [rule.temperature(spent) for spent in (0, 5, 10, 12)] == [2.0, 1.5, 1.0, 1.0]


def test_judges_by_hand():
    """Landmarks: one mark a pattern. Certainty: the geometric mean probability of what the policy drew here."""
    passage = Passage.forced((1, 2, 3))
    passage.logprobs[:] = np.log([0.5, 0.02, 0.125])
    passage.drawn[:] = [True, False, True]
    assert Certainty()("", passage) == pytest.approx((0.25,))
    assert Certainty()("", passage.as_context()) == (0.0,)
    assert Landmarks(patterns=("module", r"a\s*=\s*b"))("module x; a = c;", passage) == (1.0, 0.0)


def drawn(rule: Evolution, engine: FakeEngine, n: int = 3, max_tokens: int = 80) -> list[Rollout]:
    request = GroupRequest(group_id="g", prompt_ids=(1, 5), n=n, max_tokens=max_tokens, temperature=Fixed())

    async def all_of():
        return [rollout async for rollout in rule.over(resources(engine)).generate(request)]

    return sorted(asyncio.run(all_of()), key=lambda rollout: rollout.index)


@settings(deadline=None, max_examples=25)
@given(
    stop_rate=st.sampled_from([0.0, 0.02, 0.1]),
    alphabet=st.sampled_from(["ab\n", "abcd \n\n", "ab"]),
    update_every=st.integers(0, 3),
    chunk=st.integers(1, 30),
    budget=st.integers(1, 25),
    max_tokens=st.integers(1, 60),
    shares=st.tuples(*[st.floats(0.0, 0.24)] * 4),
    seed=st.integers(0, 1000),
)
def test_every_token_said_to_be_drawn_was_drawn_there(
    stop_rate, alphabet, update_every, chunk, budget, max_tokens, shares, seed
):
    """Whatever was recombined, while the version rises: the record, the spans, the kept sets and the end all hold."""
    engine = FakeEngine(f"policy{seed}", alphabet, stop_rate, update_every, kept=True)
    rule = Evolution(
        **dict(zip(("combine", "delete", "translocate", "crossover"), shares, strict=True)),
        budget=budget,
        chunk=chunk,
    )
    for rollout in drawn(rule, engine, n=2, max_tokens=max_tokens):
        check_record(rollout, engine)
        ids = rollout.response_ids.tolist()
        assert 0 < len(ids) <= max_tokens
        assert STOP not in ids[:-1]
        assert (rollout.finish_reason == FinishReason.STOP) == (ids[-1] == STOP)


def test_recombination_happens_and_is_told():
    """With operators at full swing some tokens are context, and paragraphs drawn behind them are the policy's again."""
    rule = Evolution(
        combine=0.24, delete=0.24, translocate=0.24, crossover=0.24, budget=30, judge=Landmarks(patterns=("aa", "bb"))
    )
    rollouts = drawn(rule, FakeEngine(alphabet="abc\n\n", stop_rate=0.01), n=12, max_tokens=200)
    masks = [rollout.policy_drawn for rollout in rollouts if rollout.policy_drawn is not None]
    assert masks
    assert any((np.diff(mask.astype(int)) == 1).any() for mask in masks)


def test_recombination_never_exceeds_the_request():
    """Combined solutions, which only grow, still fit max_tokens."""
    rule = Evolution(combine=0.95, delete=0.0, translocate=0.0, crossover=0.0, budget=20, chunk=8, judge=Length())
    for rollout in drawn(rule, FakeEngine(alphabet="ab\n\n", stop_rate=0.0), n=4, max_tokens=24):
        assert len(rollout.response_ids) <= 24


def test_the_budget_is_kept_and_full_marks_end_the_search():
    """No more paragraphs than the budget allows beyond the step in progress; one that is perfect is enough."""
    engine = FakeEngine(alphabet="ab\n\n", stop_rate=0.0)
    drawn(
        Evolution(budget=10, most_paragraphs=1, chunk=200, combine=0, delete=0, translocate=0, crossover=0), engine, 1
    )
    assert len(engine.requests) == 10
    engine = FakeEngine(alphabet="a", stop_rate=0.5)
    drawn(Evolution(judge=Landmarks(patterns=("",)), chunk=200), engine, 1)
    assert len(engine.requests) == 1


def test_a_stop_behind_the_last_paragraph_wanted_is_thrown_away():
    """The paragraph is kept, what was drawn behind it is not, and the response has not ended."""

    class Scripted(FakeEngine):
        def _rollout(self, request, index):
            self._alphabet = encode("a\n\nb")
            self._random = self
            self._written = iter((*self._alphabet, STOP))
            return super()._rollout(request, index)

        def random(self):
            self._next = next(self._written)
            return 0.0 if self._next == STOP else 1.0

        def choice(self, alphabet):
            return self._next

    [rollout] = drawn(Evolution(budget=1, most_paragraphs=1), Scripted(), n=1)
    assert (rollout.text, rollout.finish_reason) == ("a\n\n", FinishReason.LENGTH)
    assert STOP not in rollout.response_ids


def test_abort_hands_out_the_best_so_far():
    """No draw begins any more, and the response says it was aborted."""

    class Aborting(FakeEngine):
        async def generate(self, request):
            async for rollout in super().generate(request):
                if len(self.requests) == 4:
                    await source.abort("g")
                yield rollout

    engine = Aborting(alphabet="ab\n\n", stop_rate=0.0)
    source = Evolution().over(resources(engine))
    request = GroupRequest(group_id="g", prompt_ids=(1, 5), n=1, max_tokens=500, temperature=Fixed())

    async def all_of():
        return [rollout async for rollout in source.generate(request)]

    [rollout] = asyncio.run(all_of())
    assert (len(engine.requests), rollout.finish_reason) == (4, FinishReason.ABORT)
    assert len(rollout.response_ids) > 0
    check_record(rollout, engine)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"combine": 0.9}, "probabilities whose sum is below 1"),
        ({"delete": -0.1}, "probabilities whose sum is below 1"),
        ({"budget": 0}, "Evolution.budget is at least 1, got 0"),
        ({"chunk": 0}, "Evolution.chunk is at least 1"),
        ({"most_paragraphs": 0}, "Evolution.most_paragraphs is at least 1"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    """One sentence, when the configuration is built."""
    with pytest.raises(ValueError, match=message):
        Evolution(**changes)


def test_bad_landmarks_and_a_learned_temperature_are_refused():
    """A pattern that is none, no pattern at all, and a temperature that cannot be drawn piece by piece."""
    with pytest.raises(ValueError, match="is no regular expression"):
        Landmarks(patterns=("(",))
    with pytest.raises(ValueError, match="at least one regular expression"):
        Landmarks(patterns=())
    run = Circumstances(group_size=4, max_tokens=8, learned_temperature=True, plain_draw=False)
    with pytest.raises(ValueError, match="strategy=bes draws a response piece by piece"):
        Evolution().check(run)
