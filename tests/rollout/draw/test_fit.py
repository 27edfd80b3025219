"""Places of drawn tokens and the test that they are even: by hand, by simulation, and with the power it claims."""

import math

import numpy as np
import torch

from rollout.draw.fit import Drawn, places, recompute, unevenness
from rollout.draw.truncation import Truncation


def test_places_by_hand():
    """Mass of likelier tokens plus a fraction of the equals; and mass of lower ids plus a fraction of its own."""
    probabilities = torch.tensor([[0.2, 0.5, 0.2, 0.1]]).expand(4, -1)
    found = places(probabilities, torch.arange(4), torch.full((4,), 0.25, dtype=torch.float64))
    by_likelihood = [0.5 + 0.25 * 0.4, 0.25 * 0.5, 0.5 + 0.25 * 0.4, 0.9 + 0.25 * 0.1]
    by_id = [0.25 * 0.2, 0.2 + 0.25 * 0.5, 0.7 + 0.25 * 0.2, 0.9 + 0.25 * 0.1]
    torch.testing.assert_close(found, torch.tensor([by_likelihood, by_id], dtype=torch.float64), atol=1e-7, rtol=0)


def test_recomputed_logprobs_by_hand():
    """Temperature 2 on logits 2 ln (4, 2, 1, 1) leaves (4, 2, 1, 1) / 8; top-k 2 leaves (2, 1) / 3."""
    logits = 2.0 * torch.tensor([[4.0, 2.0, 1.0, 1.0]]).log()
    drawn = Drawn(
        prompt_ids=(1,),
        response_ids=np.array([1], np.int32),
        temperatures=np.array([2.0], np.float32),
        truncation=Truncation(top_k=2),
    )
    found = recompute(logits, drawn)
    plain = np.array([16, 4, 1, 1]) / 22
    assert math.isclose(found.logprobs[0], math.log(1 / 3), rel_tol=1e-5)
    assert math.isclose(found.untempered[0], math.log(4 / 22), rel_tol=1e-5)
    assert math.isclose(found.entropies[0], -(plain * np.log(plain)).sum(), rel_tol=1e-5)
    assert (found.places[0] >= 2 / 3).all()


def test_a_token_at_the_border_of_its_set_stays_in():
    """Where rounding puts a drawn token outside the set here, it counts as the set's last: 1 of (4, 2, 1) / 7."""
    drawn = Drawn(
        prompt_ids=(1,),
        response_ids=np.array([2], np.int32),
        temperatures=np.array([1.0], np.float32),
        truncation=Truncation(top_k=2),
    )
    found = recompute(torch.tensor([[4.0, 2.0, 1.0, 1.0]]).log(), drawn)
    assert math.isclose(found.logprobs[0], math.log(1 / 7), rel_tol=1e-5)


def test_even_places_are_never_found_uneven():
    """An upper bound: of 20 000 even samples of any size, no more than the share p has a p-value below p."""
    rng = np.random.default_rng(0)
    for count in (1, 8, 64, 512):
        found = np.array([unevenness(rng.random(count)) for _ in range(5000)])
        for level in (0.3, 0.1, 0.01, 1e-3):
            assert (found < level).mean() <= level + 3 * math.sqrt(level / 5000)


def test_the_power_that_the_self_check_claims():
    """17 % of the mass moved from one half to the other is seen at 1 024 tokens, 36 % at 256, at p < 2.5e-7."""
    rng = np.random.default_rng(1)
    for count, moved in ((1024, 0.17), (256, 0.36)):
        shifted = [(rng.random(count) + (rng.random(count) >= 0.5 + moved)) / 2 for _ in range(1000)]
        assert np.mean([unevenness(one) < 2.5e-7 for one in shifted]) >= 0.995


def test_each_kind_of_unevenness_is_seen():
    """A shift, a spread, a skew and lost ends each give a p-value below 1e-9 at 4 000 tokens."""
    u = np.random.default_rng(2).random(4000)
    for uneven in (u**1.4, 0.1 + 0.8 * u, 0.5 + 0.5 * (2 * u - 1) ** 3, u**0.7):
        assert unevenness(uneven) < 1e-9
