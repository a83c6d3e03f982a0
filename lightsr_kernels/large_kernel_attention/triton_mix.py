"""The Triton kernels of large_kernel_attention's second half: 1x1 convolution, gate, 1x1 convolution, residual.

    gated[n, o, p] = (bias[o] + sum over c of weight[o, c] * x[n, c, p]) * gate[n, o, p]          p: a pixel
    out[n, o, p] = out_bias[o] + sum over c of out_weight[o, c] * gated[n, c, p] + residual[n, o, p]

Tile. A tile is some channels by PIXELS pixels of one picture, whose pixels lie one stride apart in both layouts, so
that one kernel serves both. `pointwise` is either line alone: it walks the channels DEPTH at a time. `mix` is both in
one pass, for as many channels as a tile can hold: the second product reads what the first one left on the chip.

Products of float32 are IEEE float32, never TF32; of 16-bit types on tensor cores, summed in float32.
"""

# Triton compiles these functions from their source, and not all of Python; names in capitals are constants to it.
# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl


@triton.jit
def tile_of(tensor, channel, at, channels, inside, channel_stride):
    """A tile [channels, PIXELS] of a picture, zero outside."""
    return tl.load(tensor + channel * channel_stride + at, mask=(channel < channels) & inside, other=0)


@triton.jit
def matrix_of(weight, row, column, channels):
    """A tile of a [C, C] matrix, zero outside."""
    return tl.load(weight + row * channels + column, mask=(row < channels) & (column < channels), other=0)


@triton.jit(do_not_specialize=["channels", "pixel_blocks", "first"])
def pointwise(
    x,  # [N, C, H, W]
    weight,  # [C, C]
    bias,  # [C]
    gate,  # [N, C, H, W]
    residual,  # [N, C, H, W]
    out,  # [N, C, H, W]
    channels,
    pixels,  # of a picture
    channel_stride,
    pixel_stride,
    pixel_blocks,
    channel_blocks,
    first,  # the number of this launch's first program
    SUM: tl.constexpr,
    FACTOR: tl.constexpr,  # what is multiplied
    WIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64) + first
    channel = (program % channel_blocks) * CHANNELS + tl.arange(0, CHANNELS)[:, None]
    program = program // channel_blocks
    pixel = (program % pixel_blocks) * PIXELS + tl.arange(0, PIXELS)[None, :]
    at = (program // pixel_blocks) * channels * pixels + pixel * pixel_stride
    inside = pixel < pixels

    sums = tl.zeros((CHANNELS, PIXELS), SUM)
    for begin in range(0, channels, DEPTH):
        across = begin + tl.arange(0, DEPTH)
        values = tile_of(x, across[:, None], at, channels, inside, channel_stride).to(FACTOR)
        factors = matrix_of(weight, channel, across[None, :], channels).to(FACTOR)
        sums = tl.dot(factors, values, sums, input_precision="ieee", out_dtype=SUM)
    if bias is not None:
        sums += tl.load(bias + channel, mask=channel < channels, other=0).to(SUM)
    if gate is not None:
        sums *= tile_of(gate, channel, at, channels, inside, channel_stride).to(SUM)
    if residual is not None:
        sums += tile_of(residual, channel, at, channels, inside, channel_stride).to(SUM)
    tl.store(out + channel * channel_stride + at, sums.to(out.dtype.element_ty), mask=(channel < channels) & inside)


@triton.jit(do_not_specialize=["channels", "pixel_blocks", "first"])
def mix(
    x,  # [N, C, H, W]
    weight,  # [C, C]
    bias,  # [C]
    gate,  # [N, C, H, W]
    out_weight,  # [C, C]
    out_bias,  # [C]
    residual,  # [N, C, H, W]
    out,  # [N, C, H, W]
    channels,
    pixels,  # of a picture
    channel_stride,
    pixel_stride,
    pixel_blocks,
    first,  # the number of this launch's first program
    SUM: tl.constexpr,
    FACTOR: tl.constexpr,  # what is multiplied
    WIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,  # a power of two, not below `channels`
    DEPTH: tl.constexpr,
):
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64) + first
    channel = tl.arange(0, CHANNELS)
    pixel = (program % pixel_blocks) * PIXELS + tl.arange(0, PIXELS)[None, :]
    at = (program // pixel_blocks) * channels * pixels + pixel * pixel_stride
    inside = pixel < pixels
    row = channel[:, None]

    sums = tl.zeros((CHANNELS, PIXELS), SUM)
    for begin in range(0, channels, DEPTH):
        across = begin + tl.arange(0, DEPTH)
        values = tile_of(x, across[:, None], at, channels, inside, channel_stride).to(FACTOR)
        factors = matrix_of(weight, row, across[None, :], channels).to(FACTOR)
        sums = tl.dot(factors, values, sums, input_precision="ieee", out_dtype=SUM)
    if bias is not None:
        sums += tl.load(bias + row, mask=row < channels, other=0).to(SUM)
    sums *= tile_of(gate, row, at, channels, inside, channel_stride).to(SUM)

    gated = sums.to(FACTOR)
    factors = matrix_of(out_weight, row, channel[None, :], channels).to(FACTOR)
    sums = tl.dot(factors, gated, input_precision="ieee", out_dtype=SUM)
    if out_bias is not None:
        sums += tl.load(out_bias + row, mask=row < channels, other=0).to(SUM)
    if residual is not None:
        sums += tile_of(residual, row, at, channels, inside, channel_stride).to(SUM)
    tl.store(out + row * channel_stride + at, sums.to(out.dtype.element_ty), mask=(row < channels) & inside)
