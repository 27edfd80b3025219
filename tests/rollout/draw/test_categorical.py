"""The draw of one token per row: the inverse of the distribution function, found in blocks or in one sum."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.draw.categorical import draw, uniforms


def slow_draw(weights: torch.Tensor, uniform: float) -> int:
    target, running = uniform * weights.double().sum().item(), 0.0
    for token, weight in enumerate(weights.double().tolist()):
        running += weight
        if running > target:
            return token
    raise AssertionError("no mass")


@pytest.mark.parametrize("vocab", [1, 7, 320, 2048, 4099, 49152])
def test_the_token_is_the_first_whose_running_sum_exceeds_the_uniform(vocab):
    """One long sum, blocks, and a vocabulary that no block divides agree with a float64 loop."""
    generator = torch.Generator().manual_seed(vocab)
    weights = torch.rand(6, vocab, generator=generator) ** 4
    chosen = uniforms(6, device=weights.device, generator=generator)
    expected = [slow_draw(row, value) for row, value in zip(weights, chosen.tolist(), strict=True)]
    assert draw(weights, chosen).tolist() == expected


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.sampled_from([5, 2048, 2304]), st.sampled_from([0.0, 0.5, 1.0 - 2.0**-53]))
def test_a_token_without_weight_is_never_drawn(seed, vocab, uniform):
    """Not at either end of the unit interval, and not beside a single token that holds all the mass."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(8, vocab, generator=generator) * (torch.rand(8, vocab, generator=generator) < 0.01)
    weights[torch.arange(8), torch.randint(vocab, (8,), generator=generator)] += 1e-20
    drawn = draw(weights, torch.full((8,), uniform, dtype=torch.float64))
    assert (weights.gather(1, drawn.unsqueeze(1)) > 0).all()


@pytest.mark.parametrize("vocab", [320, 4096])
def test_draws_follow_the_weights(vocab):
    """100 000 evenly spaced uniforms: every token's share is its probability to 1 / 100 000 (no chance involved)."""
    weights = torch.rand(1, vocab, generator=torch.Generator().manual_seed(1)) ** 3
    count = 100_000
    drawn = torch.cat(
        [
            draw(weights.expand(part.numel(), -1), part)
            for part in ((torch.arange(count, dtype=torch.float64) + 0.5) / count).split(4000)
        ]
    )
    share = torch.bincount(drawn, minlength=vocab).double() / count
    exact = (weights.double() / weights.double().sum()).squeeze(0)
    assert (share - exact).abs().max() <= 1.01 / count
