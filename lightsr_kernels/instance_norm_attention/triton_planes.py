"""The Triton kernels that sum over planes, and those that turn such sums into the few numbers each plane needs.

    moments       mean and variance of every plane
    affine_sums   sum of dy and of dy (x - centre) over every plane; triton_pixels.py says what dy is
    factors       centre, scale and shift of every plane, from mean, variance and the small layers of the channel gate

Tile. A tile is CHANNELS channels by PIXELS pixels of one picture, whose pixels lie one stride apart in both layouts, so
that one kernel serves both. A program reads one tile, once, and writes the sums over its pixels into a workspace
[numbers, parts, N*C]: each place has one writer. A second kernel adds the parts in float64, in a fixed order: no
atomics, and the same bits at every run.

Moments of a tile stay exact where the mean is large beside the deviation. Its mean is computed from the distances to
its first pixel; what rounding left in it, from the distances to that; the squares last, from what is left then. All of
them are 0 on a constant plane, to the bit. The parts are merged by

    mean     = sum over parts of n_p mean_p / n
    variance = sum over parts of (squares_p + n_p (mean_p - mean)^2) / n
"""

# Triton compiles these functions from their source, and not all of Python; names in capitals are constants to it.
# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl

from .triton_pixels import affine_of, gradient_of_y


@triton.jit
def is_finite(value):
    return tl.abs(value) < float("inf")


@triton.jit(do_not_specialize=["channels", "channel_blocks", "parts", "planes", "first"])
def part_moments(
    x,  # [N, C, H, W]
    workspace,  # [3, parts, N*C]: mean, what rounding left in it, squares of the rest
    channels,
    pixels,  # of a picture
    channel_stride,
    pixel_stride,
    parts,
    channel_blocks,
    planes,  # N*C
    first,  # the number of this launch's first program
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
    part = program % parts
    picture = program // parts
    pixel = part * PIXELS + tl.arange(0, PIXELS)[None, :]
    count = tl.minimum(pixels - part * PIXELS, PIXELS).to(SUM)
    there = channel < channels
    inside = there & (pixel < pixels)
    x += picture * channels * pixels + channel * channel_stride

    value = tl.load(x + pixel * pixel_stride, mask=inside, other=0).to(SUM)
    start = tl.load(x + part * PIXELS * pixel_stride, mask=there, other=0).to(SUM)
    start = tl.where(is_finite(start), start, 0.0)
    mean = start + tl.sum(tl.where(inside, value - start, 0.0), axis=1, keep_dims=True) / count
    value = tl.where(inside, value - mean, 0.0)
    rest = tl.sum(value, axis=1, keep_dims=True) / count
    value = tl.where(inside, value - rest, 0.0)
    squares = tl.sum(value * value, axis=1, keep_dims=True)
    rest = tl.where(is_finite(mean), rest, 0.0)  # an infinite mean is the mean; NaN would be left in it

    to = workspace + part.to(tl.int64) * planes + picture * channels + channel
    numbers = parts.to(tl.int64) * planes
    tl.store(to, mean, mask=there)
    tl.store(to + numbers, rest, mask=there)
    tl.store(to + 2 * numbers, squares, mask=there)


@triton.jit
def part_means(workspace, part, plane, parts, planes):
    """The means of some parts of some planes, in float64."""
    here = (part < parts) & (plane < planes)
    at = workspace + part * planes + plane
    mean = tl.load(at, mask=here, other=0).to(tl.float64)
    return mean + tl.load(at + parts.to(tl.int64) * planes, mask=here, other=0).to(tl.float64)


@triton.jit(do_not_specialize=["parts", "planes", "pixels"])
def merge_moments(
    workspace,  # [3, parts, N*C]
    moments,  # [2, N*C]: mean and variance
    parts,
    planes,
    pixels,
    PIXELS: tl.constexpr,  # of each part but the last
    PARTS: tl.constexpr,
    SIZE: tl.constexpr,
):
    plane = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)[None, :]
    place = tl.arange(0, PARTS)[:, None].to(tl.int64)
    base = part_means(workspace, tl.zeros((1, 1), tl.int64), plane, parts, planes)
    base = tl.where(is_finite(base), base, 0.0)
    sums = tl.zeros((PARTS, SIZE), tl.float64)
    for begin in range(0, parts, PARTS):
        part = begin + place
        count = tl.minimum(pixels - part * PIXELS, PIXELS).to(tl.float64)
        distance = part_means(workspace, part, plane, parts, planes) - base
        sums += tl.where(part < parts, count * distance, 0.0)
    mean = base + tl.sum(sums, axis=0)[None, :] / pixels
    sums = tl.zeros((PARTS, SIZE), tl.float64)
    for begin in range(0, parts, PARTS):
        part = begin + place
        count = tl.minimum(pixels - part * PIXELS, PIXELS).to(tl.float64)
        distance = part_means(workspace, part, plane, parts, planes) - mean
        at = workspace + (2 * parts.to(tl.int64) + part) * planes + plane
        squares = tl.load(at, mask=(part < parts) & (plane < planes), other=0).to(tl.float64)
        sums += tl.where(part < parts, squares + count * distance * distance, 0.0)
    variance = tl.sum(sums, axis=0)[None, :] / pixels
    tl.store(moments + plane, mean, mask=plane < planes)
    tl.store(moments + planes + plane, variance, mask=plane < planes)


