"""The Triton kernel of split_distillation, forward.

    h[c, p]         = act(x[c, p] + bias[c] + residual[c, p])                                   p: a pixel
    d[o, p]         = act_distilled(weight_bias[o] + sum over c < split of weight[o, c] h[c, p]), or h[o, p]
    distilled[o, p] = d[o, p] sigmoid(gate_bias[o] + sum over k of gate_weight[o, k] d[k, p])
    remaining       = h[split:], or h where WHOLE

Tile. CHANNELS of the distilled part by PIXELS pixels of one picture. The distilling product walks h DEPTH channels at a
time and leaves each piece in `remaining` on the way where all channels remain; the channels that remain of a split are
neither multiplied nor read twice, and go through the same program DEPTH at a time. The gate's product needs all of d:
where d is h it is read again in pieces, which the L1 cache still has; where it is itself a product the tile must hold
all of its channels, or the gate is a call of its own (triton.py).

Products of float32 are IEEE float32, never TF32; of 16-bit types on tensor cores, summed in float32.
"""

# Triton compiles these functions from their source, and not all of Python; names in capitals are constants to it.
# mypy: ignore-errors
# ruff: noqa: N803, SIM102

import triton
import triton.language as tl

from ..depthwise_conv.triton_forward import activated
from .triton_tiles import matrix_of, offsets_of


@triton.jit
def before(
    x, x_strides, bias, residual, residual_strides, picture, channel, pixel, channels, pixels, SUM: tl.constexpr
):  # fmt: skip
    """A tile [channel, pixel] of x + bias + residual, zero outside."""
    here = (channel < channels) & (pixel < pixels)
    value = tl.load(x + offsets_of(x_strides, picture, channel, pixel), mask=here, other=0).to(SUM)
    if bias is not None:
        value += tl.where(here, tl.load(bias + channel, mask=channel < channels, other=0).to(SUM), 0.0)
    if residual is not None:
        value += tl.load(residual + offsets_of(residual_strides, picture, channel, pixel), mask=here, other=0).to(SUM)
    return value


