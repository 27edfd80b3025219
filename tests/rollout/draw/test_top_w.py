"""Top-W against a slow float64 loop of the released algorithm, and the invariants of its specification."""

import math

import pytest
import torch

from rollout.draw.truncation import Geometry, TopW, Truncation, TruncationRows, truncate

VOCAB, WIDTH, ROWS = 40, 6, 12
STRONG = TopW(geometry=8.0, warm_mass=0.6, entropy=0.3, mass=4.0)  # up to 7 changes of the set on these rows


def embeddings(seed: int = 0) -> torch.Tensor:
    return torch.randn(VOCAB, WIDTH, generator=torch.Generator().manual_seed(seed)) + 0.5


def logits(seed: int = 1, spread: float = 2.0) -> torch.Tensor:
    return spread * torch.randn(ROWS, VOCAB, generator=torch.Generator().manual_seed(seed))


def slow_directions(rows: list[list[float]]) -> list[list[float]]:
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    deviations = [
        math.sqrt(max(sum((x - m) ** 2 for x in column) / len(rows), 1e-6))
        for column, m in zip(zip(*rows, strict=True), means, strict=True)
    ]
    standard = [[(x - m) / s for x, m, s in zip(row, means, deviations, strict=True)] for row in rows]
    return [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in standard]


def slow_kept(row: list[float], directions: list[list[float]], rule: TopW) -> tuple[set[int], int]:
    """The kept ids and the number of iterations in which the set changed."""
    total = sum(math.exp(z) for z in row)
    p = [math.exp(z) / total for z in row]
    candidates = sorted(range(len(p)), key=lambda i: -p[i])[: rule.top_m]
    wanted, mass, kept = rule.warm_mass * sum(p[i] for i in candidates), 0.0, set()
    for i in candidates:
        kept.add(i)
        mass += p[i]
        if mass >= wanted:
            break
    changes = 0
    for _ in range(rule.iterations):
        phi = {}
        for i in candidates:
            near = max(sum(a * b for a, b in zip(directions[i], directions[j], strict=True)) for j in kept)
            phi[i] = -rule.geometry * (1.0 - near) + rule.entropy * math.log(p[i])
        order = sorted(candidates, key=lambda i: -phi[i])
        best, gamma, score = None, 0.0, 0.0
        for k, i in enumerate(order):
            gamma, score = gamma + p[i], score + p[i] * phi[i]
            value = score / gamma + (rule.mass - rule.entropy) * math.log(gamma)
            if best is None or value > best[0]:
                best = (value, k)
        new = set(order[: best[1] + 1])
        if new == kept:
            break
        kept, changes = new, changes + 1
    return kept, changes


def kept_sets(rule: TopW, z: torch.Tensor) -> list[set[int]]:
    cut = rule.cut(z, Geometry.of(embeddings()))
    assert torch.equal(cut[cut > -math.inf], z[cut > -math.inf]), "kept logits are untouched"
    return [set(row.nonzero().flatten().tolist()) for row in cut > -math.inf]


@pytest.mark.parametrize(
    "rule",
    [
        TopW(),
        TopW(top_m=11),
        TopW(geometry=8.0, warm_mass=0.6),
        STRONG,
        TopW(**{**vars(STRONG), "iterations": 2}),
        TopW(iterations=1, geometry=5.0, warm_mass=0.5),
        TopW(iterations=1, geometry=8.0, warm_mass=0.6, top_m=11),
    ],
    ids=str,
)
def test_the_batch_agrees_with_a_slow_loop(rule):
    """Row by row and prefix by prefix, for flat and sharp rows, few and all candidates, weak and strong geometry."""
    directions = slow_directions(embeddings().double().tolist())
    for spread in (0.3, 2.0, 5.0):
        z = logits(spread=spread)
        assert kept_sets(rule, z) == [slow_kept(row, directions, rule)[0] for row in z.double().tolist()]


def test_geometry_changes_the_kept_sets_used_here():
    """Otherwise the comparison above would prove nothing: strong geometry keeps other tokens, after iterations."""
    directions, z = slow_directions(embeddings().double().tolist()), logits()
    plain = kept_sets(TopW(**{**vars(STRONG), "geometry": 0.0}), z)
    assert all(a != b for a, b in zip(plain, kept_sets(STRONG, z), strict=True))
    assert max(slow_kept(row, directions, STRONG)[1] for row in z.double().tolist()) > 4


@pytest.mark.parametrize("mass", [0.0, 1.0, 2.2])
def test_mass_up_to_entropy_keeps_exactly_one_token(mass):
    """beta <= lambda: both terms fall with every token added."""
    assert all(len(kept) == 1 for kept in kept_sets(TopW(mass=mass, entropy=2.2), logits()))


def test_without_geometry_it_is_the_closed_form_prefix():
    """g = 0: the prefix of the probability order that maximises lambda E[ln p] / Gamma + (beta - lambda) ln Gamma."""
    rule = TopW(geometry=0.0)
    z = logits().double()
    p, order = z.softmax(-1).sort(-1, descending=True)
    gamma = p.cumsum(-1)
    value = rule.entropy * (p * p.log()).cumsum(-1) / gamma + (rule.mass - rule.entropy) * gamma.log()
    expected = [set(ids[: k + 1].tolist()) for ids, k in zip(order, value.argmax(-1).tolist(), strict=True)]
    assert kept_sets(rule, z.float()) == expected


def test_without_entropy_and_geometry_all_candidates_stay():
    """lambda -> 0 with beta > 0 and g = 0 keeps all of C."""
    assert all(len(kept) == 15 for kept in kept_sets(TopW(entropy=0.0, geometry=0.0, top_m=15), logits()))


def test_tokens_masked_before_stay_masked():
    """A grammar's -inf is never kept and gives no NaN."""
    z = logits()
    z[:, ::2] = -math.inf
    for rule in (TopW(), TopW(entropy=0.0, geometry=0.0)):
        assert all(kept and all(i % 2 for i in kept) for kept in kept_sets(rule, z))


def test_requests_of_both_kinds_share_a_batch():
    """Top-W rows, top_k rows and untruncated rows, each by its own rule."""
    z, geometry = logits(), Geometry.of(embeddings())
    rows = TruncationRows.of([TopW(), Truncation(top_k=3), Truncation(), TopW(mass=2.0)], counts=[3, 3, 3, 3])
    found = truncate(z, rows, geometry)
    assert torch.equal(found.logits[:3], TopW().cut(z[:3], geometry))
    assert found.kept[3:].tolist() == [3, 3, 3, VOCAB, VOCAB, VOCAB, 1, 1, 1]
    expected = (found.logits.double().exp().sum(-1) / z.double().exp().sum(-1)).log()
    assert found.log_mass.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_top_w_without_the_models_geometry_is_refused():
    """One sentence that says what is missing, or whose sizes differ."""
    with pytest.raises(ValueError, match="wants the model's geometry"):
        truncate(logits(), TruncationRows.of([TopW()] * ROWS))
    with pytest.raises(ValueError, match="40 logits a row and the geometry of 30 tokens"):
        TopW().cut(logits(), Geometry.of(embeddings()[:30]))
