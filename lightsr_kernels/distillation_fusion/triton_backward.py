"""The Triton kernel of distillation_fusion's gradients.

    back[k, p]         = gain scale[k] sum over o of weight[o, k] grad[o, p]
    grad_part[k, p]    = map[p] back[k, p]
    grad_map[p]        = sum over the channels k of the part of part[k, p] back[k, p]
    grad_residual[o, p] = residual_gain grad[o, p]
    products[o, k]     = sum over pixels of grad[o, p] part[k, p] map[p]
    sums[o]            = sum over pixels of grad[o, p]
    residual_product   = sum over o and pixels of grad[o, p] residual[o, p]

What weight, bias, scale and the gains get is made of the last three (backward.py).

Tile. A program holds a chunk of CHANNELS channels of one part and all C_out channels of grad, PIXELS pixels at a time,
and walks the pixels of its stretch of one picture; sums stay in registers until its end and then go into workspaces,
one place for each stretch. It reads grad twice, DEPTH channels at a time for `back` and whole for the sums; the second
time it is still in the L1 cache. The programs of all chunks of a stretch run side by side, so that they share grad in
the L2 cache. What concerns grad alone is done by the first of them. Where C_out is too large for a tile each chunk has
a program for each OUT channels of grad, and the first of these does what it does for all of them.
"""

# Triton compiles these functions from their source, and not all of Python; names in capitals are constants to it.
# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl

from ..split_distillation.triton_tiles import offsets_of, pick, place_of
from .triton_forward import load_part


