"""Reads: statistics of a token that take all of its logits. A piece lists those it wants in `needs`.

    needs --> the chunked head (learner/head.py) calls each read once per block of logits --> TokenStats.reads[read]

A read is its own key: `stats.reads[TopPEntropy(p=0.8)]`. Only what a piece needs is computed, in the forward pass that
computes the log-probabilities anyway, and never for more than a block of tokens at a time.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What a read sees: some rows of logits, and the tokens that are read off them.

    logits        float32 [row, vocab] at T = 1
    temperatures  float32 [row, 1] as recorded, or None where all are 1
    allowed       bool [row, vocab] what the sampler left to draw from, None: everything
    rows, tokens  int64 [pick] the row of each token, and the token
    reference     float32 [row, vocab] the reference's logits at T = 1, None unless a read needs them
    teacher       float32 [pick, vocab] the logits at T = 1 of the policy that has seen feedback, None unless a read
                  needs them; without meaning where `taught`, bool [pick], is false: there was no feedback
    """

    logits: Tensor
    temperatures: Tensor | None
    allowed: Tensor | None
    rows: Tensor
    tokens: Tensor
    reference: Tensor | None = None
    teacher: Tensor | None = None
    taught: Tensor | None = None

    def logprobs(self, temperature: Tensor | float | None) -> Tensor:
        """[row, vocab] nats at a temperature, inside what was left to draw from and minus infinity outside."""
        return self._inside(self.logits, temperature)

    def reference_logprobs(self, temperature: Tensor | float | None) -> Tensor:
        """The same of the reference."""
        return self._inside(self.reference, temperature)

    def _inside(self, logits: Tensor, temperature: Tensor | float | None) -> Tensor:
        logits = logits if temperature is None else logits / temperature
        return (logits if self.allowed is None else logits.masked_fill(~self.allowed, -torch.inf)).log_softmax(-1)


class Read(ABC):
    """One number per token. `gradient`: whether it carries one to the model; `reference`: it reads that model too;
    `teacher`: it reads the policy with feedback in its prompt too; `least_vocabulary`: of how many tokens at least.
    """

    gradient: bool = False
    least_vocabulary: int = 1
    reference: ClassVar[bool] = False
    teacher: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, block: Block) -> Tensor:
        """float32 [pick]."""


@dataclass(frozen=True, kw_only=True)
class LogProbAt(Read):
    """The token's log-probability at a temperature that need not be the one it was drawn at.

    Units   nats, inside what was left to draw from.  temperature: divisor of the logits, > 0.
    """

    temperature: float
    gradient: bool = False

    def __post_init__(self) -> None:
        if not self.temperature > 0.0:
            raise ValueError(f"LogProbAt.temperature divides logits and is > 0, got {self.temperature}")

    def __call__(self, block: Block) -> Tensor:
        """float32 [pick]."""
        return block.logprobs(self.temperature)[block.rows, block.tokens]


@dataclass(frozen=True, kw_only=True)
class SurplusGap(Read):
    """How far the token's surplus lies below the policy's own mean of it: punishing it costs entropy where positive.

    Rule    N - S, S = pi_y (H + ln pi_y), N = sum_a pi_a S_a = H sum pi^2 + sum pi^2 ln pi; pi and its entropy H are of
            the distribution the token was drawn from: at the recorded temperature, inside what was left to draw from.
    Source  Clip_V, arXiv:2602.03392, grade A-code (Trinity-RFT, clipv_dp_actor.py).
    """

    def __call__(self, block: Block) -> Tensor:
        """float32 [pick], detached."""
        logprobs = block.logprobs(block.temperatures)
        pi = logprobs.exp()
        weighted = torch.xlogy(pi, pi)
        entropy = -weighted.sum(-1)
        mean = entropy * pi.square().sum(-1) + (pi * weighted).sum(-1)
        own = logprobs[block.rows, block.tokens]
        return mean[block.rows] - own.exp() * (entropy[block.rows] + own)


