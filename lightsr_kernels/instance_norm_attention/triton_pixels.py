"""The Triton kernels over pixels: what is computed from the channels of a pixel, and what is written for each value.

    y             = scale (x - centre) + shift                               without them: x
    channel_pool    pooled[0] = mean of y over the channels, pooled[1] = their maximum
    spatial_gate    gate = sigmoid(sum over i, j, m of weight[m, i, j] pooled[m, h + i - K//2, w + j - K//2])
    gated_affine    out = y gate + x                                         without a gate: y; without a residual: no x

and backward, with dy = grad gate + grad_pooled[0] / C + (grad_pooled[1] share where y is the maximum), or dy = grad:

    gate_gradient   grad_logit = gate (1 - gate) sum_c grad y                share = 1 / (channels that are the maximum)
    affine_gradient grad_x = dy scale + constant + slope (x - centre) + grad

Tile. A tile is CHANNELS channels by PIXELS pixels of one picture, whose pixels lie one stride apart in both layouts, so
that one kernel serves both. Where a pixel's channels are summed, a program walks all of them, CHANNELS at a time;
elsewhere it has one tile. The map is a kernel of its own, because every block of channels needs it.

A maximum is known again by its value, so y is the same multiply-add everywhere, to the bit.
"""

# Triton compiles these functions from their source, and not all of Python; names in capitals are constants to it.
# mypy: ignore-errors
# ruff: noqa: N803, PLR0124, SIM108

import triton
import triton.language as tl


@triton.jit
def affine_of(value, centre, scale, shift, plane, there):
    """Computes y of a tile, and the values without their centre."""
    if centre is not None:
        value -= tl.load(centre + plane, mask=there, other=0)
    y = value
    if scale is not None:
        factor = tl.load(scale + plane, mask=there, other=0)
        if shift is not None:
            y = tl.fma(factor, value, tl.load(shift + plane, mask=there, other=0))
        else:
            y = factor * value
    return y, value


@triton.jit
def gradient_of_y(grad, y, gate, pooled, grad_pooled, share, picture, pixel, pixels, channels):
    """Computes dy of a tile: through the gated picture, and through the mean and the maximum of its channels."""
    dy = grad
    if gate is not None:
        inside = pixel < pixels
        at = picture * pixels + pixel
        both = at + picture * pixels
        dy = grad * tl.load(gate + at, mask=inside, other=0)
        dy += tl.load(grad_pooled + both, mask=inside, other=0) / channels
        most = tl.load(pooled + both + pixels, mask=inside, other=0)
        part = tl.load(grad_pooled + both + pixels, mask=inside, other=0) * tl.load(share + at, mask=inside, other=0)
        dy += tl.where(y == most, part, 0.0)
    return dy


@triton.jit(do_not_specialize=["channels", "pixel_blocks", "first"])
def channel_pool(
    x,  # [N, C, H, W]
    centre,  # [N, C]
    scale,  # [N, C]
    shift,  # [N, C]
    pooled,  # [N, 2, H, W]
    channels,
    pixels,  # of a picture
    channel_stride,
    pixel_stride,
    pixel_blocks,
    first,  # the number of this launch's first program
    SUM: tl.constexpr,
    WIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64) + first
    pixel = (program % pixel_blocks) * PIXELS + tl.arange(0, PIXELS)[None, :]
    picture = program // pixel_blocks
    x += picture * channels * pixels + pixel * pixel_stride
    lowest = -float("inf")
    sums = tl.zeros((CHANNELS, PIXELS), SUM)
    most = tl.full((CHANNELS, PIXELS), lowest, SUM)
    for begin in range(0, channels, CHANNELS):
        channel = begin + tl.arange(0, CHANNELS)[:, None]
        there = channel < channels
        inside = there & (pixel < pixels)
        value = tl.load(x + channel * channel_stride, mask=inside, other=0).to(SUM)
        y, _ = affine_of(value, centre, scale, shift, picture * channels + channel, there)
        sums += tl.where(inside, y, 0.0)
        # Not a number is above every number, and stays there.
        most = tl.where(inside & ((y > most) | (y != y)), y, most)
    mean = tl.sum(sums, axis=0, keep_dims=True) / channels
    broken = tl.max((most != most).to(tl.int32), axis=0, keep_dims=True)
    highest = tl.max(tl.where(most != most, lowest, most), axis=0, keep_dims=True)
    to = pooled + picture * 2 * pixels + pixel
    tl.store(to, mean, mask=pixel < pixels)
    tl.store(to + pixels, tl.where(broken > 0, mean, highest), mask=pixel < pixels)  # the mean is not a number either


