"""The Triton kernels of gated_pointwise's gradients that see E channels, and that of its max pool.

With what triton_forward.py has, gate = sigmoid(exit_weight m + exit_bias) and [.] 1 where true:

    grad_s = out_weight^T grad           grad_a = grad_s b [0 < a < 6]          grad_b = grad_s relu6(a)
    grad_c = grad_s gate                 grad_l = grad_s c gate (1 - gate)      l: what the sigmoid sees
    pictures    grad_n = weight_a^T grad_a + weight_b^T grad_b + weight_c^T grad_c,   grad_m = exit_weight^T grad_l
    sums        sums over pixels of grad_a n, grad_b n, grad_c n, s grad, grad_l m, grad_a, grad_b, grad_c and grad_l

Both make a, b, c and the gate anew, EXPANDED of the E channels at a time: nothing of E channels is ever in memory.
`pictures` has CHANNELS by PIXELS of grad_n and walks all of E; `sums` has EXPANDED rows of all sums and walks `steps`
tiles of pixels. Moved, in numbers a pixel: x, grad and `entered` once each by both, though `sums` reads them once more
from the L2 cache for each further EXPANDED; grad_n and grad_m once.

`unpool` has one number of the map before the max pool and looks it up in the nine windows that it may be in.

Sums over pixels are left in a workspace, a part from each program, which `add_parts` of split_distillation adds up in a
fixed order: no atomics. Products of float32 are IEEE float32, never TF32; of 16-bit types on tensor cores, summed in
float32.
"""

# Triton compiles these functions from their source, and not all of Python; names in capitals are constants to it.
# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl

from ..attention_maps.triton_norm import normalised, statistics
from ..split_distillation.triton_tiles import matrix_of
from .triton_forward import affine_rows
from .triton_leave import mixed_of, paths, relu6