@dataclass(frozen=True, kw_only=True)
class TopPEntropy(Read):
    """The entropy among the likeliest tokens alone, which the long tail cannot raise. With gradient.

    Rule    of the tokens by falling probability keep those before the one with which their sum reaches p (that one is
            left out), at most `ranks`; q = pi renormalised over them; -sum q ln q, and 0 where none is left
    Source  SIREN, arXiv:2509.25133, grade A-code (Linn3a/siren, dp_actor.py).
    Units   nats at T = 1, over the whole vocabulary.
    """

    gradient: ClassVar[bool] = True
    p: float = 0.8
    ranks: int = 10_000

    def __post_init__(self) -> None:
        if not (0.0 < self.p <= 1.0 and self.ranks >= 1):
            raise ValueError(f"TopPEntropy needs p in (0, 1] and ranks >= 1, got {self.p} and {self.ranks}")

    def __call__(self, block: Block) -> Tensor:
        """float32 [pick]."""
        top = block.logits.topk(min(self.ranks, block.logits.shape[-1])).values
        reached = (top - block.logits.logsumexp(-1, keepdim=True)).detach().exp().cumsum(-1)
        shifted = (top - top[:, :1]).masked_fill(reached >= self.p, -torch.inf)
        inside = shifted > -torch.inf
        weight = shifted.exp()
        total = torch.where(inside[:, 0], weight.sum(-1), 1.0)
        mean = (weight * shifted.masked_fill(~inside, 0.0)).sum(-1) / total
        return (total.log() - mean)[block.rows]


@dataclass(frozen=True, kw_only=True)
class ReferenceDivergence(Read):
    """The exact KL(pi || pi_reference) of the next token. With gradient.

    Rule    sum_a pi_a (ln pi_a - ln pi_reference_a), over the whole vocabulary
    Units   nats at T = 1.
    """

    gradient: ClassVar[bool] = True
    reference: ClassVar[bool] = True

    def __call__(self, block: Block) -> Tensor:
        """float32 [pick]."""
        logprobs = block.logits.log_softmax(-1)
        return (logprobs.exp() * (logprobs - block.reference.log_softmax(-1))).sum(-1)[block.rows]


@dataclass(frozen=True, kw_only=True)
class TeacherCrossEntropy(Read):
    """How far the policy is from what it would have said with feedback in its prompt. With gradient to the former.

    Rule    -sum_a q(a) ln pi(a), q the teacher, without gradient; 0 where the sample has no feedback
    Units   nats at the recorded temperature, which both have, inside what was left to draw from: the distribution that
            the response was drawn from, without which a future cost is not the gradient of an expectation.
    """

    gradient: ClassVar[bool] = True
    teacher: ClassVar[bool] = True

    def __call__(self, block: Block) -> Tensor:
        """float32 [pick]."""
        ours = block.logprobs(block.temperatures)[block.rows]
        theirs = block.teacher if block.temperatures is None else block.teacher / block.temperatures[block.rows]
        if block.allowed is not None:
            cut = ~block.allowed[block.rows]
            ours, theirs = ours.masked_fill(cut, 0.0), theirs.masked_fill(cut, -torch.inf)
        return torch.where(block.taught, -(theirs.softmax(-1) * ours).sum(-1), 0.0)


@dataclass(frozen=True, kw_only=True)
class AnchorRatio(Read):
    """How much probability the policy has on what the reference would have said instead. With gradient to the policy.

    Rule    S = the k likeliest tokens of the reference without the drawn one; sum_S pi / max(sum_S pi_reference, floor)
    Source  APO, arXiv:2602.05717, grade A'-third: k 8; the floor is ours.
    Units   a ratio, 1 where the policy is the reference. Both are the distribution that the token was drawn from, at
            the recorded temperature and inside what was left to draw from, so that it compares with the token's ratio.
    Traps   where the reference is sure of the drawn token the ratio may reach 1 / its probability of all else, at most
            1 / floor. Where truncation left the drawn token alone, S is empty and the ratio 0, without gradient.
    """

    gradient: ClassVar[bool] = True
    reference: ClassVar[bool] = True
    k: int = 8
    floor: float = 1e-6

    def __post_init__(self) -> None:
        if not (self.k >= 1 and 0.0 < self.floor <= 1.0):
            raise ValueError(f"AnchorRatio needs k >= 1 and floor in (0, 1], got {self.k} and {self.floor}")

    @property
    def least_vocabulary(self) -> int:
        return self.k

    def __call__(self, block: Block) -> Tensor:
        """float32 [pick]."""
        theirs, anchors = block.reference_logprobs(block.temperatures).topk(self.k, dim=-1)  # [row, k]
        ours = block.logprobs(block.temperatures).gather(1, anchors)[block.rows].exp()  # [pick, k]
        other = anchors[block.rows] != block.tokens[:, None]
        held = (theirs[block.rows].exp() * other).sum(-1)
        return (ours * other).sum(-1) / held.clamp_min(self.floor)
