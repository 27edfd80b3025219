"""What the objective sees: outcomes of whole samples before the forward pass, statistics of their tokens after it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from learner.objective.observations import AttentionEntropy
from learner.objective.reads import Read

# What a piece may declare in `needs` beyond the fields of TokenStats that always exist.
#   entropy_grad  entropies carry a gradient
#   lp_ref        a second model, the one the run started from, evaluates every token as well
# and any Read (reads.py) or AttentionEntropy (observations.py), which then stands in TokenStats.reads, and an
# AnswerState, for TokenStats.answers and peers.
AVAILABLE = frozenset({"entropy_grad", "lp_ref"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """All samples of a train batch, the same on every rank.

    rewards     float64 [seq]
    unshaped    float64 [seq] rewards before shaping, as the verifier gave them
    groups      int64   [seq] samples of one prompt share it
    lengths     int64   [seq] trained response tokens
    advantages  float64 [seq] None before they are estimated; filters see them
    prompts     int64   [seq] samples with the same prompt tokens share it; a group may have several
    heat        float64 [seq] the temperature at which all trained tokens were drawn, NaN where they differ
    entropies   one float64 [tok] per sample: nats at T = 1 at its trained tokens, as recorded when they were drawn
    """

    rewards: Tensor
    unshaped: Tensor
    groups: Tensor
    lengths: Tensor
    advantages: Tensor | None = None
    prompts: Tensor | None = None
    heat: Tensor | None = None
    entropies: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """The answer states of all samples of one optimizer step, the same on every rank; detached.

    states  float32 [sample, channel]
    group   int64   [sample]
    marks   float32 [sample] by name
    """

    states: Tensor
    group: Tensor
    marks: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStats:
    """The response tokens of one micro-batch, right-padded; entries outside `mask` are 0 (1 for the temperature).

    mask         bool    [seq, tok] true for response tokens that are trained
    group        int64   [seq]
    advantage    float32 [seq, tok]
    lp           float32 [seq, tok] nats under the current policy at `temperature`; the only one with a gradient
    lp_old       float32 [seq, tok] nats under the policy before this train batch, same temperature, by the learner
    lp_sampler   float32 [seq, tok] nats as recorded when the token was drawn
    temperature  float32 [seq, tok] as recorded when the token was drawn
    entropy      float32 [seq, tok] nats at T = 1 under the current policy; detached unless a piece needs "entropy_grad"
    lp_ref       float32 [seq, tok] nats under the reference, at `temperature`; None unless a piece needs "lp_ref"
    reads        float32 [seq, tok] by Read or AttentionEntropy, 0 in pads: those that the pieces need
    marks        float32 [seq] by name: what the objective's `marks` made of whole groups
    answers      float32 [seq, channel] hidden state before the answer, with gradient; None unless a piece needs it
    peers        the same of all samples, whole groups of them; None unless a piece needs `answers`
    """

    mask: Tensor
    group: Tensor
    advantage: Tensor
    lp: Tensor
    lp_old: Tensor
    lp_sampler: Tensor
    temperature: Tensor
    entropy: Tensor
    lp_ref: Tensor | None = None
    reads: Mapping[Read | AttentionEntropy, Tensor] = field(default_factory=dict)
    marks: Mapping[str, Tensor] = field(default_factory=dict)
    answers: Tensor | None = None
    peers: Peers | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What the loss is divided by, counted over all ranks and micro-batches of one optimizer step."""

    tokens: int  # trained response tokens
    sequences: int  # trained samples
    groups: int  # ... and the prompts they belong to
