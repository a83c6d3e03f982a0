"""The Triton kernel behind the first 1x1 convolution of gated_feed_forward (`project` of attention_maps makes that).

    a[m, p]   = sum over taps of depthwise_weight[m, tap] hidden[m, p + tap], and b likewise with M + m
    out[o, p] = x[o, p] + sum over m of out_weight[o, m] gelu(a[m, p]) b[m, p]

Tile. CHANNELS of the result by ROWS by COLUMNS pixels of one picture. It walks m DEPTH channels at a time: nine shifted
tiles of `hidden` each for a and b, of which all but what is new come from the L1 cache, become gelu(a) b in registers
and are multiplied at once. A tile of registers cannot be shifted, so the taps need `hidden` in memory; making it anew
for each of the nine would be nine times the product's work.

Of wide tensors `hidden` alone is stored, once: written by `project` and read here, 2M channels each. With x read twice
and the result that moves 3C + 4M numbers a pixel, where step by step it is 6C + 13M or more.
"""

# Triton compiles these functions from their source, and not all of Python; names in capitals are constants to it.
# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl

from ..depthwise_conv.triton_forward import activated
from ..split_distillation.triton_tiles import matrix_of


@triton.jit
def convolved(
    hidden, place, apart, row, column, height, width, row_stride, pixel_stride, weight, channel, middle,
    SUM: tl.constexpr,
):  # fmt: skip
    """Tiles [channel, pixel] of a depthwise 3x3 convolution: these channels', and those' that lie M channels on."""
    there = channel < middle
    a = tl.zeros(channel.shape, SUM) * tl.zeros(row.shape, SUM)
    b = a
    for i in tl.range(3, num_stages=1):  # not unrolled: loads of all taps at once would take all registers
        for j in tl.static_range(3):
            inside = there & (row + i > 0) & (row + i <= height) & (column + j > 0) & (column + j <= width)
            at = hidden + place + ((i - 1) * row_stride + (j - 1) * pixel_stride)
            tap = weight + channel * 9 + (i * 3 + j)
            a += tl.load(tap, mask=there, other=0).to(SUM) * tl.load(at, mask=inside, other=0).to(SUM)
            tap += middle * 9
            b += tl.load(tap, mask=there, other=0).to(SUM) * tl.load(at + apart, mask=inside, other=0).to(SUM)
    return a, b


@triton.jit(do_not_specialize=["channels", "middle", "tiles_down", "tiles_across", "channel_blocks", "first"])
def gate(
    hidden,  # [N, 2M, H, W]
    depthwise_weight,  # [2M, 9]
    out_weight,  # [C, M]
    x,  # [N, C, H, W]
    out,  # [N, C, H, W]
    channels,  # C
    middle,  # M
    height,
    width,
    channel_stride,  # of x and out
    pixel_stride,
    hidden_channel_stride,
    hidden_pixel_stride,
    tiles_down,
    tiles_across,
    channel_blocks,
    first,  # the number of this launch's first program
    SUM: tl.constexpr,
    FACTOR: tl.constexpr,  # what is multiplied
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    program = tl.program_id(0)
    out_row, across = tl.arange(0, CHANNELS)[:, None], tl.arange(0, DEPTH)
    if WIDE:
        program, out_row, across = program.to(tl.int64) + first, out_row.to(tl.int64), across.to(tl.int64)
    out_row += (program % channel_blocks) * CHANNELS
    program = program // channel_blocks
    pixel = tl.arange(0, ROWS * COLUMNS)[None, :]
    column = (program % tiles_across) * COLUMNS + pixel % COLUMNS
    program = program // tiles_across
    row = (program % tiles_down) * ROWS + pixel // COLUMNS
    picture = program // tiles_down
    number = row * width + column
    place = picture * 2 * middle * height * width + number * hidden_pixel_stride

    sums = tl.zeros((CHANNELS, ROWS * COLUMNS), SUM)
    for begin in tl.range(0, middle, DEPTH, num_stages=1):
        channel = (begin + across)[:, None]
        a, b = convolved(
            hidden, place + channel * hidden_channel_stride, middle * hidden_channel_stride, row, column, height, width,
            width * hidden_pixel_stride, hidden_pixel_stride, depthwise_weight, channel, middle, SUM,
        )  # fmt: skip
        values = (activated(a, "gelu", 0.0) * b).to(FACTOR)
        factors = matrix_of(out_weight, out_row, (begin + across)[None, :], channels, middle).to(FACTOR)
        sums = tl.dot(factors, values, sums, input_precision="ieee", out_dtype=SUM)

    at = picture * channels * height * width + out_row * channel_stride + number * pixel_stride
    inside = (out_row < channels) & (row < height) & (column < width)
    sums += tl.load(x + at, mask=inside, other=0).to(SUM)
    tl.store(out + at, sums.to(out.dtype.element_ty), mask=inside)
