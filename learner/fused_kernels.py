"""The Triton kernels of learner/fused_head.py, which says what they compute together.

A tile of logits is made in one place, `_logits`, and used twice: reduced to four numbers a row or made a gradient.
Every load and store behind the end of a row or column is clamped or masked; offsets that may exceed 2**31 are int64.
"""

import triton
import triton.language as tl

_NOTHING = tl.constexpr(-1e30)  # a logit without mass; finite, so that 0 times it is 0
_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _logits(
    states_ptr,
    weight_ptr,
    bias_ptr,
    row,
    column,
    rows,
    vocab,
    channels,
    BIAS: tl.constexpr,
    EVEN: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
):
    """float32 [row, column]; behind the end the last row and the last column are repeated."""
    channel = tl.arange(0, TILE_CHANNELS)
    last_row = tl.minimum(row, rows - 1).to(tl.int64)
    last_column = tl.minimum(column, vocab - 1).to(tl.int64)
    states = states_ptr + last_row[:, None] * channels + channel[None, :]
    weight = weight_ptr + last_column[None, :] * channels + channel[:, None]
    total = tl.zeros((TILE_ROWS, TILE_COLUMNS), dtype=tl.float32)
    for begin in range(0, channels, TILE_CHANNELS):
        if EVEN:
            x = tl.load(states)
            w = tl.load(weight)
        else:
            x = tl.load(states, mask=channel[None, :] < channels - begin, other=0.0)
            w = tl.load(weight, mask=channel[:, None] < channels - begin, other=0.0)
        total = tl.dot(x, w, total, input_precision="ieee")
        states += TILE_CHANNELS
        weight += TILE_CHANNELS
    if BIAS:
        total += tl.load(bias_ptr + last_column).to(tl.float32)[None, :]
    return total


@triton.jit
def partials(
    states_ptr,
    weight_ptr,
    bias_ptr,
    temperatures_ptr,
    partials_ptr,
    plane,
    rows,
    vocab,
    channels,
    tiles,
    BIAS: tl.constexpr,
    TEMPERED: tl.constexpr,
    EVEN: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
):
    """One tile -> top, mass, depth (in bits) and tempered mass of its rows. Neighbours share columns of the weight."""
    row_tiles = tl.cdiv(rows, TILE_ROWS)
    tile = tl.program_id(0) // row_tiles
    row = (tl.program_id(0) % row_tiles) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    column = tile * TILE_COLUMNS + tl.arange(0, TILE_COLUMNS)
    z = _logits(
        *(states_ptr, weight_ptr, bias_ptr, row, column, rows, vocab, channels, BIAS, EVEN),
        *(TILE_ROWS, TILE_COLUMNS, TILE_CHANNELS),
    )
    z = tl.where((column < vocab)[None, :], z, _NOTHING)
    top = tl.max(z, axis=1)
    below = (z - top[:, None]) * _LOG2E
    share = tl.exp2(below)
    inside = row < rows
    place = partials_ptr + row.to(tl.int64) * tiles + tile
    tl.store(place, top, mask=inside)
    tl.store(place + plane, tl.sum(share, axis=1), mask=inside)
    tl.store(place + 2 * plane, tl.sum(share * below, axis=1), mask=inside)
    if TEMPERED:
        inverse = 1.0 / tl.load(temperatures_ptr + row, mask=inside, other=1.0)
        tl.store(place + 3 * plane, tl.sum(tl.exp2(below * inverse[:, None]), axis=1), mask=inside)


