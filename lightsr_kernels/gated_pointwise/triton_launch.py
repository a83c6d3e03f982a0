"""Launches the kernels of gated_pointwise forward: the maps of its gate, and the way out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention_maps.triton_project import padded, project, strides_of, wide
from ..functional import layout_of
from ..triton_common import MOST_PROGRAMS, accumulator, device_of, factor, launches, options, stored, up
from . import triton_forward, triton_leave

COARSE = {"PIXELS": 64, "DEPTH": 16}
# What the kernels of both ways are given of the weights, in their order.
PATHS = ("weight_a", "bias_a", "weight_b", "bias_b", "weight_c", "bias_c")
BOTH = (*PATHS, "skip_weight", "skip_bias", "exit_weight", "exit_bias", "out_weight")


@dataclass(frozen=True)
class Config:
    """A tile: pixels by channels of the result, in pieces of `expanded`, multiplied `depth` channels at a time."""

    pixels: int
    expanded: int
    channels: int
    depth: int
    warps: int


CONFIGS = (
    Config(pixels=64, expanded=32, channels=16, depth=16, warps=4),
    Config(pixels=64, expanded=32, channels=32, depth=16, warps=4),
    Config(pixels=64, expanded=32, channels=64, depth=16, warps=4),
    Config(pixels=32, expanded=32, channels=128, depth=16, warps=8),
)
PLAIN_CONFIGS = (  # for types that tensor cores do not multiply
    Config(pixels=64, expanded=16, channels=16, depth=16, warps=4),
    Config(pixels=64, expanded=16, channels=32, depth=16, warps=4),
    Config(pixels=64, expanded=16, channels=64, depth=16, warps=4),
    Config(pixels=32, expanded=16, channels=128, depth=16, warps=8),
)


def choose(channels: int, dtype: torch.dtype) -> Config:
    """The smallest tile that holds these channels, or else the largest."""
    given = CONFIGS if dtype.itemsize == 2 else PLAIN_CONFIGS
    return next((each for each in given if each.channels >= channels), given[-1])


@dataclass(frozen=True)
class Maps:
    """The maps of the gate."""

    entered: Tensor  # [N, P, H, W], in the layout of x
    strided: torch.Size  # of the map before the max pool
    pooled: Tensor  # [N, P, h, w]
    indices: Tensor  # [N, P, h, w], which number of its plane each window took
    coarse: Tensor  # [N, P, h, w]


def gate_maps(x: Tensor, given: dict[str, Tensor], eps: float) -> Maps:
    """The maps of the gate of x [N, C, H, W], which is dense."""
    entered = project(x, *joined(given), (given["norm_weight"], given["norm_bias"]), eps)
    strided = convolve(entered, given["stride_weight"], given["stride_bias"], 2, 0)
    pooled, indices = F.max_pool2d(strided, 7, stride=3, return_indices=True)
    coarse = convolve(pooled, given["pool_weight"], given["pool_bias"], 1, 1)
    return Maps(entered, strided.shape, pooled, indices, coarse)


def leave(
    x: Tensor,  # [N, C, H, W], dense
    given: dict[str, Tensor],  # the weights by name, contiguous
    eps: float,
    maps: Maps,
    config: Config | None = None,
) -> Tensor:  # [N, C, H, W]
    n, channels, height, width = x.shape
    expanded, gate = len(given["bias_c"]), len(given["entry_bias"])
    out = torch.empty_like(x, dtype=stored(x.dtype), memory_format=layout_of(x))
    config = config or choose(channels, x.dtype)
    pixel_blocks, channel_blocks = up(height * width, config.pixels), up(channels, config.channels)
    with device_of(x):
        for first, count in launches(n * pixel_blocks * channel_blocks, MOST_PROGRAMS):
            triton_leave.leave[(count,)](
                x,
                given["norm_weight"],
                given["norm_bias"],
                maps.entered,
                maps.coarse,
                *(given[name] for name in BOTH),
                given["out_bias"],
                out,
                channels,
                expanded,
                gate,
                height,
                width,
                *maps.coarse.shape[2:],
                *strides_of(x, channels),
                *strides_of(x, gate),
                pixel_blocks,
                channel_blocks,
                first,
                EPS=eps,
                SUM=accumulator(x.dtype),
                FACTOR=factor(x.dtype),
                WIDE=wide(x, gate),
                GATE=padded(gate),
                PIXELS=config.pixels,
                EXPANDED=config.expanded,
                CHANNELS=config.channels,
                DEPTH=config.depth,
                **options(config.warps),
            )
    return out.to(x.dtype)


def joined(given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:  # [P, C], [P]
    """The path's 1x1 convolution followed by the gate's entry, as one 1x1 convolution, in float32 or wider."""
    entry = given["entry_weight"].flatten(1).double()  # so that nothing, TF32 least of all, moves the rounded result
    weight, bias = entry @ given["weight_c"].flatten(1).double(), entry @ given["bias_c"].double() + given["entry_bias"]
    kind = torch.promote_types(given["entry_bias"].dtype, torch.float32)
    return weight.to(kind), bias.to(kind)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """A 3x3 convolution of few channels, summed and returned in float32 or wider."""
    n, gate, height, width = x.shape
    rows, columns = ((side + 2 * padding - 3) // stride + 1 for side in (height, width))
    kind = torch.promote_types(x.dtype, torch.float32)
    out = torch.empty((n, gate, rows, columns), dtype=kind, device=x.device)
    blocks = up(rows * columns, COARSE["PIXELS"])
    with device_of(x):
        for first, count in launches(n * blocks, MOST_PROGRAMS):
            triton_forward.convolve[(count,)](
                x,
                (gate * height * width, *strides_of(x, gate)),
                weight,
                bias,
                out,
                gate,
                height,
                width,
                rows,
                columns,
                blocks,
                first,
                STRIDE=stride,
                PADDING=padding,
                SUM=accumulator(x.dtype),
                WIDE=wide(x),
                GATE=padded(gate),
                **COARSE,
                **options(4),
            )
    return out
