"""Launches what the ops with a layer norm over channels share on Triton: a 1x1 convolution of normalised pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import triton_common
from ..functional import layout_of
from ..triton_common import MOST_PROGRAMS, accumulator, device_of, factor, launches, options, stored, up
from . import triton_norm


@dataclass(frozen=True)
class Config:
    """A tile: pixels by rows of the matrix, multiplied `depth` channels at a time."""

    pixels: int
    rows: int
    depth: int
    warps: int


CONFIGS = (
    Config(pixels=64, rows=16, depth=16, warps=4),
    Config(pixels=64, rows=32, depth=16, warps=4),
    Config(pixels=64, rows=64, depth=16, warps=4),
    Config(pixels=64, rows=128, depth=16, warps=8),
)


def choose(rows: int) -> Config:
    """The smallest tile that holds this many rows, or else the largest."""
    return next((each for each in CONFIGS if each.rows >= rows), CONFIGS[-1])


def padded(size: int) -> int:
    """The side of a tile that holds `size` and that tl.dot multiplies."""
    return max(16, 1 << (size - 1).bit_length())


def strides_of(x: Tensor, channels: int, layout: torch.memory_format | None = None) -> tuple[int, int]:
    """From channel to channel and pixel to pixel of a dense picture of the size of x, in its layout or another."""
    return (1, channels) if (layout or layout_of(x)) == torch.channels_last else (x.shape[2] * x.shape[3], 1)


def wide(x: Tensor, channels: int = 0) -> bool:
    """Whether offsets into x, or into a picture of its size with this many channels, need 64 bits."""
    n, c, h, w = x.shape
    return n * max(c, channels) * h * w > triton_common.NARROW


def project(
    x: Tensor,  # [N, C, H, W], dense
    weight: Tensor,  # [rows, C], contiguous, as are all that follow
    bias: Tensor | None = None,  # [rows]
    norm: tuple[Tensor, Tensor] | None = None,  # weight and bias of the layer norm, [C] each
    eps: float = 1.0,
    added: Tensor | None = None,  # [N, rows, H, W], in the layout of the result
    layout: torch.memory_format | None = None,  # of the result, where x has one channel and so both
    config: Config | None = None,
) -> Tensor:  # [N, rows, H, W]
    n, channels, height, width = x.shape
    rows, pixels = len(weight), height * width
    config, layout = config or choose(rows), layout or layout_of(x)
    out = torch.empty((n, rows, height, width), dtype=stored(x.dtype), device=x.device, memory_format=layout)
    pixel_blocks, row_blocks = up(pixels, config.pixels), up(rows, config.rows)
    with device_of(x):
        for first, count in launches(n * pixel_blocks * row_blocks, MOST_PROGRAMS):
            triton_norm.project[(count,)](
                x,
                *(norm or (None, None)),
                weight,
                bias,
                added,
                out,
                channels,
                rows,
                pixels,
                *strides_of(x, channels),
                *strides_of(x, rows, layout),
                pixel_blocks,
                row_blocks,
                first,
                EPS=eps,
                SUM=accumulator(x.dtype),
                FACTOR=factor(x.dtype),
                WIDE=wide(x, rows),
                PIXELS=config.pixels,
                ROWS=config.rows,
                DEPTH=config.depth,
                **options(config.warps),
            )
    return out.to(x.dtype)
