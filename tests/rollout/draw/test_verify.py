"""Speculative verification emits exactly the target's tokens, whatever the drafts: a slow loop and chi-square.

The statistical tests run a Markov chain: the next token's distribution depends on the one before, so a row mixed up
with its neighbour shows. 100 000 requests of up to 3 drafts give about 200 000 transitions over 6 tokens. A shift of
2 % in total variation, spread over a row's 6 tokens, has noncentrality 200 000 * 6 * (0.04 / 6)^2 * 6 = 320 at 30
degrees of freedom, about 40 standard deviations (`test_two_percent_would_be_seen` shows it). A correct sampler exceeds
the threshold of 4.5 in fewer than one of 10 000 seeds, and the seeds are fixed.
"""

import math

import pytest
import torch
from torch import Tensor

import rollout.draw.verify as module
from rollout.draw.categorical import draw, uniforms
from rollout.draw.distribution import point_mass_
from rollout.draw.verify import DraftLayout, Randomness, by_position, random_numbers, verify

TOKENS, DRAFTS, REQUESTS = 6, 3, 100_000
FITS, BROKEN = 4.5, 20.0  # standard deviations of the chi-square statistic


def table(seed: int, spread: float = 1.2) -> Tensor:
    """Transition probabilities [previous token, next token]."""
    return (spread * torch.randn(TOKENS, TOKENS, generator=torch.Generator().manual_seed(seed))).softmax(-1)


P, Q = table(1), table(2)


class Chain:
    """One speculative step of many requests that all start behind token 0, drafted from `q` and judged by `p`."""

    def __init__(self, p: Tensor, q: Tensor, counts: Tensor | None = None, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        counts = torch.full((REQUESTS,), DRAFTS) if counts is None else counts
        self.layout = DraftLayout.of(counts.tolist())
        previous = [torch.zeros(len(counts), dtype=torch.int64)]
        for _ in range(DRAFTS):
            previous.append(draw(q[previous[-1]], uniforms(len(counts), device=q.device, generator=self.generator)))
        context = torch.stack(previous, 1)  # [requests, K + 1]: what row j is conditioned on
        real_rows = torch.arange(DRAFTS + 1) <= counts.unsqueeze(1)
        real_drafts = torch.arange(DRAFTS) < counts.unsqueeze(1)
        self.target = p[context[real_rows]]
        self.draft_ids = context[:, 1:][real_drafts]
        self.draft_probabilities = q[context[:, :-1][real_drafts]]

    def step(self, target: Tensor | None = None, one_hot: bool = False):
        return verify(
            self.target if target is None else target,
            self.draft_ids,
            None if one_hot else self.draft_probabilities,
            self.layout,
            random_numbers(self.layout, self.generator),
        )


def transitions(ids: Tensor) -> Tensor:
    """Counts [previous, next] of the emitted tokens; each request starts behind token 0."""
    before = torch.cat((torch.zeros(len(ids), 1, dtype=torch.int64), ids[:, :-1]), 1)
    real = ids >= 0
    return torch.bincount(before[real] * TOKENS + ids[real], minlength=TOKENS**2).view(TOKENS, TOKENS)


def misfit(counts: Tensor, p: Tensor) -> float:
    """Standard deviations by which Pearson's statistic of transitions exceeds its mean under `p`; inf if impossible."""
    expected = counts.sum(1, keepdim=True) * p.double()
    possible = p > 0
    if counts[~possible].any():
        return math.inf
    statistic = ((counts - expected).square() / expected)[possible & (expected > 0)].sum().item()
    freedom = int(((p > 0).sum(1) - 1)[counts.sum(1) > 0].sum())
    return (statistic - freedom) / math.sqrt(2 * freedom)


def one_hot(q: Tensor) -> Tensor:
    return point_mass_(q.clone(), torch.ones(len(q), dtype=torch.bool))


def truncated(p: Tensor) -> Tensor:
    """Without the two least likely tokens of each row."""
    kept = p.masked_fill(p <= p.kthvalue(2).values.unsqueeze(1), 0.0)
    return kept / kept.sum(1, keepdim=True)


def mixed_counts() -> Tensor:
    return torch.randint(DRAFTS + 1, (REQUESTS,), generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize(
    ("p", "q", "counts", "certain"),
    [
        pytest.param(P, Q, None, False, id="probabilistic"),
        pytest.param(P, one_hot(Q), None, True, id="one-hot"),
        pytest.param(P, one_hot(Q), None, False, id="one-hot given as probabilities"),
        pytest.param(P, Q, mixed_counts(), False, id="0 to 3 drafts"),
        pytest.param(P, one_hot(Q), mixed_counts(), True, id="0 to 3 one-hot drafts"),
        pytest.param(truncated(P), Q, None, False, id="truncated target"),
        pytest.param(truncated(P), one_hot(Q), mixed_counts(), True, id="truncated target, one-hot drafts"),
        pytest.param(P, truncated(Q), None, False, id="truncated drafts"),
        pytest.param(P, P, None, False, id="perfect drafter"),
    ],
)
def test_emitted_tokens_follow_the_target(p, q, counts, certain):
    """Every emitted token, given the one before, is distributed as the target's row, for every kind of draft."""
    chain = Chain(p, q, counts)
    assert misfit(transitions(chain.step(one_hot=certain).ids), p) < FITS


def test_two_percent_would_be_seen():
    """The same counts do not fit a target that is 2 % away in total variation."""
    tilt = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0]) * 0.04 / TOKENS
    counts = transitions(Chain(P, Q).step().ids)
    assert misfit(counts, P) < FITS
    shifted = table(1, spread=0.0) + tilt
    assert misfit(transitions(Chain(shifted, Q).step().ids), table(1, spread=0.0)) > BROKEN


