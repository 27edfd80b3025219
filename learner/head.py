"""From hidden states to the log-probability and entropy of every response token, never holding all logits at once.

`TokenHead` evaluates rows (a hidden state at a temperature) in chunks of [rows, vocabulary]. Several tokens may be read
off one row: samples that share a prefix continue from the same hidden state. Where one chunk holds everything its
probabilities are kept for the backward pass, otherwise they are computed again there.

Where the sampler cut the tail off, the log-probability is taken inside the tokens it kept (the definition is
`rollout.draw.truncation.kept_logprob`); the entropy stays that of the whole vocabulary.

`reads` (learner/objective/reads.py) are evaluated on the same chunks, for the algorithms that need more of the logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from learner.objective.reads import Block, Read
from rollout.draw.truncation import KeptSets


@dataclass(frozen=True, slots=True, kw_only=True)
class Picks:
    """Which tokens are read off which rows.

    row_nodes     int64 [row] the hidden state of each row
    temperatures  float32 [row], or None where all are 1
    rows          int64 [pick], never falling
    tokens        int64 [pick] the token whose log-probability is asked for, one of those its row keeps
    kept          what each row may draw, count 0 for the whole vocabulary; None where nothing was cut in any row
    """

    row_nodes: Tensor
    temperatures: Tensor | None
    rows: Tensor
    tokens: Tensor
    kept: KeptSets | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceHead:
    """What a reference says at the same rows: its own hidden states [node, channel], weight and bias. No gradient."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None

    @torch.no_grad()
    def logits(self, nodes: Tensor) -> Tensor:
        """float32 [row, vocab]."""
        return _logits(self.hidden, self.weight, self.bias, nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherHead:
    """What the policy says at the same picks after prompts with feedback in them. No gradient.

    hidden [node, channel], nodes int64 [pick], -1 where there was no feedback; weight and bias are the policy's.
    """

    hidden: Tensor
    nodes: Tensor
    weight: Tensor
    bias: Tensor | None

    @torch.no_grad()
    def logits(self, picks: slice) -> Tensor:
        """float32 [pick, vocab]."""
        return _logits(self.hidden, self.weight, self.bias, self.nodes[picks].clamp_min(0))


@dataclass(frozen=True, slots=True)
class _Chunk:
    """The rows of one block, the picks that read them, and the kept tokens that are listed for them."""

    rows: slice
    reads: slice
    listed: slice


class TokenHead(nn.Module):
    """The language-model head; its parameters are those of the model, not copies."""

    def __init__(self, head: nn.Linear, chunk_mib: int) -> None:
        super().__init__()
        self.weight = head.weight
        self.bias = head.bias
        self.chunk_rows = max(1, chunk_mib * 2**20 // (4 * head.weight.shape[0]))

    def forward(
        self,
        hidden: Tensor,
        picks: Picks,
        reads: Sequence[Read] = (),
        reference: ReferenceHead | None = None,
        teacher: TeacherHead | None = None,
    ) -> tuple[Tensor, ...]:
        """hidden [node, channel] -> float32 nats: tempered log-probabilities [pick], entropies at T = 1 [row].

        Then one [pick] for each read; `reference` and `teacher` are for those that read them.
        """
        others = _Others(reference, teacher)
        return _TokenLogprobs.apply(hidden, self.weight, self.bias, picks, self.chunk_rows, tuple(reads), others)


@dataclass(frozen=True, slots=True)
class _Others:
    """The heads that some reads compare the policy with."""

    reference: ReferenceHead | None
    teacher: TeacherHead | None

    def of(self, reads: Sequence[Read]) -> "_Others":
        """Those that these reads want."""
        return _Others(
            self.reference if any(read.reference for read in reads) else None,
            self.teacher if any(read.teacher for read in reads) else None,
        )


class _TokenLogprobs(torch.autograd.Function):
    """lp = z[y] / T - logsumexp(z / T) and H = logsumexp(z) - sum softmax(z) z, with z = hidden @ weight.T + bias.

    Backward: dlp/dz = (onehot(y) - softmax(z / T)) / T;  dH/dz = -p (log p + H).
    In rows that were cut, the logsumexp and softmax of lp run over the kept tokens only. Reads are differentiated by
    autograd, a chunk at a time.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, picks, chunk_rows, reads, others):
        count = len(picks.row_nodes)
        chunks = _chunks(picks, chunk_rows)
        logprobs = torch.empty(len(picks.tokens), dtype=torch.float32, device=hidden.device)
        entropies = torch.empty(count, dtype=torch.float32, device=hidden.device)
        values = [torch.empty_like(logprobs) for _ in reads]
        saved = None
        for chunk in chunks:
            rows, chosen = chunk.rows, chunk.reads
            logits = _logits(hidden, weight, bias, picks.row_nodes[rows])
            normalized = logits - logits.logsumexp(-1, keepdim=True)
            probabilities = normalized.exp()
            entropies[rows] = -torch.linalg.vecdot(probabilities, normalized)
            if picks.temperatures is not None:
                normalized = (logits / picks.temperatures[rows, None]).log_softmax(-1)
                probabilities = normalized.exp() if len(chunks) == 1 else None
            if picks.kept is not None:
                cut = _Cut.of(normalized, picks.kept, chunk)
                normalized[cut.owners, cut.ids] = cut.logprobs
                if len(chunks) == 1:
                    cut.confine_(probabilities)
            logprobs[chosen] = normalized[picks.rows[chosen] - rows.start, picks.tokens[chosen]]
            saved = probabilities if len(chunks) == 1 else None
            if reads:
                block = _block(logits, picks, chunk, others.of(reads))
                for value, read in zip(values, reads, strict=True):
                    value[chosen] = read(block)
        ctx.save_for_backward(hidden, weight, bias, entropies)
        ctx.picks, ctx.chunks, ctx.probabilities = picks, chunks, saved
        ctx.reads, ctx.others = reads, others
        ctx.mark_non_differentiable(*(value for value, read in zip(values, reads, strict=True) if not read.gradient))
        ctx.set_materialize_grads(False)
        return logprobs, entropies, *values

    @staticmethod
    def backward(ctx, grad_logprobs, grad_entropies, *grad_values):
        hidden, weight, bias, entropies = ctx.saved_tensors
        picks = ctx.picks
        slopes = [(read, grad) for read, grad in zip(ctx.reads, grad_values, strict=True) if grad is not None]
        others = ctx.others.of([read for read, _ in slopes])
        grad_hidden = torch.zeros_like(hidden)
        trains_weight, trains_bias = ctx.needs_input_grad[1:3]  # with an adapter the head stays as it is
        grad_weight = torch.zeros_like(weight) if trains_weight else None
        grad_bias = torch.zeros_like(bias) if trains_bias else None
        if grad_logprobs is None:
            grad_logprobs = torch.zeros(len(picks.tokens), dtype=torch.float32, device=hidden.device)
        for chunk in ctx.chunks:
            rows, chosen = chunk.rows, chunk.reads
            nodes = picks.row_nodes[rows]
            temperatures = None if picks.temperatures is None else picks.temperatures[rows, None]
            logits = None
            if ctx.probabilities is None or grad_entropies is not None or slopes:
                logits = _logits(hidden, weight, bias, nodes)
            tempered = logits if temperatures is None or logits is None else logits / temperatures
            probabilities = ctx.probabilities
            if probabilities is None:
                probabilities = tempered.softmax(-1)
                if picks.kept is not None:
                    _Cut.of(tempered, picks.kept, chunk).confine_(probabilities)
            local = picks.rows[chosen] - rows.start
            per_row = torch.zeros(len(nodes), dtype=torch.float32, device=hidden.device)
            per_row.index_add_(0, local, grad_logprobs[chosen])
            grad = probabilities * -per_row[:, None]
            grad.index_put_((local, picks.tokens[chosen]), grad_logprobs[chosen], accumulate=True)
            if temperatures is not None:
                grad /= temperatures
            if grad_entropies is not None:
                normalized = logits.log_softmax(-1)
                grad -= grad_entropies[rows, None] * normalized.exp() * (normalized + entropies[rows, None])
            if slopes:
                with torch.enable_grad():
                    block = _block(logits.detach().requires_grad_(), picks, chunk, others)
                    total = sum((read(block) * upstream[chosen]).sum() for read, upstream in slopes)
                    grad += torch.autograd.grad(total, block.logits)[0]
            grad = grad.to(weight.dtype)
            grad_hidden.index_add_(0, nodes, grad @ weight)
            if trains_weight:
                grad_weight.addmm_(grad.T, hidden.index_select(0, nodes))
            if trains_bias:
                grad_bias += grad.sum(0)
        ctx.probabilities = None
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, nodes: Tensor) -> Tensor:
    return nn.functional.linear(hidden.index_select(0, nodes), weight, bias).float()


def _block(logits: Tensor, picks: Picks, chunk: _Chunk, others: _Others) -> Block:
    rows, reference, teacher = chunk.rows, others.reference, others.teacher
    allowed = None
    if picks.kept is not None:
        counts, ids = picks.kept.counts[rows], picks.kept.ids[chunk.listed].long()
        allowed = (counts == 0)[:, None].repeat(1, logits.shape[-1])
        allowed[torch.arange(len(counts), device=ids.device).repeat_interleave(counts), ids] = True
    return Block(
        logits=logits,
        temperatures=None if picks.temperatures is None else picks.temperatures[rows, None],
        allowed=allowed,
        rows=picks.rows[chunk.reads] - rows.start,
        tokens=picks.tokens[chunk.reads],
        reference=None if reference is None else reference.logits(picks.row_nodes[rows]),
        teacher=None if teacher is None else teacher.logits(chunk.reads),
        taught=None if teacher is None else teacher.nodes[chunk.reads] >= 0,
    )


def _chunks(picks: Picks, chunk_rows: int) -> list[_Chunk]:
    """One empty chunk where there is no row."""
    count = len(picks.row_nodes)
    edges = [*range(0, count, chunk_rows), count] if count else [0, 0]
    reads = torch.searchsorted(picks.rows, torch.tensor(edges, device=picks.rows.device)).tolist()
    listed = [0] * len(edges)
    if picks.kept is not None:
        listed = torch.cat((picks.kept.counts.new_zeros(1), picks.kept.counts.cumsum(0)))[edges].tolist()
    return [
        _Chunk(slice(*edges[i : i + 2]), slice(*reads[i : i + 2]), slice(*listed[i : i + 2]))
        for i in range(len(edges) - 1)
    ]


@dataclass(frozen=True, slots=True)
class _Cut:
    """The kept tokens of one block of logits: `owners` and `ids` int64 [listed] say where each is in the block.

    rows      int64 [row] those that were cut
    logprobs  [listed] nats, inside the kept tokens of the row
    """

    rows: Tensor
    owners: Tensor
    ids: Tensor
    logprobs: Tensor

    @classmethod
    def of(cls, logits: Tensor, kept: KeptSets, chunk: _Chunk) -> "_Cut":
        """`logits` [row, vocab] of the chunk, at the temperature and up to a constant of each row."""
        counts, ids = kept.counts[chunk.rows], kept.ids[chunk.listed].long()
        owners = torch.arange(len(counts), device=ids.device).repeat_interleave(counts, output_size=len(ids))
        inside = logits[owners, ids]
        largest = inside.new_full((len(counts),), -torch.inf).scatter_reduce_(0, owners, inside, "amax")
        inside = inside - largest[owners]
        total = inside.new_zeros(len(counts)).index_add_(0, owners, inside.exp())
        return cls(rows=counts.nonzero()[:, 0], owners=owners, ids=ids, logprobs=inside - total.log()[owners])

    def confine_(self, probabilities: Tensor) -> None:
        """In place: the rows that were cut become the distribution inside their kept tokens."""
        probabilities[self.rows] = 0.0
        probabilities[self.owners, self.ids] = self.logprobs.exp()
