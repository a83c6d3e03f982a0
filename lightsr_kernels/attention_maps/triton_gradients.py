"""Launches the kernels of gradients that the ops with a layer norm over channels share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..functional import layout_of
from ..split_distillation.triton_tiles import add_up, stretched
from ..triton_common import MOST_PROGRAMS, accumulator, device_of, factor, launches, options, stored, up
from . import triton_backward
from .triton_project import padded, strides_of, wide

NORM = {"PIXELS": 64, "DEPTH": 16}


@dataclass(frozen=True)
class Config:
    """A tile of sums, rows by channels, and how many pixels are multiplied at once."""

    rows: int
    channels: int
    pixels: int


def choose(rows: int, channels: int, dtype: torch.dtype) -> Config:
    """The smallest tile that holds these sums, or else the largest."""
    return Config(min(padded(rows), 64), min(padded(channels), 64), 32 if dtype.itemsize == 2 else 16)


def norm_gradients(
    grad: Tensor,  # of n: [N, C, H, W], dense
    x: Tensor,  # [N, C, H, W], dense, in the layout of grad, as is `added`
    norm_weight: Tensor,  # [C]
    eps: float,
    added: Tensor | None,  # [N, C, H, W], to the gradient of x
    wanted: tuple[bool, bool],  # that of x; those of the weight and the bias
) -> tuple[Tensor, Tensor, Tensor]:  # [N, C, H, W]; [C], [C]; empty where not wanted
    n, channels, height, width = x.shape
    blocks = up(height * width, NORM["PIXELS"])
    grad_x = torch.empty_like(x, dtype=stored(x.dtype), memory_format=layout_of(x)) if wanted[0] else None
    kind = torch.promote_types(x.dtype, torch.float32)
    workspace = torch.empty((2, n * blocks, channels), dtype=kind, device=x.device) if wanted[1] else None
    sums = [torch.empty(channels, dtype=torch.float64, device=x.device) for _ in range(2 * wanted[1])]
    with device_of(x):
        for first, count in launches(n * blocks, MOST_PROGRAMS):
            triton_backward.of_norm[(count,)](
                grad,
                x,
                norm_weight,
                added,
                grad_x,
                *(workspace if workspace is not None else (None, None)),
                channels,
                height * width,
                *strides_of(x, channels),
                blocks,
                first,
                EPS=eps,
                SUM=accumulator(x.dtype),
                WIDE=wide(x),
                **NORM,
                **options(4),
            )
        if workspace is not None:
            add_up([workspace[:1], workspace[1:]], sums)
    nothing = torch.empty(0)
    by_weight, by_bias = sums or (nothing, nothing)
    return nothing if grad_x is None else grad_x.to(x.dtype), by_weight, by_bias


def product_sums(
    left: Tensor,  # [N, rows, H, W], dense
    x: Tensor,  # [N, C, H, W], dense, in the layout of left
    norm: tuple[Tensor, Tensor] | None = None,  # weight and bias of the layer norm, [C] each, contiguous
    eps: float = 1.0,
    config: Config | None = None,
) -> Tensor:  # float64 [rows, C]
    """The sum over all pixels of `left` times n, or times x without a norm."""
    n, channels, height, width = x.shape
    rows = left.shape[1]
    config = config or choose(rows, channels, x.dtype)
    out_blocks, channel_blocks = up(rows, config.rows), up(channels, config.channels)
    steps, stretches = stretched(x, config.pixels, rows * channels, out_blocks * channel_blocks)
    kind = torch.promote_types(x.dtype, torch.float32)
    parts = torch.empty((1, n * stretches, rows, channels), dtype=kind, device=x.device)
    sums = torch.empty((rows, channels), dtype=torch.float64, device=x.device)
    with device_of(x):
        for first, count in launches(n * stretches * out_blocks * channel_blocks, MOST_PROGRAMS):
            triton_backward.sum_products[(count,)](
                left,
                x,
                *(norm or (None, None)),
                parts,
                rows,
                channels,
                height * width,
                *strides_of(left, rows),
                *strides_of(x, channels),
                out_blocks,
                channel_blocks,
                steps,
                stretches,
                first,
                EPS=eps,
                SUM=accumulator(x.dtype),
                FACTOR=factor(x.dtype),
                WIDE=wide(x, rows),
                PIXELS=config.pixels,
                OUT=config.rows,
                CHANNELS=config.channels,
                DEPTH=16,
                **options(4),
            )
        add_up([parts], [sums])
    return sums
