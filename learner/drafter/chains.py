"""From samples to the drafts that would have been made in them, and to what a loss says of those.

    samples --policy, no gradient--> Reading: its hidden states --MtpLayer, K drafts--> Unrolled
            --a few chains at a time--> Chains --loss--> gradient of the layer, Sums

A chain starts wherever the engine may start one: at the last prompt token and at every response token that another
follows twice. What exists at one time is `chunk` chains: Chains and its gradients, some eight blocks float32
[draft, chunk, vocab]; and of a Reading the activations of K runs of one layer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from learner.drafter.layer import MtpLayer
from learner.drafter.losses import Chains, Loss, acceptance
from learner.drafter.rule import DraftRule
from learner.messages import KeptTokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Drawn(Protocol):
    """What is read of a sample: a TrainSample is one. Entries of the arrays are response tokens."""

    prompt_ids: Sequence[int]
    response_ids: Sequence[int]
    temperatures: np.ndarray
    trained: np.ndarray | None
    kept: KeptTokens | None


class Ends(NamedTuple):
    """Where the policy begins and ends; policy and drafter share both."""

    embedding: Tensor  # [vocab, channel]
    head: Tensor  # [vocab, channel]
    bias: Tensor | None

    @classmethod
    def of(cls, policy: "PreTrainedModel") -> "Ends":
        """No gradient reaches them."""
        head = policy.get_output_embeddings()
        bias = None if head.bias is None else head.bias.detach()
        return cls(policy.get_input_embeddings().weight.detach(), head.weight.detach(), bias)

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 [..., vocab], rounded where the engine rounds."""
        return functional.linear(hidden.to(self.head.dtype), self.head, self.bias).float()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Samples as the policy reads them, padded on the right with 0 (causal: no real token sees it).

    ids           int64   [seq, tok]
    prompt, whole int64   [seq] lengths, of the prompt and in all
    temperatures  float32 [seq, tok] as recorded, 1 outside of responses
    drawn         bool    [seq, tok] by the policy
    kept          int64   ids of all kept tokens one after the other, where those of [seq, tok] begin, and how many
                  they are (0: all); None where nothing was cut
    before, after [seq, tok, channel] the policy's hidden states before and after its final norm
    rotary        cos and sin of the positions
    """

    ids: Tensor
    prompt: Tensor
    whole: Tensor
    temperatures: Tensor
    drawn: Tensor
    kept: tuple[Tensor, Tensor, Tensor] | None
    before: Tensor
    after: Tensor
    rotary: tuple[Tensor, Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, policy: "PreTrainedModel", samples: Sequence[Drawn]) -> "Reading":
        """One forward pass of the policy."""
        prompt, whole = (
            np.array([len(sample.prompt_ids) for sample in samples]),
            np.array([len(sample.prompt_ids) + len(sample.response_ids) for sample in samples]),
        )
        shape = len(samples), int(whole.max())
        ids, temperatures, drawn = np.zeros(shape, np.int64), np.ones(shape, np.float32), np.zeros(shape, bool)
        for row, sample in enumerate(samples):
            response = slice(prompt[row], whole[row])
            ids[row, : prompt[row]], ids[row, response] = sample.prompt_ids, sample.response_ids
            temperatures[row, response] = sample.temperatures
            drawn[row, response] = True if sample.trained is None else sample.trained
        device = policy.device
        tokens = torch.from_numpy(ids).to(device)
        before, after = _states(policy, tokens)
        return cls(
            ids=tokens,
            prompt=torch.from_numpy(prompt).to(device),
            whole=torch.from_numpy(whole).to(device),
            temperatures=torch.from_numpy(temperatures).to(device),
            drawn=torch.from_numpy(drawn).to(device),
            kept=_kept(samples, prompt, shape, device),
            before=before,
            after=after,
            rotary=policy.base_model.rotary_emb(before.float(), torch.arange(shape[1], device=device)[None]),
        )


class Unrolled:
    """The drafts of all chains of a reading: `outputs` [draft, chain, channel], with the layer's gradient."""

    def __init__(self, reading: Reading, layer: MtpLayer, ends: Ends, rule: DraftRule, drafts: int) -> None:
        self._reading, self._ends, self._rule = reading, ends, rule
        self._geometry = rule.geometry(ends.embedding)
        following = functional.embedding(reading.ids.roll(-1, 1), ends.embedding)
        outputs = layer.unroll(reading.before.float(), following.float(), reading.rotary, drafts)
        width = reading.ids.shape[1]
        at = torch.arange(width, device=reading.ids.device)
        # The first draft at t is of token t + 2, and before the first response token is drawn nothing is drafted.
        may_start = (at >= reading.prompt[:, None] - 1) & (at < reading.whole[:, None] - 2)
        self.rows, self.starts = may_start.nonzero(as_tuple=True)
        ahead = self.starts + torch.arange(drafts, device=at.device)[:, None]  # [draft, chain]
        self.places = ahead.clamp_max(max(width - 3, 0))
        inside = ahead < reading.whole[self.rows] - 2
        self.counted = (inside & reading.drawn[self.rows, self.places + 2]).cummin(0).values
        self.outputs = torch.stack([out[self.rows, place] for out, place in zip(outputs, self.places, strict=True)])

    def chunks(self, chunk: int) -> Iterator[slice]:
        """At most `chunk` chains each."""
        count = len(self.rows)
        return (slice(start, min(start + chunk, count)) for start in range(0, count, chunk))

    def chains(self, outputs: Tensor, chosen: slice) -> Chains:
        """Of the chains `chosen`, whose `outputs` [draft, chain, channel] may be another leaf of the same values."""
        reading, places = self._reading, self.places[:, chosen]
        rows, drafts = self.rows[chosen].expand_as(places), len(places)
        recorded = reading.temperatures[rows, places + 2]
        last = reading.temperatures[rows, (self.starts[chosen] + 1).expand_as(places)]
        logits = self._rule.temper(self._ends.logits(outputs.flatten(0, 1)), recorded.flatten(), last.flatten())
        return Chains(
            p=self._target(rows, places, recorded),
            logits=logits.unflatten(0, (drafts, -1)),
            q=self._rule.drawn_from(logits, self._geometry).unflatten(0, (drafts, -1)),
            tokens=reading.ids[rows, places + 2],
            counted=self.counted[:, chosen],
        )

    @torch.no_grad()
    def _target(self, rows: Tensor, places: Tensor, recorded: Tensor) -> Tensor:
        """p [draft, chain, vocab] of the tokens at places + 2; several chains are judged at one place."""
        reading, width = self._reading, self._reading.ids.shape[1]
        drawn_at, owner = (rows * width + places + 2).unique(return_inverse=True)
        tempered = self._ends.logits(reading.after.flatten(0, 1)[drawn_at - 1])
        temperatures = reading.temperatures.flatten()[drawn_at]
        tempered /= torch.where(temperatures > 0, temperatures, 1.0).unsqueeze(-1)
        if reading.kept is not None:
            ids, begin, count = reading.kept
            begin, count = begin.flatten()[drawn_at], count.flatten()[drawn_at]
            row = torch.arange(len(count), device=count.device).repeat_interleave(count)
            within = torch.arange(len(row), device=count.device) - (count.cumsum(0) - count)[row]
            allowed = (count == 0)[:, None].repeat(1, tempered.shape[1])
            allowed[row, ids[begin[row] + within]] = True
            tempered.masked_fill_(~allowed, -torch.inf)
        return tempered.softmax(-1)[owner]


