"""The Triton kernel of window_attention: a program has some queries of a set and some channels of their results.

    values[o, k] = sum over c of weight[o, c] n[c, k]                              weight = out_weight value_weight
    out[o, i]    = x[o, i] + sum over k of values[o, k] maps[i, k]

and for gradients without weight, norm or residual, and with the maps transposed.

Both weights are linear and the maps stand between them on another axis, so they are one matrix: half their products,
and nothing to round between them. A set's pixels are read where they lie, windows and grid sets alike, by their offsets
alone: no permuted copy. KEYS keys at a time, their values are made and multiplied with the maps, which are read
transposed. Of a window of 8 one program has all queries, so each value is made once.

It moves x once (the walks over a set's channels come from the L1 cache, and so does the residual), the maps once and
the result once; for each further CHANNELS channels x and maps come from the L2 cache again.
Products of float32 are IEEE float32, never TF32; of 16-bit types on tensor cores, summed in float32.
"""

# Triton compiles these functions from their source, and not all of Python; names in capitals are constants to it.
# mypy: ignore-errors
# ruff: noqa: N803, SIM108

import triton
import triton.language as tl

from ..attention_maps.triton_forward import place_of_token
from ..attention_maps.triton_norm import normalised, product, statistics


@triton.jit(do_not_specialize=["channels", "sets_down", "sets_across", "query_blocks", "channel_blocks", "first"])
def attend(
    x,  # [N, C, H, W]
    maps,  # [N sets, WINDOW^2, WINDOW^2]
    norm_weight,  # [C]
    norm_bias,  # [C]
    weight,  # [C, C]
    out,  # [N, C, H, W]
    channels,
    sets_down,  # H / WINDOW
    sets_across,  # W / WINDOW
    picture_stride,
    channel_stride,
    pixel_stride,
    query_blocks,
    channel_blocks,
    first,  # the number of this launch's first program
    WINDOW: tl.constexpr,
    GRID: tl.constexpr,
    TRANSPOSED: tl.constexpr,  # maps[k, i] instead of maps[i, k]
    RESIDUAL: tl.constexpr,
    EPS: tl.constexpr,
    SUM: tl.constexpr,
    FACTOR: tl.constexpr,  # what is multiplied
    WIDE: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    tokens: tl.constexpr = WINDOW * WINDOW
    program = tl.program_id(0)
    row, across = tl.arange(0, CHANNELS)[:, None], tl.arange(0, DEPTH)[:, None]
    if WIDE:
        program, row, across = program.to(tl.int64) + first, row.to(tl.int64), across.to(tl.int64)
    row += (program % channel_blocks) * CHANNELS
    program = program // channel_blocks
    query = (program % query_blocks) * QUERIES + tl.arange(0, QUERIES)[None, :]
    number = program // query_blocks
    sets = sets_down * sets_across
    picture = number // sets * picture_stride
    maps += number * tokens * tokens

    sums = tl.zeros((CHANNELS, QUERIES), SUM)
    for begin in tl.range(0, tokens, KEYS, num_stages=1):
        key = begin + tl.arange(0, KEYS)
        here = key[None, :] < tokens
        place = place_of_token(key[None, :], number % sets, sets_down, sets_across, pixel_stride, WINDOW, GRID)
        mean, scale = statistics(
            x + picture, place, here, across, channels, channel_stride, norm_weight, EPS, SUM, DEPTH, 0
        )  # fmt: skip
        if weight is None:
            values = normalised(
                x + picture, place, here, row, channels, channel_stride, mean, scale, norm_weight, norm_bias,
                SUM, FACTOR,
            )  # fmt: skip
        else:
            values = product(
                weight, channels, row, x + picture, place, here, channels, channel_stride, mean, scale,
                norm_weight, norm_bias, SUM, FACTOR, DEPTH,
            )  # fmt: skip
        values = tl.where(here, values, 0.0).to(FACTOR)
        both = (key[:, None] < tokens) & (query < tokens)
        if TRANSPOSED:
            at = key[:, None] * tokens + query
        else:
            at = query * tokens + key[:, None]
        shares = tl.load(maps + at, mask=both, other=0).to(FACTOR)
        sums = tl.dot(values, shares, sums, input_precision="ieee", out_dtype=SUM)

    place = place_of_token(query, number % sets, sets_down, sets_across, pixel_stride, WINDOW, GRID)
    inside = (row < channels) & (query < tokens)
    at = picture + place + row * channel_stride
    if RESIDUAL:
        sums += tl.load(x + at, mask=inside, other=0).to(SUM)
    tl.store(out + at, sums.to(out.dtype.element_ty), mask=inside)