@triton.jit
def gradient(
    states_ptr,
    weight_ptr,
    bias_ptr,
    slopes_ptr,
    plane,
    block_ptr,
    stride,
    rows,
    vocab,
    channels,
    BIAS: tl.constexpr,
    ENTROPY: tl.constexpr,
    EVEN: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
):
    """One tile of dL/dz = -(sum of g) softmax(z / T) / T - g_H p (ln p + H), without the drawn tokens' own share."""
    row_tiles = tl.cdiv(rows, TILE_ROWS)
    row = (tl.program_id(0) % row_tiles) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    column = (tl.program_id(0) // row_tiles) * TILE_COLUMNS + tl.arange(0, TILE_COLUMNS)
    z = _logits(
        *(states_ptr, weight_ptr, bias_ptr, row, column, rows, vocab, channels, BIAS, EVEN),
        *(TILE_ROWS, TILE_COLUMNS, TILE_CHANNELS),
    )
    inside = row < rows
    inverse = tl.load(slopes_ptr + row, mask=inside, other=1.0)[:, None]
    tempered = tl.load(slopes_ptr + 2 * plane + row, mask=inside, other=0.0)[:, None]
    of_row = tl.load(slopes_ptr + 4 * plane + row, mask=inside, other=0.0)[:, None]
    slope = of_row * tl.exp2((z * inverse - tempered) * _LOG2E)
    if ENTROPY:
        lse = tl.load(slopes_ptr + plane + row, mask=inside, other=0.0)[:, None]
        entropy = tl.load(slopes_ptr + 3 * plane + row, mask=inside, other=0.0)[:, None]
        of_entropy = tl.load(slopes_ptr + 5 * plane + row, mask=inside, other=0.0)[:, None]
        logprob = z - lse
        slope += of_entropy * tl.exp2(logprob * _LOG2E) * (logprob + entropy)
    place = block_ptr + row.to(tl.int64)[:, None] * stride + column[None, :]
    tl.store(place, slope.to(block_ptr.dtype.element_ty), mask=inside[:, None] & (column < vocab)[None, :])


@triton.jit
def drawn(
    hidden_ptr,
    weight_ptr,
    bias_ptr,
    nodes_ptr,
    rows_ptr,
    tokens_ptr,
    drawn_ptr,
    count,
    channels,
    BIAS: tl.constexpr,
    PICKS: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
):
    """The logits of some drawn tokens."""
    pick = tl.program_id(0) * PICKS + tl.arange(0, PICKS)
    inside = pick < count
    row = tl.load(rows_ptr + pick, mask=inside, other=0)
    node = tl.load(nodes_ptr + row, mask=inside, other=0)
    token = tl.load(tokens_ptr + pick, mask=inside, other=0)
    total = tl.zeros((PICKS,), dtype=tl.float32)
    for begin in range(0, channels, TILE_CHANNELS):
        channel = begin + tl.arange(0, TILE_CHANNELS)
        there = inside[:, None] & (channel < channels)[None, :]
        x = tl.load(hidden_ptr + node[:, None] * channels + channel[None, :], mask=there, other=0.0)
        w = tl.load(weight_ptr + token[:, None] * channels + channel[None, :], mask=there, other=0.0)
        total += tl.sum(x.to(tl.float32) * w.to(tl.float32), axis=1)
    if BIAS:
        total += tl.load(bias_ptr + token, mask=inside, other=0.0).to(tl.float32)
    tl.store(drawn_ptr + pick, total, mask=inside)


@triton.jit
def sums(rows_ptr, tokens_ptr, starts_ptr, grads_ptr, of_row_ptr, own_ptr):
    """One pick -> the sum of gradients over its row (all its picks write the same) and over its row's equal tokens."""
    pick = tl.program_id(0)
    row = tl.load(rows_ptr + pick)
    token = tl.load(tokens_ptr + pick)
    of_row = 0.0
    own = 0.0
    for other in range(tl.load(starts_ptr + row), tl.load(starts_ptr + row + 1)):
        grad = tl.load(grads_ptr + other)
        of_row += grad
        own += tl.where(tl.load(tokens_ptr + other) == token, grad, 0.0)
    tl.store(of_row_ptr + row, of_row)
    tl.store(own_ptr + pick, own)


@triton.jit
def put(
    block_ptr,
    stride,
    rows_ptr,
    tokens_ptr,
    values_ptr,
    count,
    first_row,
    end_row,
    first_column,
    end_column,
    PICKS: tl.constexpr,
):
    """Equal tokens of one row write the same value."""
    pick = tl.program_id(0) * PICKS + tl.arange(0, PICKS)
    inside = pick < count
    row = tl.load(rows_ptr + pick, mask=inside, other=-1)
    token = tl.load(tokens_ptr + pick, mask=inside, other=-1)
    inside = inside & (row >= first_row) & (row < end_row) & (token >= first_column) & (token < end_column)
    value = tl.load(values_ptr + pick, mask=inside, other=0.0)
    place = block_ptr + (row - first_row) * stride + (token - first_column)
    tl.store(place, value.to(block_ptr.dtype.element_ty), mask=inside)
