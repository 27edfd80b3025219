"""Own samples of a policy -> a trained drafter and its acceptance by position. The policy stays as it is.

    batch --policy, no gradient--> hidden, p --unroll--> q of K drafts, for chains from every position --loss--> step

Cross-entropy first, because total variation has no gradient to speak of while p and q do not overlap; then the loss
that is the aim. Source of the recipe: Bebop, arXiv:2606.12370, grade A-paper; the constants are ours.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from learner.drafter.layer import MtpLayer
from learner.drafter.losses import LOSSES, acceptance
from learner.errors import BatchError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Progress = Callable[[int, int, float], None]  # (steps done, steps in all, loss)


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


class OwnSample(NamedTuple):
    """One response that the policy drew at T = 1: token ids, int, end-of-sequence included."""

    prompt_ids: Sequence[int]
    response_ids: Sequence[int]


class Chains(NamedTuple):
    """What a batch says about q: everything [draft, chain, ...]."""

    p: Tensor
    logits: Tensor
    tokens: Tensor  # int64
    counted: Tensor  # bool: the draft is of a token of the response


def train_drafter(
    policy: "PreTrainedModel",
    samples: Sequence[OwnSample],
    training: DrafterTraining,
    progress: Progress = lambda done, total, loss: None,
) -> tuple[MtpLayer, list[float]]:
    """The layer, and the mean acceptance 1 - TV of each of its drafts on held-out samples.

    Raises BatchError where no sample is long enough to draft in: two response tokens.
    """
    usable = [sample for sample in samples if len(sample.response_ids) >= 2]
    held_out = usable[: max(1, int(len(usable) * training.held_out))]
    if len(usable) < 2:
        raise BatchError(
            f"a drafter is trained on responses of two tokens and more, got {len(usable)} among {len(samples)} samples"
        )
    policy.eval()
    layer = MtpLayer(policy).train()
    optimizer = torch.optim.AdamW(layer.parameters(), betas=(0.9, 0.98), weight_decay=0.0)
    for step, batch in enumerate(_batches(usable[len(held_out) :], training)):
        loss = LOSSES["soft_cross_entropy" if step < training.warmup_steps else training.loss]
        for group in optimizer.param_groups:
            group["lr"] = training.lr_at(step)
        value = loss(*chains_of(policy, layer, batch, training.drafts))
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(layer.parameters(), training.max_grad_norm, error_if_nonfinite=True)
        optimizer.step()
        progress(step + 1, training.steps, value.item())
    layer.eval()
    with torch.no_grad():
        found = chains_of(policy, layer, held_out, training.drafts)
        alpha = acceptance(found.p, found.logits)
    return layer, [float(alpha[draft][found.counted[draft]].mean()) for draft in range(training.drafts)]


def chains_of(policy: "PreTrainedModel", layer: MtpLayer, batch: Sequence[OwnSample], drafts: int) -> Chains:
    """p and the drafter's logits for the chains that start at every position from which a response token is drafted."""
    ids, first, length = _padded(batch, policy.device)
    with torch.no_grad():
        hidden, logits = _of_policy(policy, ids)
        following = policy.get_input_embeddings()(ids.roll(-1, 1))
        rotary = policy.base_model.rotary_emb(hidden, torch.arange(ids.shape[1], device=ids.device)[None])
    outputs = layer.unroll(hidden, following, rotary, drafts)
    at = torch.arange(ids.shape[1], device=ids.device)
    # The first draft at t is of token t + 2, and before the first response token is drawn nothing is drafted.
    rows, starts = ((at >= first[:, None] - 1) & (at < length[:, None] - 2)).nonzero(as_tuple=True)
    counted = torch.stack([starts + draft < length[rows] - 2 for draft in range(drafts)])
    places = [(starts + draft).clamp_max(ids.shape[1] - 3) for draft in range(drafts)]
    head, bias = policy.get_output_embeddings().weight.detach(), policy.get_output_embeddings().bias
    bias = None if bias is None else bias.detach()
    drafted = [functional.linear(out[rows, place], head, bias) for out, place in zip(outputs, places, strict=True)]
    return Chains(
        p=torch.stack([logits[rows, place + 1] for place in places]).softmax(-1),
        logits=torch.stack(drafted).float(),
        tokens=torch.stack([ids[rows, place + 2] for place in places]),
        counted=counted,
    )


def _of_policy(policy: "PreTrainedModel", ids: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states before the final norm [seq, tok, channel] and logits float32 [seq, tok, vocab]."""
    caught: list[Tensor] = []
    hook = policy.base_model.norm.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))
    try:
        logits = policy(input_ids=ids, use_cache=False).logits.float()
    finally:
        hook.remove()
    return caught[0], logits


def _padded(batch: Sequence[OwnSample], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """ids [seq, tok] padded on the right with 0 (causal: no real token sees it), prompt and whole lengths [seq]."""
    whole = [[*sample.prompt_ids, *sample.response_ids] for sample in batch]
    ids = torch.zeros(len(whole), max(map(len, whole)), dtype=torch.int64)
    for row, tokens in enumerate(whole):
        ids[row, : len(tokens)] = torch.tensor(tokens)
    first, length = (
        torch.tensor([len(sample.prompt_ids) for sample in batch]),
        torch.tensor([len(tokens) for tokens in whole]),
    )
    return ids.to(device), first.to(device), length.to(device)


def _batches(samples: Sequence[OwnSample], training: DrafterTraining) -> Iterator[list[OwnSample]]:
    """`steps` batches; every sample once before any comes again."""
    rng, waiting = np.random.default_rng(training.seed), []
    for _ in range(training.steps):
        while len(waiting) < training.batch:
            waiting.extend(rng.permutation(len(samples)).tolist())
        batch, waiting = waiting[: training.batch], waiting[training.batch :]
        yield [samples[index] for index in batch]