@triton.jit
def gradients_of(
    a, b, c, mixed, grad, place, here, exit_weight, exit_bias, out_weight, row, expanded, channels, gate,
    channel_stride, SUM: tl.constexpr, FACTOR: tl.constexpr, GATE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Tiles of s and of the gradients of a, b, c and l; zero where there are no such rows."""
    across = tl.arange(0, DEPTH).to(row.dtype)
    grad_s = tl.zeros(row.shape, SUM) * tl.zeros(place.shape, SUM)
    for start in tl.range(0, channels, DEPTH, num_stages=1):
        channel = start + across
        inside = here & (channel[:, None] < channels)
        values = tl.load(grad + place + channel[:, None] * channel_stride, mask=inside, other=0).to(FACTOR)
        factors = matrix_of(out_weight, channel[None, :], row, channels, expanded).to(FACTOR)
        grad_s = tl.dot(factors, values, grad_s, input_precision="ieee", out_dtype=SUM)
    column = tl.arange(0, GATE)[None, :]
    logit = affine_rows(exit_weight, exit_bias, mixed, row, expanded, column, gate, SUM, FACTOR)
    share = 1.0 / (1.0 + tl.exp(-logit))
    there = row < expanded
    limited = relu6(a)
    s = tl.where(there, limited * b + c * share, 0.0)
    grad_a = tl.where(there & ~((a <= 0) | (a >= 6)), grad_s * b, 0.0)
    grad_b = tl.where(there, grad_s * limited, 0.0)
    grad_c = tl.where(there, grad_s * share, 0.0)
    grad_l = tl.where(there, grad_s * c * share * (1.0 - share), 0.0)
    return s, grad_a, grad_b, grad_c, grad_l


@triton.jit(do_not_specialize=["channels", "gate", "coarse_height", "coarse_width", "pixel_blocks", "first"])
def pictures(
    x, norm_weight, norm_bias, entered, coarse, weight_a, bias_a, weight_b, bias_b, weight_c, bias_c,
    skip_weight, skip_bias, exit_weight, exit_bias, out_weight,  # as `leave` of triton_leave.py has them
    grad,  # [N, C, H, W]
    grad_n,  # [N, C, H, W]
    grad_m,  # [N, P, H, W]
    channels, expanded, gate, height, width, coarse_height, coarse_width, channel_stride, pixel_stride,
    entered_channel_stride, entered_pixel_stride, pixel_blocks, channel_blocks,
    first,  # the number of this launch's first program
    EPS: tl.constexpr, SUM: tl.constexpr, FACTOR: tl.constexpr, WIDE: tl.constexpr, GATE: tl.constexpr,
    PIXELS: tl.constexpr, EXPANDED: tl.constexpr, CHANNELS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    out_row, across = tl.arange(0, CHANNELS)[:, None], tl.arange(0, DEPTH)[:, None]
    if WIDE:
        program, out_row, across = program.to(tl.int64) + first, out_row.to(tl.int64), across.to(tl.int64)
    block = program % channel_blocks
    out_row += block * CHANNELS
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

    gate_row = tl.arange(0, GATE)[:, None].to(out_row.dtype)
    of_n = tl.zeros((CHANNELS, PIXELS), SUM)
    of_m = tl.zeros((GATE, PIXELS), SUM)
    for begin in tl.range(0, expanded, EXPANDED, num_stages=1):
        column = begin + tl.arange(0, EXPANDED).to(out_row.dtype)
        a, b, c = paths(
            x, place, here, channels, channel_stride, mean, scale, norm_weight, norm_bias,
            weight_a, bias_a, weight_b, bias_b, weight_c, bias_c, column[:, None], expanded, SUM, FACTOR, DEPTH,
        )  # fmt: skip
        _, grad_a, grad_b, grad_c, grad_l = gradients_of(
            a, b, c, mixed, grad, place, here, exit_weight, exit_bias, out_weight, column[:, None], expanded, channels,
            gate, channel_stride, SUM, FACTOR, GATE, DEPTH,
        )  # fmt: skip
        factors = matrix_of(weight_a, column[None, :], out_row, expanded, channels).to(FACTOR)
        of_n = tl.dot(factors, grad_a.to(FACTOR), of_n, input_precision="ieee", out_dtype=SUM)
        factors = matrix_of(weight_b, column[None, :], out_row, expanded, channels).to(FACTOR)
        of_n = tl.dot(factors, grad_b.to(FACTOR), of_n, input_precision="ieee", out_dtype=SUM)
        factors = matrix_of(weight_c, column[None, :], out_row, expanded, channels).to(FACTOR)
        of_n = tl.dot(factors, grad_c.to(FACTOR), of_n, input_precision="ieee", out_dtype=SUM)
        factors = matrix_of(exit_weight, column[None, :], gate_row, expanded, gate).to(FACTOR)
        of_m = tl.dot(factors, grad_l.to(FACTOR), of_m, input_precision="ieee", out_dtype=SUM)

    tl.store(grad_n + place + out_row * channel_stride, of_n, mask=here & (out_row < channels))
    at = picture * gate * pixels + gate_row * entered_channel_stride + pixel * entered_pixel_stride
    kept = tl.where(block == 0, gate, 0)  # the first of the blocks writes what all of them have
    tl.store(grad_m + at, of_m, mask=here & (gate_row < kept))


@triton.jit(do_not_specialize=["channels", "gate", "coarse_height", "coarse_width", "steps", "stretches", "first"])
def sums(
    x, norm_weight, norm_bias, entered, coarse, weight_a, bias_a, weight_b, bias_b, weight_c, bias_c,
    skip_weight, skip_bias, exit_weight, exit_bias, out_weight,  # as `leave` of triton_leave.py has them
    grad,  # [N, C, H, W]
    parts,  # [N stretches, E, 4 C + P + 4]
    channels, expanded, gate, height, width, coarse_height, coarse_width, channel_stride, pixel_stride,
    entered_channel_stride, entered_pixel_stride, row_blocks, channel_blocks,
    steps,  # tiles of pixels that a program walks
    stretches,  # of a picture, of so many tiles each
    first,  # the number of this launch's first program
    EPS: tl.constexpr, SUM: tl.constexpr, FACTOR: tl.constexpr, WIDE: tl.constexpr, GATE: tl.constexpr,
    PIXELS: tl.constexpr, EXPANDED: tl.constexpr, CHANNELS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    row, column = tl.arange(0, EXPANDED)[:, None], tl.arange(0, CHANNELS)[None, :]
    if WIDE:
        program, row, column = program.to(tl.int64) + first, row.to(tl.int64), column.to(tl.int64)
    block = program % channel_blocks
    column += block * CHANNELS
    program = program // channel_blocks
    row += (program % row_blocks) * EXPANDED
    part = program // row_blocks
    picture, pixels = part // stretches, height * width
    across = tl.arange(0, DEPTH).to(row.dtype)
    by_a = tl.zeros((EXPANDED, CHANNELS), SUM)
    by_b = tl.zeros((EXPANDED, CHANNELS), SUM)
    by_c = tl.zeros((EXPANDED, CHANNELS), SUM)
    by_out = tl.zeros((EXPANDED, CHANNELS), SUM)
    by_exit = tl.zeros((EXPANDED, GATE), SUM)
    bias_sums_a = tl.zeros((EXPANDED, 1), SUM)
    bias_sums_b = tl.zeros((EXPANDED, 1), SUM)
    bias_sums_c = tl.zeros((EXPANDED, 1), SUM)
    bias_sums_l = tl.zeros((EXPANDED, 1), SUM)
    for step in tl.range(0, steps, num_stages=1):
        begin = ((part % stretches) * steps + step) * PIXELS
        pixel = begin + tl.arange(0, PIXELS)[None, :]
        here = pixel < pixels
        place = picture * channels * pixels + pixel * pixel_stride
        mean, scale = statistics(
            x, place, here, across[:, None], channels, channel_stride, norm_weight, EPS, SUM, DEPTH, 0
        )  # fmt: skip
        mixed = mixed_of(
            entered, coarse, skip_weight, skip_bias, picture, pixel, gate, height, width, coarse_height, coarse_width,
            entered_channel_stride, entered_pixel_stride, SUM, FACTOR, GATE,
        )  # fmt: skip
        a, b, c = paths(
            x, place, here, channels, channel_stride, mean, scale, norm_weight, norm_bias,
            weight_a, bias_a, weight_b, bias_b, weight_c, bias_c, row, expanded, SUM, FACTOR, DEPTH,
        )  # fmt: skip
        s, grad_a, grad_b, grad_c, grad_l = gradients_of(
            a, b, c, mixed, grad, place, here, exit_weight, exit_bias, out_weight, row, expanded, channels, gate,
            channel_stride, SUM, FACTOR, GATE, DEPTH,
        )  # fmt: skip
        bias_sums_a += tl.sum(grad_a, axis=1, keep_dims=True)
        bias_sums_b += tl.sum(grad_b, axis=1, keep_dims=True)
        bias_sums_c += tl.sum(grad_c, axis=1, keep_dims=True)
        bias_sums_l += tl.sum(grad_l, axis=1, keep_dims=True)
        by_exit = tl.dot(grad_l.to(FACTOR), tl.trans(mixed), by_exit, input_precision="ieee", out_dtype=SUM)
        pixel = begin + tl.arange(0, PIXELS)[:, None]
        here = pixel < pixels
        place = picture * channels * pixels + pixel * pixel_stride
        mean, scale = statistics(
            x, place, here, across[None, :], channels, channel_stride, norm_weight, EPS, SUM, DEPTH, 1
        )  # fmt: skip
        values = normalised(
            x, place, here, column, channels, channel_stride, mean, scale, norm_weight, norm_bias, SUM, FACTOR
        )  # fmt: skip
        by_a = tl.dot(grad_a.to(FACTOR), values, by_a, input_precision="ieee", out_dtype=SUM)
        by_b = tl.dot(grad_b.to(FACTOR), values, by_b, input_precision="ieee", out_dtype=SUM)
        by_c = tl.dot(grad_c.to(FACTOR), values, by_c, input_precision="ieee", out_dtype=SUM)
        values = tl.load(grad + place + column * channel_stride, mask=here & (column < channels), other=0).to(FACTOR)
        by_out = tl.dot(s.to(FACTOR), values, by_out, input_precision="ieee", out_dtype=SUM)

    to = parts + (part.to(tl.int64) * expanded + row) * (4 * channels + gate + 4)
    inside = (row < expanded) & (column < channels)
    tl.store(to + column, by_a, mask=inside)
    tl.store(to + channels + column, by_b, mask=inside)
    tl.store(to + 2 * channels + column, by_c, mask=inside)
    tl.store(to + 3 * channels + column, by_out, mask=inside)
    to += 4 * channels
    gate_column = tl.arange(0, GATE)[None, :]
    inside = row < tl.where(block == 0, expanded, 0)  # the first of the blocks writes what all of them have
    tl.store(to + gate_column, by_exit, mask=inside & (gate_column < gate))
    to += gate
    tl.store(to, bias_sums_a, mask=inside)
    tl.store(to + 1, bias_sums_b, mask=inside)
    tl.store(to + 2, bias_sums_c, mask=inside)
    tl.store(to + 3, bias_sums_l, mask=inside)


@triton.jit(do_not_specialize=["height", "pooled_height", "pooled_width", "first"])
def unpool(
    grad,  # [N, P, pooled H, pooled W]
    indices,  # likewise: which number of its plane each window took
    out,  # [N, P, H, W]
    size,  # of out
    height,
    width,
    pooled_height,
    pooled_width,
    first,  # the number of this launch's first program
    WIDE: tl.constexpr,
    SIZE: tl.constexpr,
):
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64) + first
    at = program * SIZE + tl.arange(0, SIZE)
    plane, pixel = at // (height * width), at % (height * width)
    row, column = pixel // width, pixel % width
    sums = tl.zeros((SIZE,), out.dtype.element_ty)
    for i in tl.range(3, num_stages=1):
        down = row // 3 - i
        for j in tl.static_range(3):
            across = column // 3 - j
            inside = (at < size) & (down >= 0) & (down < pooled_height) & (across >= 0) & (across < pooled_width)
            window = (plane * pooled_height + down) * pooled_width + across
            chosen = tl.load(indices + window, mask=inside, other=-1) == pixel
            sums += tl.where(chosen, tl.load(grad + window, mask=inside, other=0), 0.0)
    tl.store(out + at, sums, mask=at < size)
