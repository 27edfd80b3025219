"""Reads in the chunked head, against slow float64 computations of their formulas, token by token."""

import math

import pytest
import torch

from learner.head import Picks, ReferenceHead, TokenHead
from learner.objective.reads import AnchorRatio, Block, LogProbAt, ReferenceDivergence, SurplusGap, TopPEntropy
from rollout.draw.truncation import KeptSets

VOCABULARY, CHANNELS, NODES = 19, 4, 6
KEPT = [[], [18], [0, 4, 9], [5, 11, 18]]  # of each row; empty: the whole vocabulary
HEAT = [1.0, 0.5, 2.0, 1.3]


def picks(tempered, cut) -> Picks:
    kept = None
    if cut:
        listed = torch.tensor([token for row in KEPT for token in row], dtype=torch.int32)
        kept = KeptSets(ids=listed, counts=torch.tensor([len(row) for row in KEPT]))
    return Picks(
        row_nodes=torch.tensor([0, 1, 1, 4]),
        temperatures=torch.tensor(HEAT) if tempered else None,
        rows=torch.tensor([0, 0, 1, 2, 3, 3]),
        tokens=torch.tensor([3, 7, 18, 0, 11, 5]),
        kept=kept,
    )


def distribution(logits, temperature, inside):
    """The probabilities of the tokens in `inside`, by id."""
    weights = {token: (logits[token] / temperature).exp() for token in inside}
    total = sum(weights.values())
    return {token: weight / total for token, weight in weights.items()}


def slow_logprob(at):
    def value(logits, other, token, heat, inside):
        return distribution(logits, at, inside)[token].log()

    return value


def slow_gap(logits, other, token, heat, inside):
    pi = distribution(logits, heat, inside)
    entropy = -sum(p * p.log() for p in pi.values())
    surplus = {a: p * (entropy + p.log()) for a, p in pi.items()}
    return sum(pi[a] * surplus[a] for a in pi) - surplus[token]


def slow_top_p(p, ranks):
    def value(logits, other, token, heat, inside):
        pi = distribution(logits, 1.0, range(VOCABULARY))
        total, chosen = 0.0, []
        for one in sorted(pi.values(), key=lambda one: one.item(), reverse=True)[:ranks]:
            total += one.item()
            if total >= p:
                break
            chosen.append(one)
        if not chosen:
            return 0.0 * logits.sum()
        q = [one / sum(chosen) for one in chosen]
        return -sum(one * one.log() for one in q)

    return value


def slow_divergence(logits, other, token, heat, inside):
    pi, reference = (distribution(z, 1.0, range(VOCABULARY)) for z in (logits, other))
    return sum(p * (p.log() - reference[a].log()) for a, p in pi.items())


def slow_anchors(k, floor):
    def value(logits, other, token, heat, inside):
        pi, reference = (distribution(z, heat, inside) for z in (logits, other))
        anchors = [a for a in sorted(reference, key=lambda a: -reference[a].item())[:k] if a != token]
        held = sum(reference[a].item() for a in anchors)
        return sum((pi[a] for a in anchors), 0.0 * logits.sum()) / max(held, floor)

    return value


CASES = {
    "logprob": (LogProbAt(temperature=0.7, gradient=True), slow_logprob(0.7)),
    "gap": (SurplusGap(), slow_gap),
    "top_p": (TopPEntropy(), slow_top_p(0.8, 10_000)),
    "narrow": (TopPEntropy(p=0.95, ranks=3), slow_top_p(0.95, 3)),
    "divergence": (ReferenceDivergence(), slow_divergence),
    "anchors": (AnchorRatio(), slow_anchors(8, 1e-6)),
    "few anchors": (AnchorRatio(k=2, floor=0.3), slow_anchors(2, 0.3)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
@pytest.mark.parametrize(("tempered", "cut"), [(False, False), (True, True), (True, False)])
def test_values_and_gradients_equal_a_slow_computation(name, chunk_rows, tempered, cut):
    """Chunked or not, at any temperature, cut or not: the values, and with the log-probabilities' all gradients."""
    read, slow = CASES[name]
    torch.manual_seed(0)
    linear, other = torch.nn.Linear(CHANNELS, VOCABULARY), torch.nn.Linear(3, VOCABULARY)
    hidden, other_hidden = 2 * torch.randn(NODES, CHANNELS), torch.randn(NODES, 3)
    hidden.requires_grad_()
    head = TokenHead(linear, chunk_mib=1)
    head.chunk_rows = chunk_rows
    chosen = picks(tempered, cut)
    reference = ReferenceHead(hidden=other_hidden, weight=other.weight.detach(), bias=other.bias.detach())
    logprobs, _, values = head(hidden, chosen, (read,), reference)
    assert values.requires_grad == read.gradient
    upstream = torch.randn(2, len(chosen.tokens))
    ((upstream[0] * logprobs).sum() + (upstream[1] * values * read.gradient).sum()).backward()

    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, linear.weight, linear.bias)]
    expected, loss = [], 0.0
    for place, (row, token) in enumerate(zip(chosen.rows.tolist(), chosen.tokens.tolist(), strict=True)):
        node = chosen.row_nodes[row]
        logits = exact[1] @ exact[0][node] + exact[2]
        other_logits = other.weight.detach().double() @ other_hidden[node].double() + other.bias.detach().double()
        heat = HEAT[row] if tempered else 1.0
        inside = KEPT[row] if cut and KEPT[row] else range(VOCABULARY)
        expected.append(slow(logits, other_logits, token, torch.tensor(heat).double(), inside))
        loss = loss + upstream[0, place].double() * distribution(logits, heat, inside)[token].log()
        loss = loss + upstream[1, place].double() * expected[-1] * read.gradient
    loss.backward()
    torch.testing.assert_close(values.double(), torch.stack(expected), atol=2e-6, rtol=1e-5)
    for ours, theirs in zip((hidden, linear.weight, linear.bias), exact, strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, atol=5e-6, rtol=1e-4)