def test_forgetting_q_costs_acceptance_and_nothing_else():
    """Probabilistic drafts verified as one-hot: given the draft, that is exact too, but it passes with sum p q only.

    No goodness-of-fit test can see this mistake; the acceptance rate does, by more than 20 standard errors.
    """
    step = Chain(P, Q).step(one_hot=True)
    assert misfit(transitions(step.ids), P) < FITS
    rate, expected = (step.accepted > 0).double().mean().item(), (P[0] * Q[0]).sum().item()
    error = math.sqrt(expected * (1 - expected) / REQUESTS)
    assert abs(rate - expected) < 4.5 * error
    assert torch.minimum(P[0], Q[0]).sum().item() - rate > 20 * error


def test_a_q_the_drafts_were_not_drawn_from_does_not_fit():
    """Certain drafts (the drafter's argmax) verified with the drafter's softmax: the mistake that does bias."""
    chain = Chain(P, one_hot(Q))
    chain.draft_probabilities = 0.5 * chain.draft_probabilities + 0.5 / TOKENS
    assert misfit(transitions(chain.step().ids), P) > BROKEN


def test_the_row_of_a_neighbour_does_not_fit():
    """Each draft judged by the row after or before its own."""
    chain = Chain(P, Q)
    for shift in (1, -1):
        assert misfit(transitions(chain.step(target=chain.target.roll(shift, 0)).ids), P) > BROKEN


def test_a_residual_that_is_not_renormalised_does_not_fit(monkeypatch):
    """Inverting (p - q)+ as if it had mass 1 sends the missing mass to the last token."""
    inverse = lambda weights, u: torch.searchsorted(weights.double().cumsum(1), u.unsqueeze(1)).squeeze(1)  # noqa: E731
    monkeypatch.setattr(module, "draw", lambda weights, u: inverse(weights, u).clamp_max(TOKENS - 1))
    assert misfit(transitions(Chain(P, Q).step().ids), P) > BROKEN


def test_recovering_from_the_target_instead_of_the_residual_does_not_fit(monkeypatch):
    """Drawing from p after a rejection counts the accepted mass twice."""
    chain = Chain(P, Q)
    state = random_numbers(chain.layout, chain.generator)
    first = verify(chain.target, chain.draft_ids, chain.draft_probabilities, chain.layout, state)
    last = first.rows.gather(1, first.accepted.unsqueeze(1)).squeeze(1)
    monkeypatch.setattr(module, "draw", lambda weights, u: draw(chain.target[last], u))
    again = verify(chain.target, chain.draft_ids, chain.draft_probabilities, chain.layout, state)
    assert torch.equal(first.accepted, again.accepted)
    assert misfit(transitions(again.ids), P) > BROKEN


def test_greedy_requests_emit_the_greedy_chain():
    """With point masses for rows, a step emits argmax after argmax, and its recorded logprobs are 0."""
    greedy = one_hot(P)
    chain = Chain(greedy, Q, mixed_counts())
    step = chain.step()
    assert follows(step.ids, greedy.argmax(1))
    assert step.logprobs(chain.target)[step.ids >= 0].abs().max() == 0.0


def follows(ids: Tensor, successor: Tensor) -> bool:
    before = torch.cat((torch.zeros(len(ids), 1, dtype=torch.int64), ids[:, :-1]), 1)
    return bool((ids == successor[before])[ids >= 0].all())


