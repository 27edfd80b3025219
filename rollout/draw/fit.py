"""Were these tokens drawn as their record says? What the model itself says of them, and a test of the draws.

    logits (the learner's), drawn tokens --recompute--> entropy, logprob, and a place in [0, 1) of every token
    places --unevenness--> p-value: small where the tokens were not drawn from these distributions

Every token has a distribution of its own, so counts of tokens cannot be compared. Their places can, all in one test.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rollout.draw.distribution import point_mass_, softmax_with_entropy, temper
from rollout.draw.truncation import Geometry, TopW, Truncation, TruncationRows, truncate

DEGREES = 4  # of the polynomials: a shift, a spread, a skew, and a change at both ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A response as drawn: `temperatures` float32, one per entry of `response_ids` int32."""

    prompt_ids: tuple[int, ...]
    response_ids: np.ndarray
    temperatures: np.ndarray
    truncation: Truncation | TopW


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """What a model says of a drawn response, at its recorded temperatures; one entry per response token.

    entropies   float32 nats, at T = 1
    logprobs    float32 nats, under the distribution after temperature and truncation
    untempered  float32 nats, under the one at T = 1 without truncation
    places      float64 [2, tokens], see `places`
    """

    entropies: np.ndarray
    logprobs: np.ndarray
    untempered: np.ndarray
    places: np.ndarray


@torch.no_grad()
def recompute(
    logits: Tensor, drawn: Drawn, geometry: Geometry | None = None, generator: torch.Generator | None = None
) -> Recomputed:
    """logits [tokens, vocab] float32 of the response; `geometry` is wanted for TopW."""
    tokens = torch.tensor(drawn.response_ids, device=logits.device).long()
    temperatures = torch.tensor(drawn.temperatures, device=logits.device)
    plain, entropies = softmax_with_entropy(logits)
    cuts = TruncationRows.of([drawn.truncation] * len(tokens), device=logits.device)
    tempered, mine = temper(logits, temperatures), tokens.unsqueeze(1)
    cut = truncate(tempered, cuts, geometry).logits
    # A token at the border of its set may fall on the other side here, by rounding: it stays in.
    final = cut.scatter(1, mine, tempered.gather(1, mine)).softmax(-1)
    final = point_mass_(final, temperatures == 0.0)
    fractions = torch.rand(len(tokens), dtype=torch.float64, generator=generator).to(logits.device)
    return Recomputed(
        entropies=entropies.cpu().numpy(),
        logprobs=_of(final, tokens),
        untempered=_of(plain, tokens),
        places=places(final, tokens, fractions).cpu().numpy(),
    )


def places(probabilities: Tensor, tokens: Tensor, fractions: Tensor) -> Tensor:
    """The randomised probability integral transform of each token, in two orders of the vocabulary.

    Rule    u = (mass of the tokens before it) + fraction * (mass of its equals), uniform iff drawn as claimed
    Shapes  probabilities [n, vocab], tokens [n] int64, fractions [n] uniform in [0, 1) -> float64 [2, n]:
            [0] from the most to the least likely token, where a wrong temperature or a lost tail shows;
            [1] in the order of token ids, where an error in inverting the distribution function shows.
    """
    probabilities = probabilities.double()
    mine = probabilities.gather(1, tokens.unsqueeze(1))
    likelier = probabilities.masked_fill(probabilities <= mine, 0.0).sum(1)
    equal = probabilities.masked_fill(probabilities != mine, 0.0).sum(1)
    before = probabilities.cumsum(1).gather(1, tokens.unsqueeze(1)).squeeze(1) - mine.squeeze(1)
    return torch.stack((likelier + equal * fractions, before + mine.squeeze(1) * fractions)).clamp(0.0, 1.0)


def unevenness(places: np.ndarray) -> float:
    """An upper bound on the probability that `places` [n] are as uneven as this, or more, if drawn as claimed.

    Rule    t_j = |sum_i phi_j(u_i)| for the Legendre polynomials phi_1..phi_4, orthonormal on [0, 1] and at most
            M_j = sqrt(2 j + 1);  p = 2 * 4 * max_j exp(-t_j^2 / (2 (n + M_j t_j / 3)))
    Source  Neyman's smooth test (1937) with Bernstein's inequality in place of its limit: valid for every n and, as
            the places of a response are independent of what came before, for tokens of one response too.
            The chi-square limit is not: at n = 64 it gives a false alarm of 1e-5 four times too often (simulated).
    """
    count = len(places)
    degrees = np.arange(1, DEGREES + 1)
    bounds = np.sqrt(2.0 * degrees + 1.0)
    values = np.polynomial.legendre.legvander(2.0 * np.asarray(places, np.float64) - 1.0, DEGREES)[:, 1:]
    sums = np.abs(values.sum(0) * bounds)
    exponent = float((sums**2 / (2.0 * (max(count, 1) + bounds * sums / 3.0))).max())
    return min(1.0, 2.0 * DEGREES * math.exp(-exponent))


def _of(probabilities: Tensor, tokens: Tensor) -> np.ndarray:
    return probabilities.gather(1, tokens.unsqueeze(1)).squeeze(1).log().cpu().numpy()
