"""What the Triton kernels of split_distillation and distillation_fusion share: tiles of pictures, and sums over pixels.

A tile is some channels by PIXELS pixels of one picture. A picture is given with its strides, from picture to picture,
channel to channel and pixel to pixel, so one kernel serves both layouts and channel slices of wider pictures.

Sums over pixels are not finished in one kernel: each program leaves those of its own pixels in a workspace, and
`add_parts` adds these up in a fixed order, in float64. No atomics, and the same bits at every run.
"""

# Triton compiles some of these functions from their source, and not all of Python; names in capitals are constants.
# mypy: ignore-errors
# ruff: noqa: N803

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..triton_common import NARROW, options, stored, up


def strides_of(x: Tensor | None, layout: torch.memory_format) -> tuple[int, int, int] | None:
    """From picture to picture, channel to channel and pixel to pixel; of axes of one entry any will do."""
    if x is None:
        return None
    _, channels, height, width = x.shape
    picture, channel, row, column = x.stride()
    if layout == torch.channels_last:
        return picture, 1, column if width > 1 else row if height > 1 else channels
    return picture, channel if channels > 1 else height * width, 1


def far(*pictures: Tensor | None) -> bool:
    """Whether offsets into these pictures need 64 bits."""
    return any(
        sum((size - 1) * stride for size, stride in zip(each.shape, each.stride(), strict=True)) > NARROW
        for each in pictures
        if each is not None
    )


@triton.jit
def offsets_of(strides, picture, channel, pixel):
    return picture * strides[0] + channel * strides[1] + pixel * strides[2]


@triton.jit
def matrix_of(weight, row, column, rows, columns):
    """A tile of a matrix [rows, columns], zero outside; transposed where `row` lies along the second axis."""
    return tl.load(weight + row * columns + column, mask=(row < rows) & (column < columns), other=0)


@triton.jit
def activation_gradient(grad, value, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr):
    """The gradient before an activation, from that behind it and the value before it."""
    if ACTIVATION == "relu":
        grad = tl.where(value <= 0, 0.0, grad)
    elif ACTIVATION == "leaky_relu":
        grad = tl.where(value > 0, grad, grad * SLOPE)
    elif ACTIVATION == "gelu":
        density = 0.3989422804014327 * tl.exp(-0.5 * value * value)
        grad *= 0.5 * (1.0 + tl.erf(value * 0.7071067811865476)) + value * density
    elif ACTIVATION == "silu":
        gate = 1.0 / (1.0 + tl.exp(-value))
        grad *= gate * (1.0 + value * (1.0 - gate))
    elif ACTIVATION == "sigmoid":
        gate = 1.0 / (1.0 + tl.exp(-value))
        grad *= gate * (1.0 - gate)
    return grad


@triton.jit
def pick(values, which, COUNT: tl.constexpr):
    """An entry of a tuple, by a number known at run time."""
    found = values[0]
    for i in tl.static_range(1, COUNT):
        found = tl.where(which == i, values[i], found)
    return found


@triton.jit
def place_of(block, sizes, SIZE: tl.constexpr, COUNT: tl.constexpr):
    """Of things of these sizes, cut into blocks of SIZE: whose block this is, the number in it, what lies before it."""
    which, before = 0, 0
    for i in tl.static_range(COUNT - 1):
        later = ((which == i) & (block >= tl.cdiv(sizes[i], SIZE))).to(tl.int32)
        block -= later * tl.cdiv(sizes[i], SIZE)
        before += later * sizes[i]
        which += later
    return which, block, before


@triton.jit
def add_parts(
    workspaces,  # each [groups, parts, size]
    results,  # each [groups, size]
    sizes,
    parts,
    groups,
    COUNT: tl.constexpr,
    PARTS: tl.constexpr,
    SIZE: tl.constexpr,
):
    group = (tl.program_id(0) % groups).to(tl.int64)
    which, block, _ = place_of(tl.program_id(0) // groups, sizes, SIZE, COUNT)
    size = pick(sizes, which, COUNT)
    at = block * SIZE + tl.arange(0, SIZE)[None, :]
    part = tl.arange(0, PARTS)[:, None]
    workspace = pick(workspaces, which, COUNT) + group * parts * size
    sums = tl.zeros((PARTS, SIZE), tl.float64)
    for begin in range(0, parts, PARTS):
        here = (begin + part < parts) & (at < size)
        sums += tl.load(workspace + (begin + part).to(tl.int64) * size + at, mask=here, other=0).to(tl.float64)
    value = tl.sum(sums, axis=0)[None, :]
    result = pick(results, which, COUNT)
    tl.store(result + group * size + at, value.to(result.dtype.element_ty), mask=at < size)


def add_up(
    workspaces: list[Tensor],  # each [groups, parts, ...]
    results: list[Tensor],  # each of as many numbers as `groups` of them, and all of one dtype
) -> None:
    """Adds the parts of each workspace up, all in one launch."""
    if not workspaces:
        return
    groups, parts = workspaces[0].shape[:2]
    sizes = [each[0, 0].numel() for each in workspaces]
    add_parts[(groups * sum(up(size, 32) for size in sizes),)](
        tuple(workspaces),
        tuple(results),
        tuple(sizes),
        parts,
        groups,
        COUNT=len(sizes),
        PARTS=32,
        SIZE=32,
        **options(4),
    )


FEWEST_PARTS, MOST_PARTS = 256, 1024  # of the sums of one call, each with its own place in the workspaces


def stretched(
    x: Tensor,  # [N, C, H, W]
    pixels: int,  # of a tile
    numbers: int,  # that a workspace holds for each part
    programs: int = 1,  # for each part
) -> tuple[int, int]:
    """(steps, stretches): a program walks `steps` tiles of a picture, of which each has `stretches` stretches.

    By sizes alone. The workspaces should be small beside the pictures, and the programs enough to keep a GPU busy.
    """
    n, _, h, w = x.shape
    blocks = up(h * w, pixels)
    parts = min(max(up(FEWEST_PARTS, programs), x.numel() // (8 * max(numbers, 1))), MOST_PARTS)
    steps = min(up(n * blocks, parts), blocks)
    return steps, up(blocks, steps)


def written(found: Tensor) -> Tensor:
    """What a kernel writes for a result: the result itself, as a rule; see `stored`."""
    dtype = stored(found.dtype)
    return found if dtype == found.dtype else torch.empty_like(found, dtype=dtype)
