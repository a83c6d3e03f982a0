"""instance_norm_attention on Triton, the portable path on GPUs, forward and backward.

The passes here serve instance_norm, channel_attention and spatial_attention too; triton_planes.py and triton_pixels.py
say how their kernels work. Nothing here waits for the GPU or measures, so calls can be captured in a CUDA graph.
"""

from __future__ import annotations

import sys
from typing import Any, cast

import torch
from torch import Tensor

from .. import triton_common
from ..depthwise_conv.triton import convolve, weight_gradients
from ..functional import layout_of
from ..triton_common import MOST_PROGRAMS, accumulator, device_of, launches, options, stored, up
from . import compose, triton_pixels, triton_planes
from .compose import Affine, Passes, parts, wide
from .triton_configs import MOMENT_CONFIGS, PIXEL_CONFIGS, SUM_CONFIGS, VALUE_CONFIGS, Config, choose

__all__ = ["convolve", "weight_gradients"]

MERGED = {"PARTS": 32, "SIZE": 16}  # parts and planes that a merging program adds at once
LAYERS = {"CHANNELS": 64, "HIDDEN": 16}  # channels and hidden units of the channel gate that are multiplied at once
GATE_PIXELS = 128


def moments(x: Tensor, config: Config | None = None) -> Tensor:
    config = config or choose(MOMENT_CONFIGS, x)
    count, planes = up(_pixels(x), config.pixels), x.shape[0] * x.shape[1]
    workspace = torch.empty((3, count, planes), dtype=wide(x.dtype), device=x.device)
    found = torch.empty((2, *x.shape[:2]), dtype=torch.float64, device=x.device)
    blocks = up(x.shape[1], config.channels)
    with device_of(x):
        for first, programs in launches(x.shape[0] * count * blocks, MOST_PROGRAMS):
            triton_planes.part_moments[(programs,)](
                x, workspace, *_sizes(x), count, blocks, planes, first, **_constants(x, config)
            )
        triton_planes.merge_moments[(up(planes, MERGED["SIZE"]),)](
            workspace, found, count, planes, _pixels(x), PIXELS=config.pixels, **MERGED, **options(4)
        )
    return found