@triton.jit(do_not_specialize=["height", "pixel_blocks", "first"])
def spatial_gate(
    pooled,  # [N, 2, H, W]
    weight,  # [2, K, K]
    gate,  # [N, 1, H, W]
    height,
    width,
    pixel_blocks,
    first,  # the number of this launch's first program
    K: tl.constexpr,
    WIDE: tl.constexpr,
    PIXELS: tl.constexpr,
):
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64) + first
    pixels = height * width
    pixel = (program % pixel_blocks) * PIXELS + tl.arange(0, PIXELS)
    picture = program // pixel_blocks
    column = pixel % width - K // 2
    row = pixel // width - K // 2
    pooled += picture * 2 * pixels + row * width + column
    sums = tl.zeros((PIXELS,), gate.dtype.element_ty)
    for i in range(K):
        within = (pixel < pixels) & (row + i >= 0) & (row + i < height)
        for j in tl.static_range(K):
            inside = within & (column + j >= 0) & (column + j < width)
            at = i * width + j
            tap = i * K + j
            mean = tl.load(pooled + at, mask=inside, other=0)
            most = tl.load(pooled + at + pixels, mask=inside, other=0)
            sums += tl.load(weight + tap).to(sums.dtype) * mean + tl.load(weight + K * K + tap).to(sums.dtype) * most
    tl.store(gate + picture * pixels + pixel, 1.0 / (1.0 + tl.exp(-sums)), mask=pixel < pixels)


@triton.jit(do_not_specialize=["channels", "pixel_blocks", "channel_blocks", "first"])
def gated_affine(
    x,  # [N, C, H, W]
    centre,  # [N, C]
    scale,  # [N, C]
    shift,  # [N, C]
    gate,  # [N, 1, H, W]
    out,  # [N, C, H, W]
    channels,
    pixels,  # of a picture
    channel_stride,
    pixel_stride,
    pixel_blocks,
    channel_blocks,
    first,  # the number of this launch's first program
    RESIDUAL: tl.constexpr,
    SUM: tl.constexpr,
    WIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64) + first
    channel = (program % channel_blocks) * CHANNELS + tl.arange(0, CHANNELS)[:, None]
    program = program // channel_blocks
    pixel = (program % pixel_blocks) * PIXELS + tl.arange(0, PIXELS)[None, :]
    picture = program // pixel_blocks
    there = channel < channels
    inside = there & (pixel < pixels)
    at = picture * channels * pixels + channel * channel_stride + pixel * pixel_stride
    value = tl.load(x + at, mask=inside, other=0).to(SUM)
    y, _ = affine_of(value, centre, scale, shift, picture * channels + channel, there)
    if gate is not None:
        y *= tl.load(gate + picture * pixels + pixel, mask=pixel < pixels, other=0)
    if RESIDUAL:
        y += value
    tl.store(out + at, y.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["channels", "pixel_blocks", "first"])
