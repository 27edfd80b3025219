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

SMALL_BLOCK = 8 * 2**20  # bytes of float32 logits below which a smaller block saves no memory worth having


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
    """What a reference says at nodes: its own hidden states [node, channel], weight and bias. No gradient."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None

    @torch.no_grad()
    def logits(self, nodes: Tensor) -> Tensor:
        """float32 [row, vocab]."""
        return _logits(self.hidden, self.weight, self.bias, nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherHead:
    """What the policy says at the same picks after prompts with feedback in them: `said`, read at other nodes.

    nodes int64 [pick], -1 where there was no feedback.
    """

    said: ReferenceHead
    nodes: Tensor

    def logits(self, picks: slice) -> Tensor:
        """float32 [pick, vocab]."""
        return self.said.logits(self.nodes[picks].clamp_min(0))


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
        # Two blocks exist at a time, one more for a gradient of the entropy: of a small model they would be the most.
        block = min(chunk_mib * 2**20, max(SMALL_BLOCK, head.weight.numel() * 4 // 2))
        self.chunk_rows = max(1, block // (4 * head.weight.shape[0]))

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
        if runs_fused(hidden, self.weight, picks, reads):
            from learner.fused_head import FusedTokenLogprobs  # Triton, which is there where CUDA is

            return FusedTokenLogprobs.apply(hidden, self.weight, self.bias, picks)
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


def runs_fused(hidden: Tensor, weight: Tensor, picks: Picks, reads: Sequence[Read]) -> bool:
    """Whether learner/fused_head.py computes this: in bfloat16 on a GPU, whole rows, nothing but what it knows.

    In float32 there are no tensor cores to feed, and chunks are as fast.
    """
    half = hidden.dtype == weight.dtype == torch.bfloat16
    return hidden.is_cuda and half and picks.kept is None and not reads


class _TokenLogprobs(torch.autograd.Function):
    """lp = z[y] / T - logsumexp(z / T) and H = logsumexp(z) - sum softmax(z) z, with z = hidden @ weight.T + bias.

    Backward: dlp/dz = (onehot(y) - softmax(z / T)) / T;  dH/dz = -p (log p + H).
    In rows that were cut, the logsumexp and softmax of lp run over the kept tokens only. Reads are differentiated by
    autograd, a chunk at a time.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, picks, chunk_rows, reads, others):
        chunks = _chunks(picks, chunk_rows)
        logprobs = torch.empty(len(picks.tokens), dtype=torch.float32, device=hidden.device)
        entropies = torch.empty(len(picks.row_nodes), dtype=torch.float32, device=hidden.device)
        values = [torch.empty_like(logprobs) for _ in reads]
        ctx.unscaled = None
        for chunk in chunks:
            logits = _logits(hidden, weight, bias, picks.row_nodes[chunk.rows])
            if reads:
                block = _block(logits, picks, chunk, others.of(reads))
                for value, read in zip(values, reads, strict=True):
                    value[chunk.reads] = read(block)
                del block
            logprobs[chunk.reads], entropies[chunk.rows], unscaled = _evaluate_(logits, picks, chunk)
            ctx.unscaled = unscaled if len(chunks) == 1 else None
            del logits, unscaled  # before the next block is made
        ctx.save_for_backward(hidden, weight, bias, entropies)
        ctx.picks, ctx.chunks = picks, chunks
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
            unscaled, ctx.unscaled = ctx.unscaled, None
            terms = []
            if unscaled is None or grad_entropies is not None or slopes:
                logits = _logits(hidden, weight, bias, nodes)
                if slopes:
                    with torch.enable_grad():
                        block = _block(logits.detach().requires_grad_(), picks, chunk, others)
                        total = sum((read(block) * upstream[chosen]).sum() for read, upstream in slopes)
                        terms += torch.autograd.grad(total, block.logits)
                if grad_entropies is not None:
                    terms.append(_grad_of_entropy(logits, entropies[rows], grad_entropies[rows]))
                if unscaled is None:
                    unscaled = _unscaled_(logits, picks, chunk)
                del logits
            grad = _grad_of_logprobs_(*unscaled, picks, chunk, grad_logprobs[chosen])
            for term in terms:
                grad += term
            grad = grad.to(weight.dtype)
            grad_hidden.index_add_(0, nodes, grad @ weight)
            if trains_weight:
                grad_weight.addmm_(grad.T, hidden.index_select(0, nodes))
            if trains_bias:
                grad_bias += grad.sum(0)
            del grad, unscaled, terms  # before the next block is made
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


# Probabilities of a block as weights [row, vocab] and mass [row]: to divide all of them would be one more pass.
_Unscaled = tuple[Tensor, Tensor]


def _evaluate_(logits: Tensor, picks: Picks, chunk: _Chunk) -> tuple[Tensor, Tensor, _Unscaled]:
    """Log-probabilities [pick], entropies [row] and the probabilities of the former; destroys `logits`."""
    logits -= logits.amax(-1, keepdim=True)
    weights = logits.exp()
    mass = weights.sum(-1)
    entropies = mass.log() - torch.linalg.vecdot(weights, logits) / mass  # no term is negative
    if picks.temperatures is not None:
        logits /= picks.temperatures[chunk.rows, None]
        mass = torch.exp(logits, out=weights).sum(-1)
    normalizers = mass.log()
    if picks.kept is not None:
        cut = _Cut.of(logits, picks.kept, chunk)
        cut.confine_(weights, mass)
        logits[cut.owners, cut.ids] = cut.logprobs
        normalizers[cut.rows] = 0.0
    local = picks.rows[chunk.reads] - chunk.rows.start
    return logits[local, picks.tokens[chunk.reads]] - normalizers[local], entropies, (weights, mass)


def _unscaled_(logits: Tensor, picks: Picks, chunk: _Chunk) -> _Unscaled:
    """The probabilities of the log-probabilities, in the place of `logits`."""
    if picks.temperatures is not None:
        logits /= picks.temperatures[chunk.rows, None]
    cut = None if picks.kept is None else _Cut.of(logits, picks.kept, chunk)
    logits -= logits.amax(-1, keepdim=True)
    weights = logits.exp_()
    mass = weights.sum(-1)
    if cut is not None:
        cut.confine_(weights, mass)
    return weights, mass


def _grad_of_logprobs_(weights: Tensor, mass: Tensor, picks: Picks, chunk: _Chunk, upstream: Tensor) -> Tensor:
    """sum_picks g (onehot(y) - p) / T [row, vocab], in the place of `weights`; g is `upstream` [pick]."""
    local = picks.rows[chunk.reads] - chunk.rows.start
    if picks.temperatures is not None:
        upstream = upstream / picks.temperatures[picks.rows[chunk.reads]]
    per_row = torch.zeros_like(mass).index_add_(0, local, upstream)
    weights *= (-per_row / mass)[:, None]
    return weights.index_put_((local, picks.tokens[chunk.reads]), upstream, accumulate=True)


def _grad_of_entropy(logits: Tensor, entropies: Tensor, upstream: Tensor) -> Tensor:
    """-g p (log p + H) [row, vocab]; g is `upstream` [row]."""
    normalized = logits - logits.logsumexp(-1, keepdim=True)
    slope = normalized.exp().mul_(-upstream[:, None])
    return slope.mul_(normalized.add_(entropies[:, None]))


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

    def confine_(self, weights: Tensor, mass: Tensor) -> None:
        """In place: the rows that were cut become the distribution inside their kept tokens."""
        weights[self.rows] = 0.0
        weights[self.owners, self.ids] = self.logprobs.exp()
        mass[self.rows] = 1.0