@triton.jit(do_not_specialize=["channels", "channel_blocks", "parts", "planes", "first"])
def part_affine_sums(
    grad,  # [N, C, H, W]
    x,  # [N, C, H, W]
    centre,  # [N, C]
    scale,  # [N, C]
    shift,  # [N, C]
    gate,  # [N, 1, H, W]
    pooled,  # [N, 2, H, W]
    grad_pooled,  # [N, 2, H, W]
    share,  # [N, 1, H, W]
    workspace,  # [2, parts, N*C]
    channels,
    pixels,  # of a picture
    channel_stride,
    pixel_stride,
    parts,
    channel_blocks,
    planes,  # N*C
    first,  # the number of this launch's first program
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
    part = program % parts
    picture = program // parts
    pixel = part * PIXELS + tl.arange(0, PIXELS)[None, :]
    there = channel < channels
    inside = there & (pixel < pixels)
    at = picture * channels * pixels + channel * channel_stride + pixel * pixel_stride
    plane = picture * channels + channel

    value = tl.load(x + at, mask=inside, other=0).to(SUM)
    y, centred = affine_of(value, centre, scale, shift, plane, there)
    dy = tl.load(grad + at, mask=inside, other=0).to(SUM)
    dy = gradient_of_y(dy, y, gate, pooled, grad_pooled, share, picture, pixel, pixels, channels)
    dy = tl.where(inside, dy, 0.0)
    to = workspace + part.to(tl.int64) * planes + plane
    tl.store(to, tl.sum(dy, axis=1, keep_dims=True), mask=there)
    products = tl.where(inside, dy * centred, 0.0)
    tl.store(to + parts.to(tl.int64) * planes, tl.sum(products, axis=1, keep_dims=True), mask=there)


@triton.jit(do_not_specialize=["parts", "planes"])
def add_parts(
    workspace,  # [2, parts, N*C]
    sums,  # [2, N*C]
    parts,
    planes,
    PARTS: tl.constexpr,
    SIZE: tl.constexpr,
):
    which = tl.program_id(1).to(tl.int64)
    plane = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)[None, :]
    place = tl.arange(0, PARTS)[:, None].to(tl.int64)
    total = tl.zeros((PARTS, SIZE), tl.float64)
    for begin in range(0, parts, PARTS):
        part = begin + place
        at = workspace + (which * parts + part) * planes + plane
        total += tl.load(at, mask=(part < parts) & (plane < planes), other=0).to(tl.float64)
    tl.store(sums + which * planes + plane, tl.sum(total, axis=0)[None, :], mask=plane < planes)