@dataclass(kw_only=True)
class Sums:
    """What was found of counted drafts: float64, [draft] but for `loss`. They add up over readings and ranks."""

    loss: Tensor
    counted: Tensor
    accepted: Tensor  # alpha: had all drafts before it been right
    kept: Tensor  # prod alpha: and they have to be

    @classmethod
    def none(cls, drafts: int) -> "Sums":
        zeros = torch.zeros(3, drafts, dtype=torch.float64)
        return cls(loss=torch.zeros((), dtype=torch.float64), counted=zeros[0], accepted=zeros[1], kept=zeros[2])

    def add(self, values: Tensor, chains: Chains) -> None:
        """The `values` [draft, chain] of a loss, and what there is to say of its chains."""
        alpha = torch.where(chains.counted, acceptance(chains).detach(), 0.0)
        self.loss += values.detach().sum(dtype=torch.float64).cpu()
        self.counted += chains.counted.sum(1).cpu()
        self.accepted += alpha.sum(1, dtype=torch.float64).cpu()
        self.kept += alpha.cumprod(0).sum(1, dtype=torch.float64).cpu()

    @property
    def acceptance(self) -> list[float]:
        """By position, given that the drafts before were accepted; NaN where no draft was made."""
        return (self.accepted / self.counted).tolist()


