"""Launches the kernels of multi_attention's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..attention_maps.triton_project import strides_of, wide
from ..functional import layout_of
from ..split_distillation.triton_tiles import add_up
from ..triton_common import MOST_PROGRAMS, accumulator, device_of, launches, options, stored, up
from . import triton_pixels

TILE = {"PIXELS": 128, "CHANNELS": 16}


def gated_sums(
    z: Tensor,  # [N, C, H, W], dense, as in all that follow
    gate: Tensor,  # [N, 1, H, W]
) -> Tensor:  # float64 [N, C]
    n, channels = z.shape[:2]
    parts = torch.empty((n, _blocks(z), channels), dtype=gate.dtype, device=z.device)
    sums = torch.empty((n, channels), dtype=torch.float64, device=z.device)
    _launch(triton_pixels.sum_gated, z, (z, gate, parts))
    with device_of(z):
        add_up([parts], [sums])
    return sums


def map_gradients(
    z: Tensor,  # [N, C, H, W]
    gate: Tensor,  # [N, 1, H, W]
    pooled: Tensor,  # [N, 2, H, W]
    grad_map: Tensor,  # [N, 1, H, W]
    slope: Tensor,  # [N, C]
) -> tuple[Tensor, Tensor]:  # [N, 1, H, W] each
    """The gradient behind the sigmoid, and each maximum's share of its gradient."""
    grad_logit, share = torch.empty_like(gate), torch.empty_like(gate)
    _launch(triton_pixels.map_gradient, z, (z, gate, pooled, grad_map, slope, grad_logit, share))
    return grad_logit, share


def pixel_gradients(
    grad: Tensor,  # [N, C, H, W], in the layout of z
    z: Tensor,  # [N, C, H, W]
    gate: Tensor,  # [N, 1, H, W]
    pooled: Tensor,  # [N, 2, H, W]
    grad_pooled: Tensor,  # [N, 2, H, W]
    share: Tensor,  # [N, 1, H, W]
    slope: Tensor,  # [N, C]
) -> Tensor:  # [N, C, H, W]
    grad_z = torch.empty_like(z, dtype=stored(z.dtype), memory_format=layout_of(z))
    _launch(triton_pixels.pixel_gradient, z, (grad, z, gate, pooled, grad_pooled, share, slope, grad_z))
    return grad_z.to(z.dtype)


def _blocks(z: Tensor) -> int:
    return up(z.shape[2] * z.shape[3], TILE["PIXELS"])


def _launch(kernel: Any, z: Tensor, tensors: tuple[Tensor, ...]) -> None:
    n, channels, height, width = z.shape
    with device_of(z):
        for first, count in launches(n * _blocks(z), MOST_PROGRAMS):
            kernel[(count,)](
                *tensors,
                channels,
                height * width,
                *strides_of(z, channels),
                _blocks(z),
                first,
                SUM=accumulator(z.dtype),
                WIDE=wide(z, 2),
                **TILE,
                **options(4),
            )
