"""The Triton kernel of distillation_fusion, forward.

    sums[o, p] = bias[o] + sum over k of weight[o, k] scale[k] (parts maps)[k, p]
    out[o, p] = act(gain sums[o, p] + residual_gain residual[o, p])

Tile. CHANNELS of the result by PIXELS pixels of one picture. The parts, and their maps, come as tuples of pointers, and
k walks through all of them DEPTH channels at a time: one loop over chunks, whose every turn finds out which part it
is in. Maps and scale are multiplied in on load. Nothing of the size of the concatenation is ever written.

Products of float32 are IEEE float32, never TF32; of 16-bit types on tensor cores, summed in float32.
"""

# Triton compiles these functions from their source, and not all of Python; names in capitals are constants to it.
# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl

from ..depthwise_conv.triton_forward import activated
from ..split_distillation.triton_tiles import offsets_of, pick, place_of


@triton.jit
def load_part(parts, strides, which, picture, channel, pixel, here, COUNT: tl.constexpr):
    """A tile of one of the parts; `strides` holds those from picture to picture, then channels, then pixels."""
    at = picture * pick(strides[0], which, COUNT)
    at += channel * pick(strides[1], which, COUNT) + pixel * pick(strides[2], which, COUNT)
    return tl.load(pick(parts, which, COUNT) + at, mask=here, other=0)


@triton.jit(do_not_specialize=["out_channels", "pixel_blocks", "channel_blocks", "chunks", "first"])
def fuse(
    parts,  # each [N, C_k, H, W]
    part_strides,
    part_channels,  # C_k
    maps,  # each [N, H, W]
    scale,  # [N, K]
    weight,  # [C_out, K]
    bias,  # [C_out]
    gain,  # one number
    residual,  # [N, C_out, H, W]
    residual_strides,
    residual_gain,  # one number
    out,  # [N, C_out, H, W]
    out_strides,
    out_channels,
    joined,  # K, channels of all parts
    pixels,  # of a picture
    pixel_blocks,
    channel_blocks,
    chunks,  # of the channels of all parts
    first,  # the number of this launch's first program
    SUM: tl.constexpr,
    FACTOR: tl.constexpr,  # what is multiplied
    WIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
    COUNT: tl.constexpr,  # of parts
    ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
):
    program = tl.program_id(0)
    across = tl.arange(0, DEPTH)
    row = tl.arange(0, CHANNELS)[:, None]
    if WIDE:
        program, across, row = program.to(tl.int64) + first, across.to(tl.int64), row.to(tl.int64)
    row += (program % channel_blocks) * CHANNELS
    program = program // channel_blocks
    pixel = (program % pixel_blocks) * PIXELS + tl.arange(0, PIXELS)[None, :]
    picture = program // pixel_blocks

    sums = tl.zeros((CHANNELS, PIXELS), SUM)
    for chunk in range(chunks):
        which, block, before = place_of(chunk, part_channels, DEPTH, COUNT)
        channel = block * DEPTH + across
        count = pick(part_channels, which, COUNT)
        here = (channel[:, None] < count) & (pixel < pixels)
        values = load_part(parts, part_strides, which, picture, channel[:, None], pixel, here, COUNT)
        column = before + channel
        if maps is not None:
            factors = tl.load(pick(maps, which, COUNT) + picture * pixels + pixel, mask=pixel < pixels, other=0)
            values = values.to(SUM) * factors.to(SUM)
        if scale is not None:
            at = scale + picture * joined + column[:, None]
            values = values.to(SUM) * tl.load(at, mask=channel[:, None] < count, other=0).to(SUM)
        values = tl.where(here, values, 0.0).to(FACTOR)
        inside = (row < out_channels) & (channel[None, :] < count)
        factors = tl.load(weight + row * joined + column[None, :], mask=inside, other=0).to(FACTOR)
        sums = tl.dot(factors, values, sums, input_precision="ieee", out_dtype=SUM)
    if bias is not None:
        sums += tl.load(bias + row, mask=row < out_channels, other=0).to(SUM)
    if gain is not None:
        sums *= tl.load(gain).to(SUM)
    here = (row < out_channels) & (pixel < pixels)
    if residual is not None:
        values = tl.load(residual + offsets_of(residual_strides, picture, row, pixel), mask=here, other=0).to(SUM)
        if residual_gain is not None:
            values *= tl.load(residual_gain).to(SUM)
        sums += values
    sums = activated(sums, ACTIVATION, SLOPE)
    tl.store(out + offsets_of(out_strides, picture, row, pixel), sums.to(out.dtype.element_ty), mask=here)
