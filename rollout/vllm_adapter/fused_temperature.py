"""The temperature of every row in two reads and one write of its logits: Triton, for GPUs.

    logits --partials--> per block: top, mass, depth --merge--> H (nats) --the row's policy--> T --> logits / T

    top = max z;  mass = sum e^(z - top);  depth = sum e^(z - top) (top - z);  H = ln mass + depth / mass

Blocks merge exactly, as in an online softmax; no term is negative, so nothing cancels. One behaviour with rollout/draw
(softmax_with_entropy, the policies, temper): tests/rollout/test_fused_temperature.py runs the kernels in Triton's
interpreter and compiles them for a GPU; none has run them yet. Policies travel as numbers, so that nothing waits for
the host and the kernels can sit inside a CUDA graph.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rollout.draw.temperature import EntropyLinear, Fixed, LogPivot, TemperaturePolicy
from rollout.draw.temperature.log_pivot import ENTROPY_FLOOR

PARAMETERS = 8  # float32 per request: which policy, and its constants
BLOCK = 4096  # entries per program: 37 programs a row at a vocabulary of 150k
_FIXED, _ENTROPY_LINEAR, _LOG_PIVOT = (tl.constexpr(kind) for kind in range(3))
_PARAMETERS = tl.constexpr(PARAMETERS)
_FLOOR = tl.constexpr(ENTROPY_FLOOR)


def parameters_of(policy: TemperaturePolicy) -> list[float]:
    """The policy as PARAMETERS numbers. Raises ValueError for one that entropy does not decide."""
    match policy:
        case Fixed():
            numbers = [_FIXED.value, policy.temperature]
        case EntropyLinear():
            numbers = [_ENTROPY_LINEAR.value, policy.low, policy.high, policy.entropy_low, policy.entropy_high]
        case LogPivot():
            negative = -policy.scale_negative if policy.released_sign else policy.scale_negative
            shape = [policy.pivot, policy.rms, policy.scale_positive, negative]
            numbers = [_LOG_PIVOT.value, policy.base, policy.swing, *shape]
        case _:
            raise ValueError(
                f"the fused kernel knows fixed, entropy_linear and log_pivot temperatures, not {policy.name}: set"
                " rollout.model_runner=v1"
            )
    return numbers + [0.0] * (PARAMETERS - len(numbers))


def temper_(logits: Tensor, requests: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Divide each row by its temperature, in place; rows of temperature 0 stay. Returns entropies, temperatures [rows].

    logits [rows, vocab] of any float type, rows contiguous; `requests` [rows] int, the row of `table` float32
    [requests, PARAMETERS] that each goes by (negative: nobody's, T = 1).
    """
    rows, vocab = logits.shape
    if logits.stride(1) != 1:
        raise ValueError(f"the entries of a row of logits must lie side by side, got strides {logits.stride()}")
    blocks = triton.cdiv(vocab, BLOCK)
    partials = torch.empty(3, rows, blocks, dtype=torch.float32, device=logits.device)
    found = torch.empty(2, rows, dtype=torch.float32, device=logits.device)
    if rows:
        _partials[(rows, blocks)](logits, logits.stride(0), partials, rows * blocks, blocks, vocab, BLOCK_=BLOCK)
        _scale[(rows, blocks)](
            *(logits, logits.stride(0), partials, rows * blocks, blocks, vocab, requests, table, found, rows),
            BLOCK_=BLOCK,
            PADDED=triton.next_power_of_2(blocks),
        )
    return found[0], found[1]


@triton.jit
def _partials(logits_ptr, stride, partials_ptr, plane, blocks, vocab, BLOCK_: tl.constexpr):
    """Program (row, block) -> top, mass and depth of that block, in the three planes of `partials`."""
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = block * BLOCK_ + tl.arange(0, BLOCK_)
    z = tl.load(logits_ptr + row * stride + columns, mask=columns < vocab, other=float("-inf")).to(tl.float32)
    top = tl.max(z, axis=0)
    below = tl.where(z == float("-inf"), 0.0, top - z)  # a masked token has no mass and adds nothing
    weight = tl.where(z == float("-inf"), 0.0, tl.exp(-below))
    place = partials_ptr + row * blocks + block
    tl.store(place, top)
    tl.store(place + plane, tl.sum(weight, axis=0))
    tl.store(place + 2 * plane, tl.sum(weight * below, axis=0))


@triton.jit
def _scale(
    logits_ptr,
    stride,
    partials_ptr,
    plane,
    blocks,
    vocab,
    requests_ptr,
    table_ptr,
    found_ptr,
    rows,
    BLOCK_: tl.constexpr,
    PADDED: tl.constexpr,
):
    """Program (row, block) merges the row's partials, finds its temperature and divides its block."""
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    others = tl.arange(0, PADDED)
    there = others < blocks
    place = partials_ptr + row * blocks + others
    tops = tl.load(place, mask=there, other=float("-inf"))
    masses = tl.load(place + plane, mask=there, other=0.0)
    depths = tl.load(place + 2 * plane, mask=there, other=0.0)
    top = tl.max(tops, axis=0)
    below = tl.where(tops == float("-inf"), 0.0, top - tops)
    share = tl.where(tops == float("-inf"), 0.0, tl.exp(-below))
    mass = tl.sum(masses * share, axis=0)
    depth = tl.sum((depths + below * masses) * share, axis=0)
    entropy = tl.log(mass) + depth / mass
    request = tl.load(requests_ptr + row).to(tl.int64)
    temperature = _temperature(entropy, table_ptr + request * _PARAMETERS, request >= 0)
    if block == 0:
        tl.store(found_ptr + row, entropy)
        tl.store(found_ptr + rows + row, temperature)
    if temperature != 1.0 and temperature != 0.0:
        columns = block * BLOCK_ + tl.arange(0, BLOCK_)
        inside = columns < vocab
        z = tl.load(logits_ptr + row * stride + columns, mask=inside, other=0.0).to(tl.float32)
        tl.store(logits_ptr + row * stride + columns, z / temperature, mask=inside)


@triton.jit
def _temperature(entropy, policy_ptr, owned):
    """The policies of rollout/draw/temperature, chosen by the first number; 1 where nobody owns the row."""
    kind = tl.load(policy_ptr, mask=owned, other=0.0)
    a = tl.load(policy_ptr + 1, mask=owned, other=1.0)
    b = tl.load(policy_ptr + 2, mask=owned, other=0.0)
    c = tl.load(policy_ptr + 3, mask=owned, other=0.0)
    d = tl.load(policy_ptr + 4, mask=owned, other=0.0)
    e = tl.load(policy_ptr + 5, mask=owned, other=0.0)
    f = tl.load(policy_ptr + 6, mask=owned, other=0.0)
    # Entropy-linear: a, b are low and high, c, d the entropies where they hold.
    fraction = tl.minimum(tl.maximum((entropy - c) / (d - c), 0.0), 1.0)
    linear = a + (b - a) * fraction
    # Log-pivot: a is base, b swing, c the pivot, d the rms, e and f the scales above and below it.
    deviation = (tl.log(tl.maximum(entropy, _FLOOR)) - c) / d
    normalised = tl.minimum(tl.maximum(deviation / tl.where(deviation > 0.0, e, f), -1.0), 1.0)
    pivoted = tl.where(d == 0.0, a, a * (1.0 + b * normalised))
    return tl.where(kind == _ENTROPY_LINEAR, linear, tl.where(kind == _LOG_PIVOT, pivoted, a))