def factors(
    mean: Tensor,  # float64 [N, C]
    variance: Tensor,  # float64 [N, C]
    norm_weight: Tensor | None,  # [C]
    norm_bias: Tensor | None,  # [C]
    down_weight: Tensor | None,  # [R, C, 1, 1]
    down_bias: Tensor | None,  # [R]
    up_weight: Tensor | None,  # [C, R, 1, 1]
    up_bias: Tensor | None,  # [C]
    eps: float,
    statistic: str,
    norm: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    n, channels = mean.shape
    found = torch.empty((3, n, channels), dtype=dtype, device=mean.device)
    parameters = norm_weight, norm_bias, down_weight, down_bias, up_weight, up_bias
    with device_of(mean):
        triton_planes.factors[(n, up(channels, LAYERS["CHANNELS"]))](
            mean.contiguous(),
            variance.contiguous(),
            *(None if each is None else each.contiguous() for each in parameters),
            found,
            channels,
            0 if down_weight is None else len(down_weight),
            n * channels,
            EPS=eps,
            DEVIATION=statistic == "mean+std",
            NORM=norm,
            **LAYERS,
            **options(4),
        )
    return found[0], found[1], found[2]


def channel_pool(x: Tensor, affine: Affine, config: Config | None = None) -> Tensor:
    config = config or choose(PIXEL_CONFIGS, x)
    pooled = _maps(x, 2)
    blocks = up(_pixels(x), config.pixels)
    with device_of(x):
        for first, programs in launches(x.shape[0] * blocks, MOST_PROGRAMS):
            triton_pixels.channel_pool[(programs,)](
                x, *affine, pooled, *_sizes(x), blocks, first, **_constants(x, config)
            )
    return pooled


def spatial_gate(pooled: Tensor, spatial_weight: Tensor) -> Tensor:
    n, _, height, width = pooled.shape
    gate = torch.empty((n, 1, height, width), dtype=pooled.dtype, device=pooled.device)
    blocks = up(height * width, GATE_PIXELS)
    with device_of(pooled):
        for first, programs in launches(n * blocks, MOST_PROGRAMS):
            triton_pixels.spatial_gate[(programs,)](
                pooled,
                spatial_weight.contiguous(),
                gate,
                height,
                width,
                blocks,
                first,
                K=spatial_weight.shape[-1],
                WIDE=_wide(pooled, reach=spatial_weight.shape[-1] * width),
                PIXELS=GATE_PIXELS,
                **options(4),
            )
    return gate


def gated_affine(
    x: Tensor,
    affine: Affine,
    pooled: Tensor | None,
    spatial_weight: Tensor | None,
    residual: bool,
    config: Config | None = None,
) -> tuple[Tensor, Tensor | None]:
    config = config or choose(VALUE_CONFIGS, x)
    gate = None if pooled is None or spatial_weight is None else spatial_gate(pooled, spatial_weight)
    out = torch.empty_like(x, dtype=stored(x.dtype), memory_format=layout_of(x))
    blocks, channel_blocks = up(_pixels(x), config.pixels), up(x.shape[1], config.channels)
    with device_of(x):
        for first, programs in launches(x.shape[0] * blocks * channel_blocks, MOST_PROGRAMS):
            triton_pixels.gated_affine[(programs,)](
                x,
                *affine,
                gate,
                out,
                *_sizes(x),
                blocks,
                channel_blocks,
                first,
                RESIDUAL=residual,
                **_constants(x, config),
            )
    return out.to(x.dtype), gate


def gate_gradient(
    grad: Tensor, x: Tensor, affine: Affine, gate: Tensor, pooled: Tensor, config: Config | None = None
) -> tuple[Tensor, Tensor]:
    config = config or choose(PIXEL_CONFIGS, x)
    grad_logit, share = _maps(x, 1), _maps(x, 1)
    blocks = up(_pixels(x), config.pixels)
    with device_of(x):
        for first, programs in launches(x.shape[0] * blocks, MOST_PROGRAMS):
            triton_pixels.gate_gradient[(programs,)](
                grad,
                x,
                *affine,
                gate,
                pooled,
                grad_logit,
                share,
                *_sizes(x),
                blocks,
                first,
                **_constants(x, config),
            )
    return grad_logit, share


def affine_sums(
    grad: Tensor,
    x: Tensor,
    affine: Affine,
    gate: Tensor | None,
    pooled: Tensor | None,
    grad_pooled: Tensor | None,
    share: Tensor | None,
    config: Config | None = None,
) -> Tensor:
    config = config or choose(SUM_CONFIGS, x)
    count, planes = up(_pixels(x), config.pixels), x.shape[0] * x.shape[1]
    workspace = torch.empty((2, count, planes), dtype=wide(x.dtype), device=x.device)
    sums = torch.empty((2, *x.shape[:2]), dtype=torch.float64, device=x.device)
    blocks = up(x.shape[1], config.channels)
    with device_of(x):
        for first, programs in launches(x.shape[0] * count * blocks, MOST_PROGRAMS):
            triton_planes.part_affine_sums[(programs,)](
                grad,
                x,
                *affine,
                gate,
                pooled,
                grad_pooled,
                share,
                workspace,
                *_sizes(x),
                count,
                blocks,
                planes,
                first,
                **_constants(x, config),
            )
        triton_planes.add_parts[(up(planes, MERGED["SIZE"]), 2)](workspace, sums, count, planes, **MERGED, **options(4))
    return sums


def affine_gradient(
    grad: Tensor,
    x: Tensor,
    affine: Affine,
    gate: Tensor | None,
    pooled: Tensor | None,
    grad_pooled: Tensor | None,
    share: Tensor | None,
    residual: bool,
    constant: Tensor | None,
    slope: Tensor | None,
    config: Config | None = None,
) -> Tensor:
    config = config or choose(VALUE_CONFIGS, x)
    grad_x = torch.empty_like(x, dtype=stored(x.dtype), memory_format=layout_of(x))
    blocks, channel_blocks = up(_pixels(x), config.pixels), up(x.shape[1], config.channels)
    with device_of(x):
        for first, programs in launches(x.shape[0] * blocks * channel_blocks, MOST_PROGRAMS):
            triton_pixels.affine_gradient[(programs,)](
                grad,
                x,
                *affine,
                gate,
                pooled,
                grad_pooled,
                share,
                constant,
                slope,
                grad_x,
                *_sizes(x),
                blocks,
                channel_blocks,
                first,
                RESIDUAL=residual,
                **_constants(x, config),
            )
    return grad_x.to(x.dtype)


def _pixels(x: Tensor) -> int:
    return x.shape[2] * x.shape[3]


def _maps(x: Tensor, count: int) -> Tensor:
    return torch.empty((x.shape[0], count, *x.shape[2:]), dtype=wide(x.dtype), device=x.device)


def _sizes(x: Tensor) -> tuple[int, int, int, int]:
    """Channels, pixels, and from channel to channel and pixel to pixel."""
    channels, pixels = x.shape[1], _pixels(x)
    return (channels, pixels, 1, channels) if layout_of(x) == torch.channels_last else (channels, pixels, pixels, 1)


def _wide(x: Tensor, reach: int = 0) -> bool:
    """Whether offsets into x, or into two maps of its size, need 64 bits."""
    n, channels, height, width = x.shape
    return n * max(channels, 2) * height * width + reach > triton_common.NARROW


def _constants(x: Tensor, config: Config) -> dict[str, Any]:
    return {
        "SUM": accumulator(x.dtype),
        "WIDE": _wide(x),
        "PIXELS": config.pixels,
        "CHANNELS": config.channels,
        **options(config.warps),
    }


PASSES = cast(Passes, sys.modules[__name__])


def forward(x: Tensor, *others: object) -> Tensor:
    return compose.forward(PASSES, x, parts(*others))  # type: ignore[arg-type]


def forward_keeping(x: Tensor, *others: object) -> tuple[Tensor, list[Tensor]]:
    return compose.forward_keeping(PASSES, x, parts(*others))  # type: ignore[arg-type]


def backward(
    grads: list[Tensor], wanted: list[bool], x: Tensor, *others: object, kept: list[Tensor] | None = None
) -> list[Tensor]:
    return compose.backward(PASSES, grads, wanted, x, parts(*others), kept)  # type: ignore[arg-type]
