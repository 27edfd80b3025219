"""Own samples of a policy -> a trained drafter and its acceptance by position. The policy stays as it is.

    batch --policy, no gradient--> hidden, p --unroll--> q of K drafts, for chains from every position --loss--> step

Cross-entropy first, because total variation has no gradient to speak of while p and q do not overlap; then the loss
that is the aim. Source of the recipe: Bebop, arXiv:2606.12370, grade A-paper; the constants are ours.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from learner.drafter.chains import Ends, Reading, Sums, Unrolled, batches_by_size, counted_drafts, descend, judge
from learner.drafter.layer import MtpLayer
from learner.drafter.losses import LOSSES, Loss
from learner.drafter.rule import DraftRule
from learner.errors import BatchError
from learner.messages import KeptTokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Progress = Callable[[int, int, float], None]  # (steps done, steps in all, loss)

# As learner.micro_batch_tokens and learner.head_chunk_mib, for a drafter that is trained before there is a learner.
TOKENS_AT_ONCE = 4096
CHUNK_MIB = 64


@dataclass(frozen=True, kw_only=True)
class DrafterTraining:
    """How a drafter is trained. `drafts` are the engine's speculative.tokens: training through the drafts that will be
    made matters more than the loss."""

    drafts: int = 8
    steps: int = 160
    warmup_steps: int = 80  # with soft cross-entropy, before `loss`
    loss: Literal["cross_entropy", "soft_cross_entropy", "kl", "total_variation", "end_to_end"] = "end_to_end"
    batch: int = 64  # samples
    lr: float = 2e-3  # rises over 20 steps, then falls as a cosine to a tenth
    max_grad_norm: float = 1.0
    held_out: float = 0.05  # fraction of the samples on which the acceptance is measured
    seed: int = 0

    def __post_init__(self) -> None:
        if self.drafts < 1 or self.batch < 1 or not 0 <= self.warmup_steps <= self.steps:
            raise ValueError(
                "DrafterTraining wants drafts and batch >= 1 and 0 <= warmup_steps <= steps, got"
                f" {self.drafts}, {self.batch}, {self.warmup_steps} and {self.steps}"
            )
        if not 0.0 < self.held_out < 1.0:
            raise ValueError(f"DrafterTraining.held_out is a fraction in (0, 1), got {self.held_out}")

    def lr_at(self, step: int) -> float:
        return self.lr * min(1.0, (step + 1) / 20) * (0.55 + 0.45 * np.cos(np.pi * step / self.steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSample:
    """One response that the policy drew, end-of-sequence included; entries of the arrays are response tokens."""

    prompt_ids: Sequence[int]
    response_ids: Sequence[int]
    temperatures: np.ndarray  # float32, as recorded
    trained: np.ndarray | None = None  # bool, by the policy; None: all
    kept: KeptTokens | None = None  # what truncation left to draw from; None: everything


def train_drafter(
    policy: "PreTrainedModel",
    samples: Sequence[OwnSample],
    training: DrafterTraining,
    rule: DraftRule | None = None,
    progress: Progress = lambda done, total, loss: None,
) -> tuple[MtpLayer, list[float]]:
    """The layer, and the mean acceptance 1 - TV of each of its drafts on held-out samples.

    Raises BatchError where no sample is long enough to draft in: two response tokens.
    """
    rule = rule or DraftRule()
    usable = draftable(samples)
    held_out = usable[: max(1, int(len(usable) * training.held_out))]
    if len(usable) < 2:
        raise BatchError(
            f"a drafter is trained on responses of two tokens and more, got {len(usable)} among {len(samples)} samples"
        )
    policy.eval()
    layer = MtpLayer.like_last_layer(policy).train()
    optimizer = torch.optim.AdamW(layer.parameters(), betas=(0.9, 0.98), weight_decay=0.0)
    for step, batch in enumerate(_batches(usable[len(held_out) :], training)):
        loss = LOSSES["soft_cross_entropy" if step < training.warmup_steps else training.loss]
        for group in optimizer.param_groups:
            group["lr"] = training.lr_at(step)
        optimizer.zero_grad()
        value = _descend(policy, layer, batch, loss, rule, training.drafts)
        torch.nn.utils.clip_grad_norm_(layer.parameters(), training.max_grad_norm, error_if_nonfinite=True)
        optimizer.step()
        progress(step + 1, training.steps, value)
    return layer.eval(), judged(policy, layer, held_out, LOSSES[training.loss], rule, training.drafts).acceptance


def judged(
    policy: "PreTrainedModel",
    layer: MtpLayer,
    samples: Sequence[OwnSample],
    loss: Loss,
    rule: DraftRule,
    drafts: int,
) -> Sums:
    """What the layer would draft in `samples`."""
    sums, ends = Sums.none(drafts), Ends.of(policy)
    for part in batches_by_size(samples, TOKENS_AT_ONCE):
        with torch.no_grad():
            reading = Reading.of(policy, [samples[index] for index in part])
            judge(Unrolled(reading, layer, ends, rule, drafts), loss, chains_at_once(ends, drafts), sums)
    return sums


def draftable(samples: Sequence[OwnSample]) -> list[OwnSample]:
    """Those in which a draft counts: the first token comes with the prompt, so two response tokens and more."""
    return [sample for sample in samples if counted_drafts(sample, 1)]


def chains_at_once(ends: Ends, drafts: int) -> int:
    return max(1, CHUNK_MIB * 2**20 // (4 * len(ends.head) * drafts))


def _descend(
    policy: "PreTrainedModel", layer: MtpLayer, batch: Sequence[OwnSample], loss: Loss, rule: DraftRule, drafts: int
) -> float:
    """The gradient of the mean loss of a batch, in the layer; the loss."""
    sums, ends, total = Sums.none(drafts), Ends.of(policy), sum(counted_drafts(sample, drafts) for sample in batch)
    for part in batches_by_size(batch, TOKENS_AT_ONCE):
        unrolled = Unrolled(Reading.of(policy, [batch[index] for index in part]), layer, ends, rule, drafts)
        descend(unrolled, loss, total, chains_at_once(ends, drafts), sums)
    return float(sums.loss) / total


def _batches(samples: Sequence[OwnSample], training: DrafterTraining) -> Iterator[list[OwnSample]]:
    """`steps` batches; every sample once before any comes again."""
    rng, waiting = np.random.default_rng(training.seed), []
    for _ in range(training.steps):
        while len(waiting) < training.batch:
            waiting.extend(rng.permutation(len(samples)).tolist())
        batch, waiting = waiting[: training.batch], waiting[training.batch :]
        yield [samples[index] for index in batch]
