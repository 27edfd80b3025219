"""The distribution of a next token: entropy, temperature, probability. Sampler and learner share this definition.

    logits --softmax_with_entropy--> p at T = 1, H --policy--> T --temper--> logits / T --truncate--> kept logits
           --softmax--> what is really drawn from, and what the record means

`logits` may hold -inf (masked tokens, e.g. by a grammar): they have probability 0 and add nothing.
"""

import torch
from torch import Tensor

_LOWEST = torch.finfo(torch.float32).min  # stands for ln 0: finite, so that 0 times it is 0


def softmax_with_entropy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """logits [..., vocab] float32 -> probabilities [..., vocab] and their entropies [...] in nats, in one go.

    Rule    H = sum p (max z - z) - ln(max p): one exponential a token instead of two, and no term is negative.
    """
    probabilities = logits.softmax(-1)
    above = (logits - logits.amax(-1, keepdim=True)).clamp_min_(_LOWEST)
    return probabilities, -(torch.linalg.vecdot(probabilities, above) + probabilities.amax(-1).log())


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of softmax(logits) over the last axis: -sum p ln p. logits [..., vocab] float32 -> [...]."""
    return softmax_with_entropy(logits)[1]


def temper(logits: Tensor, temperatures: Tensor) -> Tensor:
    """logits [rows, vocab] / temperatures [rows]; rows of temperature 0 (greedy) stay as they are."""
    return logits / torch.where(temperatures > 0, temperatures, 1.0).unsqueeze(-1)


def probabilities(logits: Tensor, temperatures: Tensor) -> Tensor:
    """softmax(logits / T) [rows, vocab]; at T = 0 all mass on the most likely token, the first one on ties."""
    tempered = temper(logits, temperatures)
    return point_mass_(torch.softmax(tempered, -1, out=tempered), temperatures == 0)  # in place: a fifth faster


def point_mass_(probabilities: Tensor, rows: Tensor) -> Tensor:
    """In place: in the `rows` (bool [rows]) put all mass on the most likely token. Greedy decoding as a distribution.

    So greedy rows need no branch of their own in the draw, in verification or in the record (their logprob is 0).
    """
    index = rows.nonzero().squeeze(-1)
    if index.numel():
        most_likely = probabilities[index].argmax(-1)
        probabilities[index] = 0.0
        probabilities[index, most_likely] = 1.0
    return probabilities


def tempered_logprob(logits: Tensor, token_ids: Tensor, temperatures: Tensor) -> Tensor:
    """Log-probability in nats of `token_ids` under softmax(logits / temperature).

    logits [..., vocab], token_ids [...] int64, temperatures [...] > 0 -> [...].
    """
    tempered = logits / temperatures.unsqueeze(-1)
    return tempered.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1) - tempered.logsumexp(-1)
