"""The head of learner/head.py in Triton, for GPUs: log-probabilities, entropies and their gradients, tile by tile.

    forward    tiles of logits --per tile--> top, mass, depth, tempered mass --merge--> lse at 1 and at T, entropy
    backward   tiles of logits --> a block of dL/dlogits --> two plain products: of hidden states, of the weight

    top = max z;  mass = sum e^(z - top);  depth = sum e^(z - top) (z - top);  tempered = sum e^((z - top) / T)
    lse = top + ln mass;  lse_T = top / T + ln tempered;  H = ln mass - depth / mass

Tiles merge exactly, as in an online softmax: both temperatures share one maximum, and no sum has terms of both signs.
Logits live in registers, in float32 from start to end, and are computed once more for the gradient, whose blocks are
all that reaches memory. That makes four products in all, two of them cuBLAS's own.

Nothing is added atomically: the same inputs give the same bits, except that rows at one node (which differ in
temperature) come together in `index_add_`, whose order is free from three rows on. In bfloat16 the gradient of the
weight is rounded once every ROWS rows.

liger-kernel's fused linear losses know neither an entropy nor a temperature per row, so they are only a yardstick in
scripts/gpu_check_head.py. The kernels are in fused_kernels.py: tests run them in Triton's interpreter and compile them
for GPUs; none has run them yet.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
from torch import Tensor

from learner import fused_kernels as kernels

if TYPE_CHECKING:
    from learner.head import Picks

ROWS = 4096  # taken at a time
# Entries of a block of dL/dlogits, 48 MiB in bfloat16: both products that read it are large enough for full speed, and
# at 16k rows, 4096 channels and 152k tokens all that is held beside inputs and results is below 4 % of the logits.
BLOCK = ROWS * 6144
_ALIGNED = 256  # columns of a block are a multiple of it
_PICKS = 64  # per program, in the kernels that go over picks
_LN2 = 0.6931471805599453


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """How a program of a kernel is cut: logits of [rows, columns], summed over `channels` at a time."""

    rows: int
    columns: int
    channels: int
    warps: int
    stages: int

    def options(self) -> dict[str, int]:
        return {
            "TILE_ROWS": self.rows,
            "TILE_COLUMNS": self.columns,
            "TILE_CHANNELS": self.channels,
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


# Fixed, not tuned at run time: another tile sums in another order, and a resumed run should repeat itself.
DATA_CENTER = Tile(rows=128, columns=256, channels=64, warps=8, stages=3)  # 144 KiB of shared memory
SMALL = Tile(rows=128, columns=128, channels=32, warps=8, stages=3)  # 48 KiB, for all other GPUs
INTERPRETED = Tile(rows=32, columns=64, channels=32, warps=1, stages=1)


def tile_for(device: torch.device) -> Tile:
    if device.type == "cpu":
        return INTERPRETED
    return DATA_CENTER if torch.cuda.get_device_capability(device) in ((8, 0), (9, 0), (10, 0), (10, 3)) else SMALL


class FusedTokenLogprobs(torch.autograd.Function):
    """hidden [node, channel], weight [vocab, channel], bias [vocab] or None -> what TokenHead.forward returns.

    Nothing may be cut in any row. Hidden states and weight are contiguous and of one dtype. Backward: see
    learner.head._TokenLogprobs.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None, picks: "Picks") -> tuple[Tensor, Tensor]:
        if picks.kept is not None:
            raise ValueError("the fused head knows no truncation, got picks of rows that were cut: use TokenHead")
        hidden, weight = hidden.contiguous(), weight.contiguous()
        count = len(picks.row_nodes)
        normalizers = torch.empty(3, count, dtype=torch.float32, device=hidden.device)  # lse, lse at T, H
        for begin in range(0, count, ROWS):
            rows = slice(begin, min(begin + ROWS, count))
            normalizers[:, rows] = _normalizers(
                hidden.index_select(0, picks.row_nodes[rows]), weight, bias, _of(picks.temperatures, rows)
            )
        drawn = _drawn_logits(hidden, weight, bias, picks)
        tempered = drawn if picks.temperatures is None else drawn / picks.temperatures[picks.rows]
        # Summed in another order than in the tiles, a certain token's logit may exceed the normalizer by rounding.
        logprobs = (tempered - normalizers[1, picks.rows]).clamp_max_(0.0)
        ctx.save_for_backward(hidden, weight, bias, normalizers, drawn)
        ctx.picks = picks
        ctx.set_materialize_grads(False)
        return logprobs, normalizers[2].clone()

    @staticmethod
    def backward(ctx, grad_logprobs: Tensor | None, grad_entropies: Tensor | None):
        hidden, weight, bias, normalizers, drawn = ctx.saved_tensors
        picks = ctx.picks
        slopes, at_picks = _slopes(picks, normalizers, drawn, grad_logprobs, grad_entropies)
        grad_hidden = torch.zeros_like(hidden)
        trains_weight, trains_bias = ctx.needs_input_grad[1:3]  # with an adapter the head stays as it is
        grad_weight = torch.zeros_like(weight) if trains_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if trains_bias else None
        count, vocab = len(picks.row_nodes), len(weight)
        wide = max(_ALIGNED, BLOCK // max(1, min(ROWS, count)) // _ALIGNED * _ALIGNED)
        wide = min(wide, triton.cdiv(vocab, _ALIGNED) * _ALIGNED)
        buffer = weight.new_empty(min(ROWS, count), wide)
        for begin in range(0, count, ROWS):
            rows = slice(begin, min(begin + ROWS, count))
            states = hidden.index_select(0, picks.row_nodes[rows])
            grad_states = torch.zeros_like(states, dtype=torch.float32)
            for first in range(0, vocab, wide):
                columns = slice(first, min(first + wide, vocab))
                block = buffer[: len(states), : columns.stop - first]
                _grad_logits(block, states, weight[columns], _of(bias, columns), slopes[:, rows], grad_entropies)
                _put_picks(block, rows, columns, picks, at_picks)
                _add_product(grad_states, block, weight[columns])
                if trains_weight:
                    grad_weight[columns].addmm_(block.T, states)
                if trains_bias:
                    grad_bias[columns] += block.sum(0, dtype=torch.float32)
            grad_hidden.index_add_(0, picks.row_nodes[rows], grad_states.to(hidden.dtype))
        return grad_hidden, grad_weight, None if grad_bias is None else grad_bias.to(bias.dtype), None


def _of(values: Tensor | None, part: slice) -> Tensor | None:
    return None if values is None else values[part]


def _normalizers(states: Tensor, weight: Tensor, bias: Tensor | None, temperatures: Tensor | None) -> Tensor:
    """float32 [3, row] nats: logsumexp at T = 1 and at the temperature, entropy at T = 1."""
    (rows, channels), vocab = states.shape, len(weight)
    tile = tile_for(states.device)
    grid = triton.cdiv(rows, tile.rows), triton.cdiv(vocab, tile.columns)
    partials = torch.empty(4, rows, grid[1], dtype=torch.float32, device=states.device)
    kernels.partials[grid[0] * grid[1],](
        *(states, weight, bias, temperatures, partials, partials.stride(0), rows, vocab, channels, grid[1]),
        BIAS=bias is not None,
        TEMPERED=temperatures is not None,
        EVEN=channels % tile.channels == 0,
        **tile.options(),
    )
    tops, masses, depths, tempered = partials
    top = tops.amax(1)
    below = tops - top[:, None]
    share = below.exp()
    mass = (masses * share).sum(1)
    depth = ((depths * _LN2 + below * masses) * share).sum(1)
    lse = top + mass.log()
    entropy = mass.log() - depth / mass
    if temperatures is None:
        return torch.stack((lse, lse, entropy))
    mass = (tempered * (below / temperatures[:, None]).exp()).sum(1)
    return torch.stack((lse, top / temperatures + mass.log(), entropy))


def _drawn_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, picks: "Picks") -> Tensor:
    """float32 [pick] at T = 1."""
    count, channels = len(picks.tokens), hidden.shape[1]
    drawn = torch.empty(count, dtype=torch.float32, device=hidden.device)
    if count:
        kernels.drawn[triton.cdiv(count, _PICKS),](
            *(hidden, weight, bias, picks.row_nodes, picks.rows, picks.tokens, drawn, count, channels),
            BIAS=bias is not None,
            PICKS=_PICKS,
            TILE_CHANNELS=tile_for(hidden.device).channels,
        )
    return drawn


