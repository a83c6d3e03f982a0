"""Launches the kernel of window_attention, forward and for gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import triton_common
from ..attention_maps.triton_project import padded, strides_of, wide
from ..functional import layout_of
from ..triton_common import MOST_PROGRAMS, accumulator, device_of, factor, launches, options, stored, up
from . import triton_forward


@dataclass(frozen=True)
class Config:
    """A tile: queries by channels of the result, `keys` keys at a time, multiplied `depth` channels at a time."""

    queries: int
    keys: int
    channels: int
    depth: int
    warps: int


CONFIGS = (
    Config(queries=64, keys=64, channels=16, depth=16, warps=4),
    Config(queries=64, keys=64, channels=32, depth=16, warps=4),
    Config(queries=64, keys=64, channels=64, depth=16, warps=4),
)
PLAIN_CONFIGS = (  # for types that tensor cores do not multiply
    Config(queries=64, keys=16, channels=16, depth=16, warps=4),
    Config(queries=64, keys=16, channels=32, depth=16, warps=4),
    Config(queries=64, keys=16, channels=64, depth=16, warps=4),
)


def choose(channels: int, dtype: torch.dtype) -> Config:
    """The smallest tile that holds these channels, or else the largest."""
    given = CONFIGS if dtype.itemsize == 2 else PLAIN_CONFIGS
    return next((each for each in given if each.channels >= channels), given[-1])


def gather(
    x: Tensor,  # [N, C, H, W], dense
    maps: Tensor,  # [N*sets, window^2, window^2]
    window: int,
    grid: bool,
    weight: Tensor | None = None,  # [C, C], contiguous
    norm: tuple[Tensor, Tensor] | None = None,  # weight and bias of the layer norm, [C] each, contiguous
    eps: float = 1.0,
    transposed: bool = False,
    residual: bool = False,
    config: Config | None = None,
) -> Tensor:  # [N, C, H, W]
    """Every pixel's sum of the values of its set, times the maps: of weight n, or of what there is of the two."""
    _, channels, height, width = x.shape
    out = torch.empty_like(x, dtype=stored(x.dtype), memory_format=layout_of(x))
    config = config or choose(channels, x.dtype)
    maps, side = maps.contiguous(), padded(window**2)  # of a set smaller than the tile
    query_blocks, channel_blocks = up(window**2, config.queries), up(channels, config.channels)
    with device_of(x):
        for first, count in launches(len(maps) * query_blocks * channel_blocks, MOST_PROGRAMS):
            triton_forward.attend[(count,)](
                x,
                maps,
                *(norm or (None, None)),
                weight,
                out,
                channels,
                height // window,
                width // window,
                channels * height * width,
                *strides_of(x, channels),
                query_blocks,
                channel_blocks,
                first,
                WINDOW=window,
                GRID=grid,
                TRANSPOSED=transposed,
                RESIDUAL=residual,
                EPS=eps,
                SUM=accumulator(x.dtype),
                FACTOR=factor(x.dtype),
                WIDE=wide(x) or maps.numel() > triton_common.NARROW,
                QUERIES=min(config.queries, side),
                KEYS=min(config.keys, side),
                CHANNELS=config.channels,
                DEPTH=config.depth,
                **options(config.warps),
            )
    return out.to(x.dtype)
