import pytest
import torch

from learner.objective.select import EntropyQuantile


def slow_choice(entropy, mask, keep, scope):
    """Sort and cut by hand: linear interpolation between order statistics, as numpy and torch define quantiles."""

    def threshold(values):
        values = sorted(values)
        place = (1 - keep) * (len(values) - 1)
        below = int(place)
        above = min(below + 1, len(values) - 1)
        return values[below] + (place - below) * (values[above] - values[below])

    rows = [[h for h, m in zip(hs, ms, strict=True) if m] for hs, ms in zip(entropy, mask, strict=True)]
    pooled = [h for row in rows for h in row]
    chosen = []
    for row, (hs, ms) in enumerate(zip(entropy, mask, strict=True)):
        pool = rows[row] if scope == "response" else pooled
        chosen.append([bool(m and pool and h >= threshold(pool) - 1e-12) for h, m in zip(hs, ms, strict=True)])
    return chosen


@pytest.mark.parametrize("scope", ["response", "batch"])
@pytest.mark.parametrize("keep", [0.2, 0.5, 1.0])
def test_the_least_sure_tokens_are_kept(keep, scope, token_stats):
    """The kept tokens are those a sort by hand keeps; padding neither counts nor is chosen."""
    torch.manual_seed(0)
    entropy = torch.rand(4, 6, dtype=torch.float64)
    mask = torch.tensor([[1] * 6, [1] * 3 + [0] * 3, [1] + [0] * 5, [0] * 6], dtype=torch.bool)
    stats = token_stats(mask, entropy=entropy)
    chosen = EntropyQuantile(keep=keep, scope=scope)(stats)
    assert chosen.tolist() == slow_choice(entropy.tolist(), mask.tolist(), keep, scope)


def test_keeping_everything_keeps_everything(token_stats):
    mask = torch.tensor([[True, True, False]])
    chosen = EntropyQuantile(keep=1.0)(token_stats(mask, entropy=[[0.3, 0.1, 0.0]]))
    assert chosen.tolist() == mask.tolist()


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.5])
def test_an_impossible_fraction_is_refused(keep):
    with pytest.raises(ValueError, match=r"fraction of tokens in \(0, 1\]"):
        EntropyQuantile(keep=keep)
