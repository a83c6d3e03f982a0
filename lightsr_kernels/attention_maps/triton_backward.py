"""The Triton kernels of gradients that the ops with a layer norm over channels share.

With n = weight y + bias, y = (x - mean) r, r = 1 / sqrt(variance + eps), all over the channels of a pixel:

    of_norm    grad_x = r (g - mean g - y mean (g y)) + added, g = weight grad;   grad_weight = sum of grad y over
               pixels, grad_bias = sum of grad
    sum_products    sums[o, c] = sum over pixels p of left[o, p] n[c, p], or without a norm of left[o, p] x[c, p]

`of_norm` has a tile of pixels and walks its channels: what it reads again, the L1 cache has. It moves grad, x, added
and grad_x once. `sum_products` has OUT by CHANNELS of the sums and walks `steps` tiles of pixels; it moves left and x
once, and again from the L2 cache for every further OUT or CHANNELS.

Sums over pixels are left in workspaces, a part from each program, which `add_parts` of split_distillation adds up in a
fixed order: no atomics. Products of float32 are IEEE float32, never TF32; of 16-bit types on tensor cores, summed in
float32.
"""

# Triton compiles these functions from their source, and not all of Python; names in capitals are constants to it.
# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl

from .triton_norm import normalised, statistics


@triton.jit(do_not_specialize=["channels", "pixel_blocks", "first"])
def of_norm(
    grad,  # of n: [N, C, H, W]
    x,  # [N, C, H, W]
    norm_weight,  # [C]
    added,  # [N, C, H, W]
    grad_x,  # [N, C, H, W]
    weight_parts,  # [N pixel_blocks, C]
    bias_parts,  # likewise
    channels,
    pixels,  # of a picture
    channel_stride,  # of all pictures
    pixel_stride,
    pixel_blocks,
    first,  # the number of this launch's first program
    EPS: tl.constexpr,
    SUM: tl.constexpr,
    WIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    program = tl.program_id(0)
    across = tl.arange(0, DEPTH)[:, None]
    if WIDE:
        program, across = program.to(tl.int64) + first, across.to(tl.int64)
    pixel = (program % pixel_blocks) * PIXELS + tl.arange(0, PIXELS)[None, :]
    here = pixel < pixels
    place = program // pixel_blocks * channels * pixels + pixel * pixel_stride
    mean, scale = statistics(x, place, here, across, channels, channel_stride, norm_weight, EPS, SUM, DEPTH, 0)

    sums = tl.zeros((DEPTH, PIXELS), SUM)
    products = tl.zeros((DEPTH, PIXELS), SUM)
    for begin in tl.range(0, channels, DEPTH, num_stages=1):
        channel = begin + across
        inside = here & (channel < channels)
        at = place + channel * channel_stride
        value = (tl.load(x + at, mask=inside, other=0).to(SUM) - mean) * scale
        incoming = tl.load(grad + at, mask=inside, other=0).to(SUM)
        if weight_parts is not None:
            parts = program.to(tl.int64) * channels + channel
            total = tl.sum(tl.where(inside, incoming * value, 0.0), axis=1, keep_dims=True)
            tl.store(weight_parts + parts, total, mask=channel < channels)
            tl.store(bias_parts + parts, tl.sum(incoming, axis=1, keep_dims=True), mask=channel < channels)
        incoming *= tl.load(norm_weight + channel, mask=channel < channels, other=0).to(SUM)
        sums += incoming
        products += tl.where(inside, incoming * value, 0.0)
    if grad_x is not None:
        sums = tl.sum(sums, axis=0, keep_dims=True) / channels
        products = tl.sum(products, axis=0, keep_dims=True) / channels
        for begin in tl.range(0, channels, DEPTH, num_stages=1):
            channel = begin + across
            inside = here & (channel < channels)
            at = place + channel * channel_stride
            value = (tl.load(x + at, mask=inside, other=0).to(SUM) - mean) * scale
            incoming = tl.load(grad + at, mask=inside, other=0).to(SUM)
            incoming *= tl.load(norm_weight + channel, mask=channel < channels, other=0).to(SUM)
            value = scale * (incoming - sums - value * products)
            if added is not None:
                value += tl.load(added + at, mask=inside, other=0).to(SUM)
            tl.store(grad_x + at, value.to(grad_x.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "channels", "out_blocks", "channel_blocks", "steps", "stretches", "first"])
def sum_products(
    left,  # [N, rows, H, W]
    x,  # [N, C, H, W]
    norm_weight,  # [C]
    norm_bias,  # [C]
    parts,  # [N stretches, rows, C]
    rows,
    channels,
    pixels,  # of a picture
    left_channel_stride,
    left_pixel_stride,
    channel_stride,
    pixel_stride,
    out_blocks,
    channel_blocks,
    steps,  # tiles of pixels that a program walks
    stretches,  # of a picture, of so many tiles each
    first,  # the number of this launch's first program
    EPS: tl.constexpr,
    SUM: tl.constexpr,
    FACTOR: tl.constexpr,  # what is multiplied
    WIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    OUT: tl.constexpr,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    program = tl.program_id(0)
    row, channel = tl.arange(0, OUT)[:, None], tl.arange(0, CHANNELS)[None, :]
    across = tl.arange(0, DEPTH)[None, :]
    if WIDE:
        program, row, channel = program.to(tl.int64) + first, row.to(tl.int64), channel.to(tl.int64)
        across = across.to(tl.int64)
    row += (program % out_blocks) * OUT
    program = program // out_blocks
    channel += (program % channel_blocks) * CHANNELS
    part = program // channel_blocks
    picture = part // stretches
    sums = tl.zeros((OUT, CHANNELS), SUM)
    for step in tl.range(0, steps, num_stages=1):
        pixel = ((part % stretches) * steps + step) * PIXELS + tl.arange(0, PIXELS)
        at = picture * rows * pixels + row * left_channel_stride + pixel[None, :] * left_pixel_stride
        lefts = tl.load(left + at, mask=(row < rows) & (pixel[None, :] < pixels), other=0).to(FACTOR)
        here = pixel[:, None] < pixels
        place = picture * channels * pixels + pixel[:, None] * pixel_stride
        mean, scale = statistics(x, place, here, across, channels, channel_stride, norm_weight, EPS, SUM, DEPTH, 1)
        values = normalised(
            x, place, here, channel, channels, channel_stride, mean, scale, norm_weight, norm_bias, SUM, FACTOR
        )  # fmt: skip
        sums = tl.dot(lefts, values, sums, input_precision="ieee", out_dtype=SUM)
    at = (part.to(tl.int64) * rows + row) * channels + channel
    tl.store(parts + at, sums, mask=(row < rows) & (channel < channels))