@triton.jit
def hidden(
    x, x_strides, bias, residual, residual_strides, picture, channel, pixel, channels, pixels,
    ACTIVATION: tl.constexpr, SLOPE: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """A tile of h, zero outside."""
    value = before(x, x_strides, bias, residual, residual_strides, picture, channel, pixel, channels, pixels, SUM)
    value = activated(value, ACTIVATION, SLOPE)
    if ACTIVATION == "sigmoid":
        value = tl.where((channel < channels) & (pixel < pixels), value, 0.0)
    return value


@triton.jit
def multiply(
    matrix, rows, row, x, x_strides, bias, residual, residual_strides, picture, pixel, split, pixels,
    ACTIVATION: tl.constexpr, SLOPE: tl.constexpr, SUM: tl.constexpr, FACTOR: tl.constexpr,
    ROWS: tl.constexpr, PIXELS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Some rows of a matrix [rows, split] times h, which is read DEPTH channels at a time."""
    across = tl.arange(0, DEPTH).to(row.dtype)
    sums = tl.zeros((ROWS, PIXELS), SUM)
    for begin in range(0, split, DEPTH):
        values = hidden(
            x, x_strides, bias, residual, residual_strides, picture, (begin + across)[:, None], pixel, split, pixels,
            ACTIVATION, SLOPE, SUM,
        )  # fmt: skip
        factors = matrix_of(matrix, row, (begin + across)[None, :], rows, split).to(FACTOR)
        sums = tl.dot(factors, values.to(FACTOR), sums, input_precision="ieee", out_dtype=SUM)
    return sums


@triton.jit(do_not_specialize=["channels", "split", "distilled", "pixel_blocks", "first"])
def distil(
    x,  # [N, C, H, W]
    x_strides,
    bias,  # [C]
    residual,  # [N, C, H, W]
    residual_strides,
    weight,  # [D, split]
    weight_bias,  # [D]
    gate_weight,  # [D, D]
    gate_bias,  # [D]
    out,  # [N, D, H, W]
    out_strides,
    remaining,  # [N, C - split or C, H, W], or nobody reads it
    remaining_strides,
    channels,  # C
    split,  # channels that are distilled; C where WHOLE
    distilled,  # D
    pixels,  # of a picture
    pixel_blocks,
    channel_blocks,  # of D; 1 where there are both weight and gate_weight
    first,  # the number of this launch's first program
    ACTIVATION: tl.constexpr,
    DISTILLED_ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
    WHOLE: tl.constexpr,
    SUM: tl.constexpr,
    FACTOR: tl.constexpr,  # what is multiplied
    WIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    program = tl.program_id(0)
    across = tl.arange(0, DEPTH)
    row = tl.arange(0, CHANNELS)[:, None]
    if WIDE:
        program, across, row = program.to(tl.int64) + first, across.to(tl.int64), row.to(tl.int64)
    channel_block = program % channel_blocks
    program = program // channel_blocks
    row += channel_block * CHANNELS
    pixel = (program % pixel_blocks) * PIXELS + tl.arange(0, PIXELS)[None, :]
    picture = program // pixel_blocks

    if weight is not None:
        sums = tl.zeros((CHANNELS, PIXELS), SUM)
        kept = tl.where(channel_block == 0, split, 0)  # the first of the blocks writes all that remains
        for begin in range(0, split, DEPTH):
            channel = (begin + across)[:, None]
            values = hidden(
                x, x_strides, bias, residual, residual_strides, picture, channel, pixel, split, pixels,
                ACTIVATION, SLOPE, SUM,
            )  # fmt: skip
            if WHOLE:
                if remaining is not None:
                    tl.store(
                        remaining + offsets_of(remaining_strides, picture, channel, pixel),
                        values.to(remaining.dtype.element_ty),
                        mask=(channel < kept) & (pixel < pixels),
                    )
            factors = matrix_of(weight, row, (begin + across)[None, :], distilled, split).to(FACTOR)
            sums = tl.dot(factors, values.to(FACTOR), sums, input_precision="ieee", out_dtype=SUM)
        if weight_bias is not None:
            sums += tl.load(weight_bias + row, mask=row < distilled, other=0).to(SUM)
        value = activated(sums, DISTILLED_ACTIVATION, SLOPE)
    else:
        value = hidden(
            x, x_strides, bias, residual, residual_strides, picture, row, pixel, split, pixels,
            ACTIVATION, SLOPE, SUM,
        )  # fmt: skip
        if WHOLE:
            if remaining is not None:
                tl.store(
                    remaining + offsets_of(remaining_strides, picture, row, pixel),
                    value.to(remaining.dtype.element_ty),
                    mask=(row < split) & (pixel < pixels),
                )

    if gate_weight is not None:
        if weight is not None:
            column = tl.arange(0, CHANNELS)[None, :]
            # Rows beyond D may hold the NaN of zero times infinity, which must not meet the others.
            terms = tl.where(row < distilled, value, 0.0).to(FACTOR)
            factors = matrix_of(gate_weight, row, column, distilled, distilled).to(FACTOR)
            logit = tl.dot(factors, terms, input_precision="ieee", out_dtype=SUM)
        else:
            logit = multiply(
                gate_weight, distilled, row, x, x_strides, bias, residual, residual_strides, picture, pixel, split,
                pixels, ACTIVATION, SLOPE, SUM, FACTOR, CHANNELS, PIXELS, DEPTH,
            )  # fmt: skip
        if gate_bias is not None:
            logit += tl.load(gate_bias + row, mask=row < distilled, other=0).to(SUM)
        value *= 1.0 / (1.0 + tl.exp(-logit))
    tl.store(
        out + offsets_of(out_strides, picture, row, pixel),
        value.to(out.dtype.element_ty),
        mask=(row < distilled) & (pixel < pixels),
    )

    if not WHOLE:
        if remaining is not None:
            for begin in range(split + channel_block * DEPTH, channels, channel_blocks * DEPTH):
                channel = (begin + across)[:, None]
                rest = hidden(
                    x, x_strides, bias, residual, residual_strides, picture, channel, pixel, channels, pixels,
                    ACTIVATION, SLOPE, SUM,
                )  # fmt: skip
                tl.store(
                    remaining + offsets_of(remaining_strides, picture, channel - split, pixel),
                    rest.to(remaining.dtype.element_ty),
                    mask=(channel < channels) & (pixel < pixels),
                )
