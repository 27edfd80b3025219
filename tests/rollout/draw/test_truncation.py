"""Truncation: who is kept, by a slow float64 loop; what the record needs; the learner's half."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.draw.distribution import tempered_logprob
from rollout.draw.truncation import (
    KeptSets,
    TopW,
    Truncation,
    TruncationRows,
    from_wire,
    kept_logprob,
    to_wire,
    truncate,
)

INF = math.inf
CONF = Path(__file__).parents[3] / "conf"


def slow_kept(logits: list[float], rule: Truncation) -> list[int]:
    """Ids kept, by the words of vLLM's rules: min_p, then top_k with ties, then top_p from below in order (z, id)."""
    largest = max(logits)
    weights = [math.exp(z - largest) for z in logits]
    ids = [i for i, w in enumerate(weights) if w > 0 and w >= rule.min_p]
    if rule.top_k and rule.top_k < len(ids):
        kth = sorted((logits[i] for i in ids), reverse=True)[rule.top_k - 1]
        ids = [i for i in ids if logits[i] >= kth]
    if rule.top_p < 1.0:
        total, below, kept = sum(weights[i] for i in ids), 0.0, []
        for i in sorted(ids, key=lambda i: (logits[i], i)):
            below += weights[i] / total
            if below > 1.0 - rule.top_p:
                kept.append(i)
        ids = kept or [max(ids, key=lambda i: (logits[i], i))]
    return sorted(ids)


def kept_ids(logits: torch.Tensor) -> list[list[int]]:
    return [row.nonzero().flatten().tolist() for row in logits > -INF]


RULES = st.builds(
    Truncation,
    top_p=st.sampled_from([1.0, 0.97, 0.8, 0.31, 0.003]),
    top_k=st.sampled_from([0, 1, 3, 7, 500]),
    min_p=st.sampled_from([0.0, 0.013, 0.37, 1.0]),
)