def _slopes(
    picks: "Picks", normalizers: Tensor, drawn: Tensor, grad_logprobs: Tensor | None, grad_entropies: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What a row's gradient is made of, float32 [6, row], and dL/dlogit of the drawn tokens themselves, float32 [pick].

    The six: 1 / T, lse, lse at T, entropy, minus (sum of its picks' gradients) / T, minus the entropy's gradient.
    """
    rows = picks.rows
    ones = torch.ones_like(normalizers[0])
    inverse = ones if picks.temperatures is None else picks.temperatures.reciprocal()
    of_row, own = torch.zeros_like(ones), torch.zeros_like(drawn)
    if grad_logprobs is not None and len(rows):
        starts = torch.searchsorted(rows, torch.arange(len(ones) + 1, device=rows.device))
        kernels.sums[len(rows),](rows, picks.tokens, starts, grad_logprobs.float().contiguous(), of_row, own)
    of_entropy = torch.zeros_like(ones) if grad_entropies is None else -grad_entropies.float()
    lse, lse_tempered, entropy = normalizers
    slopes = torch.stack((inverse, lse, lse_tempered, entropy, -of_row * inverse, of_entropy))
    logprob = drawn - lse[rows]
    tempered = (drawn * inverse[rows] - lse_tempered[rows]).exp()
    at_picks = own * inverse[rows] + slopes[4, rows] * tempered
    at_picks += slopes[5, rows] * logprob.exp() * (logprob + entropy[rows])
    return slopes, at_picks


def _grad_logits(
    block: Tensor, states: Tensor, weight: Tensor, bias: Tensor | None, slopes: Tensor, grad_entropies: Tensor | None
) -> None:
    """Write dL/dlogits of some rows and columns into `block`, the drawn tokens' own share left out."""
    (rows, channels), vocab = states.shape, len(weight)
    tile = tile_for(states.device)
    kernels.gradient[triton.cdiv(rows, tile.rows) * triton.cdiv(vocab, tile.columns),](
        *(states, weight, bias, slopes, slopes.stride(0), block, block.stride(0), rows, vocab, channels),
        BIAS=bias is not None,
        ENTROPY=grad_entropies is not None,
        EVEN=channels % tile.channels == 0,
        **tile.options(),
    )


def _add_product(total: Tensor, block: Tensor, weight: Tensor) -> None:
    """total += block @ weight, whose sums stay in float32: rounded blocks would add up to a bias."""
    if total.is_cuda and block.dtype != total.dtype:
        torch.addmm(total, block, weight, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(block.to(total.dtype), weight.to(total.dtype))


def _put_picks(block: Tensor, rows: slice, columns: slice, picks: "Picks", at_picks: Tensor) -> None:
    """Overwrite the drawn tokens' entries of a block: rounded after the sum, not before, where it nearly cancels."""
    count = len(picks.tokens)
    if count:
        kernels.put[triton.cdiv(count, _PICKS),](
            *(block, block.stride(0), picks.rows, picks.tokens, at_picks, count),
            *(rows.start, rows.stop, columns.start, columns.stop),
            PICKS=_PICKS,
        )