def gate_gradient(
    grad,  # [N, C, H, W]
    x,  # [N, C, H, W]
    centre,  # [N, C]
    scale,  # [N, C]
    shift,  # [N, C]
    gate,  # [N, 1, H, W]
    pooled,  # [N, 2, H, W]
    grad_logit,  # [N, 1, H, W]
    share,  # [N, 1, H, W]
    channels,
    pixels,  # of a picture
    channel_stride,
    pixel_stride,
    pixel_blocks,
    first,  # the number of this launch's first program
    SUM: tl.constexpr,
    WIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64) + first
    pixel = (program % pixel_blocks) * PIXELS + tl.arange(0, PIXELS)[None, :]
    picture = program // pixel_blocks
    most = tl.load(pooled + (picture * 2 + 1) * pixels + pixel, mask=pixel < pixels, other=0)
    sums = tl.zeros((CHANNELS, PIXELS), SUM)
    count = tl.zeros((CHANNELS, PIXELS), SUM)
    for begin in range(0, channels, CHANNELS):
        channel = begin + tl.arange(0, CHANNELS)[:, None]
        there = channel < channels
        inside = there & (pixel < pixels)
        at = picture * channels * pixels + pixel * pixel_stride + channel * channel_stride
        value = tl.load(x + at, mask=inside, other=0).to(SUM)
        y, _ = affine_of(value, centre, scale, shift, picture * channels + channel, there)
        sums += tl.where(inside, tl.load(grad + at, mask=inside, other=0).to(SUM) * y, 0.0)
        count += tl.where(inside & (y == most), 1.0, 0.0)
    at = picture * pixels + pixel
    value = tl.load(gate + at, mask=pixel < pixels, other=0)
    value = value * (1.0 - value) * tl.sum(sums, axis=0, keep_dims=True)
    tl.store(grad_logit + at, value, mask=pixel < pixels)
    # Where the maximum is not a number no channel equals it.
    tl.store(share + at, 1.0 / tl.maximum(tl.sum(count, axis=0, keep_dims=True), 1.0), mask=pixel < pixels)


@triton.jit(do_not_specialize=["channels", "pixel_blocks", "channel_blocks", "first"])
def affine_gradient(
    grad,  # [N, C, H, W]
    x,  # [N, C, H, W]
    centre,  # [N, C]
    scale,  # [N, C]
    shift,  # [N, C]
    gate,  # [N, 1, H, W]
    pooled,  # [N, 2, H, W]
    grad_pooled,  # [N, 2, H, W]
    share,  # [N, 1, H, W]
    constant,  # [N, C]
    slope,  # [N, C]
    grad_x,  # [N, C, H, W]
    channels,
    pixels,  # of a picture
    channel_stride,
    pixel_stride,
    pixel_blocks,
    channel_blocks,
    first,  # the number of this launch's first program
    RESIDUAL: tl.constexpr,
    SUM: tl.constexpr,
    WIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64) + first
    channel = (program % channel_blocks) * CHANNELS + tl.arange(0, CHANNELS)[:, None]
    program = program // channel_blocks
    pixel = (program % pixel_blocks) * PIXELS + tl.arange(0, PIXELS)[None, :]
    picture = program // pixel_blocks
    there = channel < channels
    inside = there & (pixel < pixels)
    at = picture * channels * pixels + channel * channel_stride + pixel * pixel_stride
    plane = picture * channels + channel
    value = tl.load(x + at, mask=inside, other=0).to(SUM)
    y, centred = affine_of(value, centre, scale, shift, plane, there)
    incoming = tl.load(grad + at, mask=inside, other=0).to(SUM)
    dy = gradient_of_y(incoming, y, gate, pooled, grad_pooled, share, picture, pixel, pixels, channels)
    if scale is not None:
        dy *= tl.load(scale + plane, mask=there, other=0)
    if constant is not None:
        dy += tl.load(constant + plane, mask=there, other=0)
    if slope is not None:
        dy += tl.load(slope + plane, mask=there, other=0) * centred
    if RESIDUAL:
        dy += incoming
    tl.store(grad_x + at, dy.to(grad_x.dtype.element_ty), mask=inside)