def evaluate(read, logits, tokens=None, temperature=None):
    """A read at rows of logits, through a head that hands them on."""
    linear = torch.nn.Linear(logits.shape[1], logits.shape[1], bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(logits.shape[1]))
    rows = torch.arange(len(logits))
    chosen = Picks(
        row_nodes=rows,
        temperatures=temperature,
        rows=rows,
        tokens=torch.zeros_like(rows) if tokens is None else tokens,
    )
    hidden = logits.clone().requires_grad_()
    return TokenHead(linear, chunk_mib=1)(hidden, chosen, (read,))[2], hidden


def test_the_gap_of_flat_and_certain_distributions_is_zero():
    """Uniform: S = N = 0. One-hot: S = N = 0."""
    logits = torch.tensor([[2.0, 2.0, 2.0, 2.0], [900.0, 0.0, 0.0, 0.0]])
    values, _ = evaluate(SurplusGap(), logits)
    assert values.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_a_likely_token_leaves_no_top_p_entropy():
    """A first token with p >= .8 is the crossing one and left out: entropy 0 and no gradient; by hand below it."""
    logits = torch.tensor([[0.85, 0.1, 0.05], [0.5, 0.25, 0.25], [0.3, 0.35, 0.35]]).log()
    values, hidden = evaluate(TopPEntropy(p=0.8), logits)
    q = [2 / 3, 1 / 3]  # .5 and .25 of the second row; of the third .35 and .35
    expected = [0.0, -sum(one * math.log(one) for one in q), math.log(2)]
    assert values.tolist() == pytest.approx(expected, abs=1e-6)
    values.sum().backward()
    assert hidden.grad.isfinite().all()
    assert (hidden.grad[0] == 0.0).all()


@pytest.mark.parametrize(("p", "expected"), [(0.7495, 0.0), (0.7505, -2 / 3 * math.log(2 / 3) - math.log(1 / 3) / 3)])
def test_the_token_that_reaches_p_is_left_out(p, expected):
    """Of .5 .25 .25 the second token reaches .7495, so the first stays alone; .7505 it does not reach."""
    values, _ = evaluate(TopPEntropy(p=p), torch.tensor([[0.5, 0.25, 0.25]]).log())
    assert values.item() == pytest.approx(expected, abs=1e-6)


def test_a_model_does_not_diverge_from_itself():
    torch.manual_seed(0)
    linear = torch.nn.Linear(CHANNELS, VOCABULARY)
    hidden = torch.randn(NODES, CHANNELS, requires_grad=True)
    same = ReferenceHead(hidden=hidden.detach(), weight=linear.weight.detach(), bias=linear.bias.detach())
    values = TokenHead(linear, chunk_mib=1)(hidden, picks(True, True), (ReferenceDivergence(),), same)[2]
    values.sum().backward()
    assert values.abs().max() < 1e-6
    assert hidden.grad.abs().max() < 1e-6


def test_impossible_reads_are_refused():
    for make in (
        lambda: LogProbAt(temperature=0.0),
        lambda: TopPEntropy(p=0.0),
        lambda: TopPEntropy(ranks=0),
        lambda: AnchorRatio(k=0),
        lambda: AnchorRatio(floor=0.0),
    ):
        with pytest.raises(ValueError, match="LogProbAt|TopPEntropy|AnchorRatio"):
            make()


@pytest.mark.parametrize("cut", [False, True])
def test_a_policy_that_is_its_reference_holds_all_of_its_anchors(cut):
    """The ratio is 1, also at a temperature; where truncation left the drawn token alone there is none, and it is 0."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(CHANNELS, VOCABULARY)
    hidden = torch.randn(NODES, CHANNELS, requires_grad=True)
    same = ReferenceHead(hidden=hidden.detach(), weight=linear.weight.detach(), bias=linear.bias.detach())
    values = TokenHead(linear, chunk_mib=1)(hidden, picks(True, cut), (AnchorRatio(),), same)[2]
    alone = [False, False, cut, False, False, False]  # 18 is the only token of its row
    assert values.tolist() == pytest.approx([0.0 if each else 1.0 for each in alone], abs=1e-6)
    (gradient,) = torch.autograd.grad(values[2], hidden)
    assert gradient.isfinite().all()
    assert gradient.any() == (not cut)


def test_the_anchors_are_the_references():
    """By hand: of .4 .3 .2 .1 the likeliest two without the drawn first token leave .3; the policy has .1 there."""
    reference, policy = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log(), torch.tensor([[0.2, 0.1, 0.3, 0.4]]).log()
    for token, expected in ((0, 0.1 / 0.3), (1, 0.2 / 0.4), (3, 0.3 / 0.7)):
        block = Block(
            logits=policy,
            temperatures=None,
            allowed=None,
            rows=torch.tensor([0]),
            tokens=torch.tensor([token]),
            reference=reference,
        )
        assert AnchorRatio(k=2)(block).item() == pytest.approx(expected)
