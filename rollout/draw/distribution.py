"""Entropy and tempered log-probability of next-token logits; the one definition that sampler and learner share."""

import torch
from torch import Tensor


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of softmax(logits) over the last axis: logsumexp(z) - sum softmax(z) z.

    logits [..., vocab] float32 -> [...]. Entries of -inf (masked tokens) have probability 0 and add nothing.
    """
    logprobs = logits.log_softmax(-1)
    return -(logprobs.exp() * logprobs.masked_fill(logprobs == -torch.inf, 0.0)).sum(-1)


def tempered_logprob(logits: Tensor, token_ids: Tensor, temperatures: Tensor) -> Tensor:
    """Log-probability in nats of `token_ids` under softmax(logits / temperature).

    logits [..., vocab], token_ids [...] int64, temperatures [...] > 0 -> [...].
    """
    tempered = logits / temperatures.unsqueeze(-1)
    return tempered.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1) - tempered.logsumexp(-1)
