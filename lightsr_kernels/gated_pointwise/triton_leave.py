"""The last Triton kernel of gated_pointwise: star, gate and the way out. triton_forward.py says how it works."""

# Triton compiles these functions from their source, and not all of Python; names in capitals are constants to it.
# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl

from ..attention_maps.triton_norm import normalised, statistics
from ..split_distillation.triton_tiles import matrix_of
from .triton_forward import affine_rows, enlarged


@triton.jit
def mixed_of(
    entered, coarse, skip_weight, skip_bias, picture, pixel, gate, height, width, coarse_height, coarse_width,
    entered_channel_stride, entered_pixel_stride, SUM: tl.constexpr, FACTOR: tl.constexpr, GATE: tl.constexpr,
):  # fmt: skip
    """A tile of m, all channels of the gate by some pixels, zero outside."""
    row, column = tl.arange(0, GATE)[:, None].to(picture.dtype), tl.arange(0, GATE)[None, :]
    pixels = height * width
    inside = (pixel < pixels) & (row < gate)
    at = picture * gate * pixels + row * entered_channel_stride + pixel * entered_pixel_stride
    mixed = tl.load(entered + at, mask=inside, other=0)
    mixed = affine_rows(skip_weight, skip_bias, mixed, row, gate, column, gate, SUM, FACTOR)
    plane = coarse + (picture * gate + row) * coarse_height * coarse_width
    mixed += enlarged(plane, pixel, inside, height, width, coarse_height, coarse_width, SUM)
    return tl.where(inside, mixed, 0.0).to(FACTOR)


@triton.jit
def paths(
    x, place, here, channels, channel_stride, mean, scale, norm_weight, norm_bias,
    weight_a, bias_a, weight_b, bias_b, weight_c, bias_c, row, expanded,
    SUM: tl.constexpr, FACTOR: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Some rows of what the three 1x1 convolutions make of n."""
    across = tl.arange(0, DEPTH).to(row.dtype)
    a = tl.zeros(row.shape, SUM) * tl.zeros(place.shape, SUM)
    b = a
    c = a
    for start in tl.range(0, channels, DEPTH, num_stages=1):
        channel = start + across
        values = normalised(
            x, place, here, channel[:, None], channels, channel_stride, mean, scale, norm_weight, norm_bias, SUM, FACTOR
        )  # fmt: skip
        factors = matrix_of(weight_a, row, channel[None, :], expanded, channels).to(FACTOR)
        a = tl.dot(factors, values, a, input_precision="ieee", out_dtype=SUM)
        factors = matrix_of(weight_b, row, channel[None, :], expanded, channels).to(FACTOR)
        b = tl.dot(factors, values, b, input_precision="ieee", out_dtype=SUM)
        factors = matrix_of(weight_c, row, channel[None, :], expanded, channels).to(FACTOR)
        c = tl.dot(factors, values, c, input_precision="ieee", out_dtype=SUM)
    there = row < expanded
    a += tl.load(bias_a + row, mask=there, other=0).to(SUM)
    b += tl.load(bias_b + row, mask=there, other=0).to(SUM)
    c += tl.load(bias_c + row, mask=there, other=0).to(SUM)
    return a, b, c


@triton.jit
def relu6(a):
    return tl.where(a < 0, 0.0, tl.where(a > 6, 6.0, a))


@triton.jit(do_not_specialize=["channels", "gate", "coarse_height", "coarse_width", "pixel_blocks", "first"])
def leave(
    x,  # [N, C, H, W]
    norm_weight,  # [C]
    norm_bias,  # [C]
    entered,  # [N, P, H, W]
    coarse,  # [N, P, coarse H, coarse W]
    weight_a,  # [E, C]
    bias_a,  # [E]
    weight_b,
    bias_b,
    weight_c,
    bias_c,
    skip_weight,  # [P, P]
    skip_bias,  # [P]
    exit_weight,  # [E, P]
    exit_bias,  # [E]
    out_weight,  # [C, E]
    out_bias,  # [C]
    out,  # [N, C, H, W]
    channels,  # C
    expanded,  # E
    gate,  # P
    height,
    width,
    coarse_height,
    coarse_width,
    channel_stride,  # of x and out
    pixel_stride,
    entered_channel_stride,
    entered_pixel_stride,
    pixel_blocks,
    channel_blocks,
    first,  # the number of this launch's first program
    EPS: tl.constexpr,
    SUM: tl.constexpr,
    FACTOR: tl.constexpr,  # what is multiplied
    WIDE: tl.constexpr,
    GATE: tl.constexpr,
    PIXELS: tl.constexpr,
    EXPANDED: tl.constexpr,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    program = tl.program_id(0)
    out_row, across = tl.arange(0, CHANNELS)[:, None], tl.arange(0, DEPTH)[:, None]
    if WIDE:
        program, out_row, across = program.to(tl.int64) + first, out_row.to(tl.int64), across.to(tl.int64)
    out_row += (program % channel_blocks) * CHANNELS
    program = program // channel_blocks
    pixel = (program % pixel_blocks) * PIXELS + tl.arange(0, PIXELS)[None, :]
    picture = program // pixel_blocks
    pixels = height * width
    here = pixel < pixels
    place = picture * channels * pixels + pixel * pixel_stride
    mean, scale = statistics(x, place, here, across, channels, channel_stride, norm_weight, EPS, SUM, DEPTH, 0)

    mixed = mixed_of(
        entered, coarse, skip_weight, skip_bias, picture, pixel, gate, height, width, coarse_height, coarse_width,
        entered_channel_stride, entered_pixel_stride, SUM, FACTOR, GATE,
    )  # fmt: skip

    sums = tl.zeros((CHANNELS, PIXELS), SUM)
    for begin in tl.range(0, expanded, EXPANDED, num_stages=1):
        column = begin + tl.arange(0, EXPANDED).to(out_row.dtype)
        row = column[:, None]
        a, b, c = paths(
            x, place, here, channels, channel_stride, mean, scale, norm_weight, norm_bias,
            weight_a, bias_a, weight_b, bias_b, weight_c, bias_c, row, expanded, SUM, FACTOR, DEPTH,
        )  # fmt: skip
        gates = tl.arange(0, GATE)[None, :]
        logit = affine_rows(exit_weight, exit_bias, mixed, row, expanded, gates, gate, SUM, FACTOR)
        value = relu6(a) * b + c / (1.0 + tl.exp(-logit))
        value = tl.where(row < expanded, value, 0.0).to(FACTOR)
        factors = matrix_of(out_weight, out_row, column[None, :], channels, expanded).to(FACTOR)
        sums = tl.dot(factors, value, sums, input_precision="ieee", out_dtype=SUM)

    sums += tl.load(out_bias + out_row, mask=out_row < channels, other=0).to(SUM)
    at = place + out_row * channel_stride
    tl.store(out + at, sums.to(out.dtype.element_ty), mask=here & (out_row < channels))