def test_drafts_are_accepted_at_one_minus_total_variation():
    """Acceptance of the first draft is sum min(p, q), of a certain draft p(y); 4.5 standard errors of 100 000."""
    for q, certain in ((Q, False), (one_hot(Q), True)):
        rate = (Chain(P, q).step(one_hot=certain).accepted > 0).double().mean().item()
        expected = torch.minimum(P[0], q[0]).sum().item()
        assert abs(rate - expected) < 4.5 * math.sqrt(expected * (1 - expected) / REQUESTS)


def test_a_perfect_drafter_is_always_accepted():
    """p = q: total variation 0, acceptance 1."""
    chain = Chain(P, P)
    assert torch.equal(chain.step().accepted, chain.layout.counts)


def slow_verify(target, draft_ids, q, counts, random):
    """Request by request, draft by draft, in float64."""
    row = draft = 0
    emitted = []
    for request, count in enumerate(counts):
        tokens, rows = [], []
        weights = target[row + count].double()
        for j in range(count):
            p, y = target[row + j].double(), int(draft_ids[draft + j])
            proposal = q[draft + j].double() if q is not None else torch.eye(len(p), dtype=torch.float64)[y]
            rows.append(row + j)
            if random.accept[request, j].double() * proposal[y] < p[y]:
                tokens.append(y)
                continue
            weights = (p - proposal).clamp_min(0.0)
            break
        else:
            rows.append(row + count)
        running = weights.cumsum(0)
        tokens.append(int((running <= random.draw[request] * running[-1]).sum()))
        emitted.append((tokens, rows))
        row, draft = row + count + 1, draft + count
    return emitted


@pytest.mark.parametrize("vocab", [37, 4096])
@pytest.mark.parametrize("counts", [[3] * 9, [0, 3, 1, 0, 2, 3, 0], [1], [0, 0]])
@pytest.mark.parametrize("certain", [False, True])
def test_tokens_and_rows_agree_with_a_slow_loop(vocab, counts, certain):
    """The same numbers give the same tokens, at the same rows, padded with -1; `rows` gathers the record."""
    generator = torch.Generator().manual_seed(vocab)
    target = (2 * torch.randn(sum(counts) + len(counts), vocab, generator=generator)).softmax(-1)
    q = (2 * torch.randn(sum(counts), vocab, generator=generator)).softmax(-1)
    rows_of_drafts = [r for b, k in enumerate(counts) for r in range(sum(counts[:b]) + b, sum(counts[:b]) + b + k)]
    q = 0.7 * target[rows_of_drafts] + 0.3 * q
    layout = DraftLayout.of(counts)
    draft_ids = draw(q, uniforms(len(q), device=q.device, generator=generator))
    random = random_numbers(layout, generator)
    found = verify(target, draft_ids, None if certain else q, layout, random)
    expected = slow_verify(target, draft_ids, None if certain else q, counts, random)
    for request, (tokens, rows) in enumerate(expected):
        pad = [-1] * (max(counts) + 1 - len(tokens))
        assert found.ids[request].tolist() == tokens + pad
        assert found.rows[request].tolist() == rows + rows[-1:] * len(pad)
        assert found.accepted[request] == len(tokens) - 1
        logprobs = found.logprobs(target)[request, : len(tokens)]
        assert logprobs.tolist() == pytest.approx([math.log(target[r, t]) for t, r in zip(tokens, rows, strict=True)])


@pytest.mark.parametrize("vocab", [8, 4096])
def test_a_residual_that_rounds_to_nothing_falls_back_to_the_target(vocab):
    """p = q and a draft rejected by the last bit: the token is drawn from p, not from an empty distribution."""
    target = torch.rand(4, vocab, generator=torch.Generator().manual_seed(3)).softmax(-1)
    layout = DraftLayout.of([1, 1])
    random = Randomness(torch.ones(2, 2), torch.tensor([0.25, 0.75], dtype=torch.float64))
    found = verify(target, torch.tensor([3, 5]), target[[0, 2]], layout, random)
    assert found.accepted.tolist() == [0, 0]
    assert found.ids[:, 0].tolist() == draw(target[[0, 2]], random.draw).tolist()
    assert found.ids[:, 1].tolist() == [-1, -1]


def test_counts_by_position_by_hand():
    """3, 1, 0 and 2 drafts of which 3, 0, 0 and 1 pass: judged 3 2 1, passed 2 1 1."""
    judged, passed = by_position(DraftLayout.of([3, 1, 0, 2]), torch.tensor([3, 0, 0, 1]))
    assert judged.tolist() == [3, 2, 1]
    assert passed.tolist() == [2, 1, 1]