@triton.jit
def statistic_of(mean, variance, plane, there, DEVIATION: tl.constexpr):
    """What the channel gate reads of a plane."""
    value = tl.load(mean + plane, mask=there, other=0)
    if DEVIATION:
        squared = tl.load(variance + plane, mask=there, other=0)
        positive = squared > 0
        value += tl.where(positive, tl.sqrt(tl.where(positive, squared, 1.0)), 0.0)
    return value


@triton.jit(do_not_specialize=["channels", "hidden", "planes"])
def factors(
    mean,  # [N, C]
    variance,  # [N, C]
    norm_weight,  # [C]
    norm_bias,  # [C]
    down_weight,  # [R, C]
    down_bias,  # [R]
    up_weight,  # [C, R]
    up_bias,  # [C]
    found,  # [3, N, C]: centre, scale and shift
    channels,
    hidden,  # R
    planes,  # N*C
    EPS: tl.constexpr,
    DEVIATION: tl.constexpr,
    NORM: tl.constexpr,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
):
    """CHANNELS planes of one picture, in float64; every program computes the hidden units for itself."""
    base = tl.program_id(0).to(tl.int64) * channels
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    there = channel < channels
    gate = tl.full((CHANNELS,), 1.0, tl.float64)
    if down_weight is not None:
        logit = tl.zeros((CHANNELS,), tl.float64)
        if up_bias is not None:
            logit += tl.load(up_bias + channel, mask=there, other=0).to(tl.float64)
        for begin in range(0, hidden, HIDDEN):
            unit = begin + tl.arange(0, HIDDEN)
            value = tl.zeros((HIDDEN,), tl.float64)
            if down_bias is not None:
                value += tl.load(down_bias + unit, mask=unit < hidden, other=0).to(tl.float64)
            for start in range(0, channels, CHANNELS):
                read = start + tl.arange(0, CHANNELS)
                statistic = statistic_of(mean, variance, base + read, read < channels, DEVIATION)
                here = (unit < hidden)[:, None] & (read < channels)[None, :]
                at = down_weight + unit[:, None] * channels + read[None, :]
                weight = tl.load(at, mask=here, other=0).to(tl.float64)
                value += tl.sum(tl.where(here, weight * statistic[None, :], 0.0), axis=1)
            value = tl.where(value < 0, 0.0, value)
            here = there[:, None] & (unit < hidden)[None, :]
            at = up_weight + channel[:, None] * hidden + unit[None, :]
            weight = tl.load(at, mask=here, other=0).to(tl.float64)
            logit += tl.sum(tl.where(here, weight * value[None, :], 0.0), axis=1)
        gate = 1.0 / (1.0 + tl.exp(-logit))

    wide = found.dtype.element_ty
    scale = gate
    centre = tl.zeros((CHANNELS,), wide)
    shift = tl.zeros((CHANNELS,), tl.float64)
    if NORM:
        exact = tl.load(mean + base + channel, mask=there, other=0)
        centre = exact.to(wide)
        scale = gate / tl.sqrt(tl.load(variance + base + channel, mask=there, other=1) + EPS)
        if norm_weight is not None:
            scale *= tl.load(norm_weight + channel, mask=there, other=0).to(tl.float64)
        if norm_bias is not None:
            shift = gate * tl.load(norm_bias + channel, mask=there, other=0).to(tl.float64)
        shift -= scale * (exact - centre.to(tl.float64))
    to = found + base + channel
    tl.store(to, centre, mask=there)
    tl.store(to + planes.to(tl.int64), scale.to(wide), mask=there)
    tl.store(to + 2 * planes.to(tl.int64), shift.to(wide), mask=there)