def descend(unrolled: Unrolled, loss: Loss, total: int, chunk: int, sums: Sums) -> None:
    """Add to the layer's gradient that of the sum of the loss over `total`, `chunk` chains at a time."""
    leaf = unrolled.outputs.detach().requires_grad_()
    for chosen in unrolled.chunks(chunk):
        chains = unrolled.chains(leaf[:, chosen], chosen)
        values = loss(chains)
        (values.sum() / total).backward()
        sums.add(values, chains)
    unrolled.outputs.backward(leaf.grad)


@torch.no_grad()
def judge(unrolled: Unrolled, loss: Loss, chunk: int, sums: Sums) -> None:
    """The same without a gradient."""
    for chosen in unrolled.chunks(chunk):
        chains = unrolled.chains(unrolled.outputs[:, chosen], chosen)
        sums.add(loss(chains), chains)


def counted_drafts(sample: Drawn, drafts: int) -> int:
    """How many drafts of a sample count, over all its chains, without reading it."""
    mine = np.ones(len(sample.response_ids), bool) if sample.trained is None else np.asarray(sample.trained, bool)
    total, alive = 0, np.ones(max(len(mine) - 1, 0), bool)  # of the chains, by their first token
    for draft in range(min(drafts, len(alive))):
        alive = alive[: len(mine) - 1 - draft] & mine[1 + draft :]
        total += int(alive.sum())
    return total


def batches_by_size(samples: Sequence[Drawn], tokens: int) -> list[list[int]]:
    """Indices of samples of similar length, shortest first, at most `tokens` padded tokens together (or one sample)."""
    lengths = [len(sample.prompt_ids) + len(sample.response_ids) for sample in samples]
    parts: list[list[int]] = []
    for index in sorted(range(len(samples)), key=lengths.__getitem__):
        if not parts or (len(parts[-1]) + 1) * lengths[index] > tokens:
            parts.append([])
        parts[-1].append(index)
    return parts


def _states(policy: "PreTrainedModel", ids: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states [seq, tok, channel] before and after the final norm."""
    caught: list[Tensor] = []
    hook = policy.base_model.norm.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))
    try:
        after = policy.base_model(input_ids=ids, use_cache=False).last_hidden_state
    finally:
        hook.remove()
    return caught[0], after


def _kept(
    samples: Sequence[Drawn], prompt: np.ndarray, shape: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor, Tensor] | None:
    if all(sample.kept is None for sample in samples):
        return None
    begin, count, listed, end = np.zeros(shape, np.int64), np.zeros(shape, np.int64), [], 0
    for row, sample in enumerate(samples):
        if sample.kept is not None:
            counts = np.asarray(sample.kept.counts, np.int64)
            response = slice(prompt[row], prompt[row] + len(counts))
            count[row, response], begin[row, response] = counts, end + np.cumsum(counts) - counts
            listed.append(np.asarray(sample.kept.ids, np.int64))
            end += len(sample.kept.ids)
    return tuple(torch.from_numpy(array).to(device) for array in (np.concatenate(listed), begin, count))
