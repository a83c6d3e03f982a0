"""Launches the kernels of gated_feed_forward behind its first 1x1 convolution, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..attention_maps.triton_project import strides_of, wide
from ..functional import layout_of
from ..triton_common import MOST_PROGRAMS, accumulator, device_of, factor, launches, options, stored, up
from . import triton_backward, triton_forward


@dataclass(frozen=True)
class Config:
    """A tile: rows by columns of pixels by channels, multiplied `depth` channels at a time."""

    rows: int
    columns: int
    channels: int
    depth: int
    warps: int


CONFIGS = (
    Config(rows=4, columns=16, channels=16, depth=16, warps=4),
    Config(rows=4, columns=16, channels=32, depth=16, warps=4),
    Config(rows=4, columns=16, channels=64, depth=16, warps=4),
    Config(rows=4, columns=16, channels=128, depth=16, warps=8),
)
GRADIENT_CONFIG = Config(rows=4, columns=16, channels=16, depth=16, warps=4)


def choose(channels: int) -> Config:
    """The smallest tile that holds these channels, or else the largest."""
    return next((each for each in CONFIGS if each.channels >= channels), CONFIGS[-1])


def gate(
    hidden: Tensor,  # [N, 2M, H, W], dense, in the layout of x
    depthwise_weight: Tensor,  # [2M, 1, 3, 3], contiguous
    out_weight: Tensor,  # [C, M, 1, 1], contiguous
    x: Tensor,  # [N, C, H, W], dense
    config: Config | None = None,
) -> Tensor:  # [N, C, H, W]
    channels, middle = out_weight.shape[:2]
    config = config or choose(channels)
    out = torch.empty_like(x, dtype=stored(x.dtype), memory_format=layout_of(x))
    tiles, blocks, constants = _tiles(x, config), up(channels, config.channels), _constants(x, middle, config)
    with device_of(x):
        for first, count in launches(x.shape[0] * tiles[0] * tiles[1] * blocks, MOST_PROGRAMS):
            triton_forward.gate[(count,)](
                hidden,
                depthwise_weight,
                out_weight,
                x,
                out,
                channels,
                middle,
                *x.shape[2:],
                *strides_of(x, channels),
                *strides_of(x, 2 * middle),
                *tiles,
                blocks,
                first,
                **constants,
            )
    return out.to(x.dtype)


def gate_gradients(
    hidden: Tensor,  # [N, 2M, H, W], dense, in the layout of grad
    depthwise_weight: Tensor,  # [2M, 1, 3, 3], contiguous
    out_weight: Tensor,  # [C, M, 1, 1], contiguous
    grad: Tensor,  # [N, C, H, W], dense
    wanted: tuple[bool, bool],  # the gradient; star
    config: Config = GRADIENT_CONFIG,
) -> tuple[Tensor, Tensor]:  # [N, 2M, H, W]; [N, M, H, W]; not filled where not wanted
    """The gradient behind the depthwise convolution, and what out_weight is multiplied with."""
    (channels, middle), (n, _, height, width) = out_weight.shape[:2], grad.shape
    kind: dict[str, Any] = {"dtype": stored(grad.dtype), "device": grad.device, "memory_format": layout_of(grad)}
    results = [torch.empty((n, some, height, width), **kind) for some in (2 * middle, middle)]
    tiles, blocks = _tiles(grad, config), up(middle, config.channels)
    with device_of(grad):
        for first, count in launches(n * tiles[0] * tiles[1] * blocks, MOST_PROGRAMS):
            triton_backward.gate_gradient[(count,)](
                hidden,
                depthwise_weight,
                out_weight,
                grad,
                *(each if want else None for each, want in zip(results, wanted, strict=True)),
                channels,
                middle,
                height,
                width,
                *strides_of(grad, channels),
                *strides_of(grad, 2 * middle),
                *strides_of(grad, middle),
                *tiles,
                blocks,
                first,
                **_constants(grad, middle, config),
            )
    return results[0].to(grad.dtype), results[1].to(grad.dtype)


def _tiles(x: Tensor, config: Config) -> tuple[int, int]:
    return up(x.shape[2], config.rows), up(x.shape[3], config.columns)


def _constants(x: Tensor, middle: int, config: Config) -> dict[str, Any]:
    return {
        "SUM": accumulator(x.dtype),
        "FACTOR": factor(x.dtype),
        "WIDE": wide(x, 2 * middle),
        "ROWS": config.rows,
        "COLUMNS": config.columns,
        "CHANNELS": config.channels,
        "DEPTH": config.depth,
        **options(config.warps),
    }
