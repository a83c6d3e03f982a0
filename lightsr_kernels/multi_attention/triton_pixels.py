"""The Triton kernels of multi_attention beside those of the ops that it is composed of.

With z a part behind its pixel attention, m its spatial attention's map and [pooled] the mean and the maximum of z over
channels:

    sum_gated       sums[n, c] = sum over pixels of z m
    map_gradient    grad_logit = m (1 - m) (grad_map + sum over c of slope[n, c] z)   share = 1 / (channels that are the
                    maximum)
    pixel_gradient  grad_z = grad + slope[n, c] m + grad_pooled[0] / C + (grad_pooled[1] share where z is the maximum)

`grad` and `grad_map` come from distillation_fusion, which multiplied with the maps and scales; slope is the gradient of
the sums. Each walks the channels of a tile of pixels and moves z once, the last one grad and grad_z too.

Sums are left in a workspace, a part from each program, which `add_parts` of split_distillation adds up in a fixed
order: no atomics.
"""

# Triton compiles these functions from their source, and not all of Python; names in capitals are constants to it.
# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["channels", "pixel_blocks", "first"])
def sum_gated(
    z,  # [N, C, H, W]
    gate,  # [N, 1, H, W]
    parts,  # [N, pixel_blocks, C]
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
    across = tl.arange(0, CHANNELS)[:, None]
    if WIDE:
        program, across = program.to(tl.int64) + first, across.to(tl.int64)
    pixel = (program % pixel_blocks) * PIXELS + tl.arange(0, PIXELS)[None, :]
    picture = program // pixel_blocks
    factor = tl.load(gate + picture * pixels + pixel, mask=pixel < pixels, other=0).to(SUM)
    for begin in tl.range(0, channels, CHANNELS, num_stages=1):
        channel = begin + across
        at = picture * channels * pixels + channel * channel_stride + pixel * pixel_stride
        value = tl.load(z + at, mask=(channel < channels) & (pixel < pixels), other=0).to(SUM)
        to = parts + program.to(tl.int64) * channels + channel
        value = tl.where(pixel < pixels, value * factor, 0.0)
        tl.store(to, tl.sum(value, axis=1, keep_dims=True), mask=channel < channels)


@triton.jit(do_not_specialize=["channels", "pixel_blocks", "first"])
def map_gradient(
    z,  # [N, C, H, W]
    gate,  # [N, 1, H, W]
    pooled,  # [N, 2, H, W]
    grad_map,  # [N, 1, H, W]
    slope,  # [N, C]
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
    across = tl.arange(0, CHANNELS)[:, None]
    if WIDE:
        program, across = program.to(tl.int64) + first, across.to(tl.int64)
    pixel = (program % pixel_blocks) * PIXELS + tl.arange(0, PIXELS)[None, :]
    picture = program // pixel_blocks
    here = pixel < pixels
    most = tl.load(pooled + (picture * 2 + 1) * pixels + pixel, mask=here, other=0)
    sums = tl.zeros((CHANNELS, PIXELS), SUM)
    count = tl.zeros((CHANNELS, PIXELS), SUM)
    for begin in tl.range(0, channels, CHANNELS, num_stages=1):
        channel = begin + across
        inside = here & (channel < channels)
        at = picture * channels * pixels + channel * channel_stride + pixel * pixel_stride
        value = tl.load(z + at, mask=inside, other=0).to(SUM)
        factor = tl.load(slope + picture * channels + channel, mask=channel < channels, other=0)
        sums += tl.where(inside, value * factor, 0.0)
        count += tl.where(inside & (value == most), 1.0, 0.0)
    at = picture * pixels + pixel
    value = tl.load(gate + at, mask=here, other=0)
    grad = tl.load(grad_map + at, mask=here, other=0) + tl.sum(sums, axis=0, keep_dims=True)
    tl.store(grad_logit + at, value * (1.0 - value) * grad, mask=here)
    # Where the maximum is not a number no channel equals it.
    tl.store(share + at, 1.0 / tl.maximum(tl.sum(count, axis=0, keep_dims=True), 1.0), mask=here)


@triton.jit(do_not_specialize=["channels", "pixel_blocks", "first"])
def pixel_gradient(
    grad,  # [N, C, H, W]
    z,  # [N, C, H, W]
    gate,  # [N, 1, H, W]
    pooled,  # [N, 2, H, W]
    grad_pooled,  # [N, 2, H, W]
    share,  # [N, 1, H, W]
    slope,  # [N, C]
    grad_z,  # [N, C, H, W]
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
    across = tl.arange(0, CHANNELS)[:, None]
    if WIDE:
        program, across = program.to(tl.int64) + first, across.to(tl.int64)
    pixel = (program % pixel_blocks) * PIXELS + tl.arange(0, PIXELS)[None, :]
    picture = program // pixel_blocks
    here = pixel < pixels
    one, two = picture * pixels + pixel, picture * 2 * pixels + pixel
    factor = tl.load(gate + one, mask=here, other=0)
    by_mean = tl.load(grad_pooled + two, mask=here, other=0) / channels
    most = tl.load(pooled + two + pixels, mask=here, other=0)
    by_most = tl.load(grad_pooled + two + pixels, mask=here, other=0) * tl.load(share + one, mask=here, other=0)
    for begin in tl.range(0, channels, CHANNELS, num_stages=1):
        channel = begin + across
        inside = here & (channel < channels)
        at = picture * channels * pixels + channel * channel_stride + pixel * pixel_stride
        value = tl.load(z + at, mask=inside, other=0).to(SUM)
        result = tl.load(grad + at, mask=inside, other=0).to(SUM) + by_mean
        result += tl.load(slope + picture * channels + channel, mask=channel < channels, other=0) * factor
        result += tl.where(value == most, by_most, 0.0)
        tl.store(grad_z + at, result.to(grad_z.dtype.element_ty), mask=inside)