@triton.jit(do_not_specialize=["out_channels", "chunks", "out_blocks", "steps", "stretches", "first"])
def of_parts(
    grad,  # [N, C_out, H, W]
    grad_strides,
    parts,  # each [N, C_k, H, W]
    part_strides,
    part_channels,  # C_k
    maps,  # each [N, H, W]
    scale,  # [N, K]
    weight,  # [C_out, K]
    gain,  # one number
    residual,  # [N, C_out, H, W]
    residual_strides,
    residual_gain,  # one number
    grad_parts,  # each [N, C_k, H, W]; none where none is wanted, and so for all that follow
    grad_part_strides,
    grad_part_channels,  # C_k, or 0 where this one is not wanted
    grad_maps,  # each [blocks of CHANNELS in C_k, N, H, W]
    grad_map_pixels,  # H W, or 0 where this one is not wanted
    grad_residual,  # [N, C_out, H, W]
    grad_residual_strides,
    products,  # [N stretches, C_out, K]
    sums,  # [N stretches, C_out]
    residual_products,  # [N stretches, blocks of OUT]
    out_channels,
    joined,  # K, channels of all parts
    pictures,  # N
    pixels,  # of a picture
    chunks,  # of the channels of all parts
    out_blocks,  # of C_out, each with programs of its own; 1 where a program takes all
    steps,  # of PIXELS pixels, that a program walks
    stretches,  # of a picture
    first,  # the number of this launch's first program
    SUM: tl.constexpr,
    FACTOR: tl.constexpr,  # what is multiplied
    WIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUT: tl.constexpr,
    DEPTH: tl.constexpr,
    COUNT: tl.constexpr,  # of parts
):
    program = tl.program_id(0)
    channel = tl.arange(0, CHANNELS)
    outer = tl.arange(0, OUT)[:, None]
    depth = tl.arange(0, DEPTH)
    if WIDE:
        program, channel = program.to(tl.int64) + first, channel.to(tl.int64)
        outer, depth = outer.to(tl.int64), depth.to(tl.int64)
    chunk = program % chunks
    out_block = (program // chunks) % out_blocks
    part = program // chunks // out_blocks
    picture = part // stretches
    begin = (part % stretches) * steps * PIXELS
    which, block, before = place_of(chunk, part_channels, CHANNELS, COUNT)
    channel += block * CHANNELS
    count = pick(part_channels, which, COUNT)
    column = before + channel
    outer += out_block * OUT

    factor = tl.full((CHANNELS, 1), 1.0, SUM)
    if gain is not None:
        factor *= tl.load(gain).to(SUM)
    if scale is not None:
        scales = scale + picture * joined + column[:, None]
        factor *= tl.load(scales, mask=channel[:, None] < count, other=0).to(SUM)
    if products is not None:
        product_total = tl.zeros((OUT, CHANNELS), SUM)
    total = tl.zeros((OUT, 1), SUM)
    residual_total = tl.zeros((OUT, 1), SUM)
    for step in range(steps):
        pixel = begin + step * PIXELS + tl.arange(0, PIXELS)[None, :]
        inside = (channel[:, None] < count) & (pixel < pixels)
        within = (outer < out_channels) & (pixel < pixels)
        values = load_part(parts, part_strides, which, picture, channel[:, None], pixel, inside, COUNT).to(SUM)
        if maps is not None:
            at_map = pick(maps, which, COUNT) + picture * pixels + pixel
            factors = tl.load(at_map, mask=pixel < pixels, other=0).to(SUM)

        if grad_parts is not None or grad_maps is not None:
            back = tl.zeros((CHANNELS, PIXELS), SUM)
            for start in range(0, tl.where(out_block == 0, out_channels, 0), DEPTH):
                inner = start + depth
                mask = (inner[:, None] < out_channels) & (pixel < pixels)
                piece = tl.load(grad + offsets_of(grad_strides, picture, inner[:, None], pixel), mask=mask, other=0)
                mask = (inner[None, :] < out_channels) & (channel[:, None] < count)
                matrix = tl.load(weight + inner[None, :] * joined + column[:, None], mask=mask, other=0)
                back = tl.dot(matrix.to(FACTOR), piece.to(FACTOR), back, input_precision="ieee", out_dtype=SUM)
            back = tl.where(inside, back * factor, 0.0)
            if grad_maps is not None:
                value = tl.sum(values * back, axis=0, keep_dims=True)
                to = pick(grad_maps, which, COUNT) + (block.to(tl.int64) * pictures + picture) * pixels + pixel
                limit = tl.where(out_block == 0, pick(grad_map_pixels, which, COUNT), 0)
                tl.store(to, value.to(to.dtype.element_ty), mask=pixel < limit)
            if grad_parts is not None:
                if maps is not None:
                    back *= factors
                at = picture * pick(grad_part_strides[0], which, COUNT)
                at += channel[:, None] * pick(grad_part_strides[1], which, COUNT)
                at += pixel * pick(grad_part_strides[2], which, COUNT)
                limit = tl.where(out_block == 0, pick(grad_part_channels, which, COUNT), 0)
                to_part = pick(grad_parts, which, COUNT) + at
                tl.store(to_part, back.to(to_part.dtype.element_ty), mask=(channel[:, None] < limit) & (pixel < pixels))

        gradient = tl.load(grad + offsets_of(grad_strides, picture, outer, pixel), mask=within, other=0)
        if products is not None:
            if maps is not None:
                values = tl.where(inside, values * factors, 0.0)
            product_total = tl.dot(
                gradient.to(FACTOR), tl.trans(values.to(FACTOR)), product_total, input_precision="ieee", out_dtype=SUM
            )
        if sums is not None:
            total += tl.sum(gradient.to(SUM), axis=1, keep_dims=True)
        if residual_products is not None or grad_residual is not None:
            mine = (outer < out_channels) & (pixel < tl.where(chunk == 0, pixels, 0))
            if residual_products is not None:
                at_residual = residual + offsets_of(residual_strides, picture, outer, pixel)
                other = tl.load(at_residual, mask=mine, other=0).to(SUM)
                residual_total += tl.sum(tl.where(mine, gradient.to(SUM) * other, 0.0), axis=1, keep_dims=True)
            if grad_residual is not None:
                own = gradient.to(SUM)
                if residual_gain is not None:
                    own *= tl.load(residual_gain).to(SUM)
                to_residual = grad_residual + offsets_of(grad_residual_strides, picture, outer, pixel)
                tl.store(to_residual, own.to(grad_residual.dtype.element_ty), mask=mine)

    part = part.to(tl.int64)
    if products is not None:
        to_products = products + (part * out_channels + outer) * joined + column[None, :]
        tl.store(to_products, product_total, mask=(outer < out_channels) & (channel[None, :] < count))
    if sums is not None:
        tl.store(sums + part * out_channels + outer, total, mask=outer < tl.where(chunk == 0, out_channels, 0))
    if residual_products is not None:
        one = tl.arange(0, 1)
        to_one = residual_products + part * out_blocks + out_block + one
        tl.store(to_one, tl.sum(residual_total, axis=0), mask=one < tl.where(chunk == 0, 1, 0))