@settings(max_examples=150)
@given(
    st.lists(RULES, min_size=1, max_size=5), st.integers(0, 2**31), st.sampled_from([2, 9, 200, 3000]), st.booleans()
)
def test_each_row_keeps_what_its_own_rule_keeps(rules, seed, vocab, grammar):
    """Any mixture of rules in one batch, vocabularies beyond the first probe, tokens already masked by a grammar."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2.5 * torch.randn(len(rules), vocab, generator=generator)
    if grammar:
        logits[:, 1::2] = -INF
    found = truncate(logits, TruncationRows.of(rules))
    expected = [slow_kept(row, rule) for row, rule in zip(logits.double().tolist(), rules, strict=True)]
    assert kept_ids(found.logits) == expected
    for row, ids in enumerate(expected):
        assert found.kept[row] == len(ids)
        mass = logits[row].double().softmax(-1)[ids].sum().item()
        assert found.log_mass[row].item() == pytest.approx(math.log(mass), abs=2e-6)
        assert torch.equal(found.logits[row, ids], logits[row, ids])


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (Truncation(top_k=2), [[0, 2, 3]]),  # ties at the k-th stay
        (Truncation(top_k=1), [[0]]),
        (Truncation(top_p=0.45), [[0, 3]]),  # 0.4 is too little: of the tied 2 and 3 the higher id
        (Truncation(top_p=0.65), [[0, 2, 3]]),
        (Truncation(top_p=0.39), [[0]]),
        (Truncation(min_p=0.5), [[0, 2, 3]]),  # exactly half as likely as the best: stays
        (Truncation(min_p=0.51), [[0]]),
        (Truncation(top_k=3, top_p=0.55), [[0, 3]]),  # top_p of what top_k left: 0.5, 0.25, 0.25
        (Truncation(min_p=1.0, top_p=0.01), [[0]]),
    ],
)
def test_borders_and_ties_by_hand(rule, kept):
    """p = 0.4, 0.15, 0.2, 0.2, 0.05 (0.4 and 0.2 exact multiples, so that borders are met)."""
    logits = torch.tensor([[2.0, 0.75, 1.0, 1.0, 0.25]]).log()
    assert kept_ids(truncate(logits, TruncationRows.of([rule])).logits) == kept


@pytest.mark.parametrize("top_p", [1e-3, 0.5, 0.999])
def test_equal_tokens_are_settled_by_id(top_p):
    """A uniform distribution over 1000 tokens, far beyond the first probe: the highest ids, as many as needed."""
    found = truncate(torch.zeros(1, 1000), TruncationRows.of([Truncation(top_p=top_p)]))
    count = round(1000 * top_p)
    assert abs(int(found.kept) - count) <= 1  # 1000 equal float32 masses add up to 1 within a token's mass
    assert kept_ids(found.logits)[0] == list(range(1000 - int(found.kept), 1000))


def test_where_nothing_truncates_nothing_is_computed():
    """No rows to cut: None, and the very same tensor comes back."""
    logits = torch.randn(3, 8)
    assert TruncationRows.of([Truncation()] * 3) is None
    found = truncate(logits, None)
    assert found.logits is logits
    assert found.kept.tolist() == [8] * 3
    assert found.log_mass.tolist() == [0.0] * 3


def test_rows_without_a_rule_are_untouched_beside_rows_with_one():
    """Requests of 2, 1 and 3 rows; only the middle request truncates."""
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    rows = TruncationRows.of([Truncation(), Truncation(top_k=1), Truncation()], counts=[2, 1, 3])
    found = truncate(logits, rows)
    assert found.kept.tolist() == [40, 40, 1, 40, 40, 40]
    assert torch.equal(found.logits[[0, 1, 3, 4, 5]], logits[[0, 1, 3, 4, 5]])
    assert torch.isfinite(logits).all(), "the caller's tensor is not written to"


def test_the_recorded_logprob_is_tempered_minus_kept_mass():
    """log softmax of the kept logits = tempered logprob - ln(kept mass), token by token."""
    logits = 2 * torch.randn(5, 60, generator=torch.Generator().manual_seed(1))
    temperatures = torch.tensor([0.5, 0.8, 1.0, 1.3, 2.0])
    found = truncate(logits / temperatures.unsqueeze(1), TruncationRows.of([Truncation(top_p=0.7)] * 5))
    tokens = found.logits.argmax(-1)
    recorded = found.logits.log_softmax(-1).gather(1, tokens.unsqueeze(1)).squeeze(1)
    expected = tempered_logprob(logits, tokens, temperatures) - found.log_mass
    assert recorded.tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_the_learner_evaluates_its_own_weights_inside_the_given_set():
    """kept_logprob against a slow float64 loop, with logits the set did not come from; its gradient too."""
    generator = torch.Generator().manual_seed(2)
    sampler, learner = (2 * torch.randn(4, 50, generator=generator) for _ in range(2))
    temperatures = torch.tensor([0.6, 1.0, 1.4, 1.0])
    rules = [Truncation(top_p=0.8), Truncation(top_k=1), Truncation(min_p=0.05), Truncation()]
    cut = truncate(sampler / temperatures.unsqueeze(1), TruncationRows.of(rules)).logits
    kept, tokens = KeptSets.of(cut), torch.multinomial(cut.softmax(-1), 1, generator=generator).squeeze(1)
    learner.requires_grad_()
    found = kept_logprob(learner, tokens, temperatures, kept)
    expected = []
    for row, ids in enumerate(kept_ids(cut)):
        z = [learner[row, i].item() / temperatures[row].item() for i in ids]
        expected.append(z[ids.index(int(tokens[row]))] - math.log(sum(map(math.exp, z))))
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    found.sum().backward()
    masked = (learner / temperatures.unsqueeze(1)).masked_fill(cut == -INF, -INF).log_softmax(-1)
    [gradient] = torch.autograd.grad(masked.gather(1, tokens.unsqueeze(1)).sum(), learner)
    assert (learner.grad - gradient).abs().max() < 1e-6
    assert torch.allclose(
        kept_logprob(learner, tokens, temperatures, KeptSets.of(sampler)),
        tempered_logprob(learner, tokens, temperatures),
    )


def test_a_token_outside_its_kept_set_is_not_given_a_number():
    """A record that names another set is a fault, and NaN stops the step."""
    kept = KeptSets(ids=torch.tensor([0, 2, 1], dtype=torch.int32), counts=torch.tensor([2, 1]))
    found = kept_logprob(torch.randn(2, 3), torch.tensor([1, 1]), torch.ones(2), kept)
    assert found.isnan().tolist() == [True, False]


@pytest.mark.parametrize("rule", [Truncation(top_p=0.9, top_k=5, min_p=0.1), TopW(mass=3.0)])
def test_a_truncation_survives_the_wire(rule):
    """Plain values give the same rule back."""
    assert all(isinstance(value, str | float | int) for value in to_wire(rule).values())
    assert from_wire(to_wire(rule)) == rule


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (partial(Truncation, top_p=0.0), "top_p is a mass in"),
        (partial(Truncation, top_p=math.nan), "top_p is a mass in"),
        (partial(Truncation, top_k=-1), "top_k is a number of tokens"),
        (partial(Truncation, top_k=1.5), "top_k is a number of tokens"),
        (partial(Truncation, min_p=1.1), "min_p is a ratio"),
        (partial(TopW, warm_mass=0.0), "warm_mass is a mass"),
        (partial(TopW, top_m=0), "at least 1"),
        (partial(TopW, entropy=-1.0), "TopW.entropy is a finite number"),
        (partial(from_wire, {"name": "typical"}), "unknown truncation 'typical'; known are top_w, truncation"),
        (
            partial(from_wire, {"name": "truncation", "top_q": 1}),
            "has no parameter 'top_q'; it has top_p, top_k, min_p",
        ),
    ],
)
def test_parameters_that_cannot_be_are_refused(make, sentence):
    """One sentence that names field, rule and value."""
    with pytest.raises(ValueError, match=sentence):
        make()
