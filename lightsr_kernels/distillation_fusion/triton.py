"""distillation_fusion on Triton, the portable path on GPUs: forward, and backward to every argument.

triton_forward.py and triton_backward.py say how the kernels work. Nothing here waits for the GPU or measures, so calls
can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..split_distillation.triton_tiles import far, strides_of
from ..triton_common import MOST_PROGRAMS, accumulator, device_of, factor, launches, options, stored, up
from . import activation as last_step
from . import backward as shared
from . import triton_forward
from .triton_gradients import gradients


@dataclass(frozen=True)
class Config:
    """A tile: pixels by channels of the result, multiplied with `depth` channels of a part at a time."""

    pixels: int
    channels: int
    depth: int
    warps: int


CONFIGS = (
    Config(pixels=64, channels=16, depth=16, warps=4),
    Config(pixels=64, channels=64, depth=16, warps=4),
    Config(pixels=64, channels=64, depth=32, warps=4),
    Config(pixels=32, channels=64, depth=16, warps=4),
    Config(pixels=32, channels=128, depth=16, warps=8),
)


def choose(out_channels: int, channels: Sequence[int], dtype: torch.dtype) -> Config:
    """The tile that holds the channels of the result, and no deeper than the largest part needs."""
    if out_channels <= 16:
        return CONFIGS[0]
    if out_channels > 64:
        return CONFIGS[4]
    if dtype.itemsize > 2:
        return CONFIGS[3]
    return CONFIGS[2] if max(channels) > 16 else CONFIGS[1]


def forward(
    parts: list[Tensor],  # each [N, C_k, H, W]
    weight: Tensor,  # [C_out, sum of C_k, 1, 1]
    bias: Tensor | None,  # [C_out]
    scale: Tensor | None,  # [N, sum of C_k, 1, 1]
    maps: list[Tensor],  # none, or one [N, 1, H, W] a part
    gain: Tensor | None,  # [] or [1]
    residual: Tensor | None,  # [N, C_out, H, W]
    residual_gain: Tensor | None,  # [] or [1]
    activation: str = "none",
    negative_slope: float = 0.0,
    config: Config | None = None,
) -> Tensor:  # [N, C_out, H, W]
    parts, maps = shared.shortened(parts, maps)
    call = shared.call_of(parts, weight, bias, scale, maps, gain, residual, residual_gain)
    x = call.parts[0]
    n, _, h, w = x.shape
    channels = [part.shape[1] for part in parts]
    config = config or choose(len(weight), channels, x.dtype)
    out = torch.empty((n, len(weight), h, w), dtype=stored(x.dtype), device=x.device, memory_format=call.layout)
    pixel_blocks, channel_blocks = up(h * w, config.pixels), up(len(weight), config.channels)
    with device_of(x):
        for first, count in launches(n * pixel_blocks * channel_blocks, MOST_PROGRAMS):
            triton_forward.fuse[(count,)](
                tuple(call.parts),
                tuple(zip(*(strides_of(part, call.layout) or () for part in call.parts), strict=True)),
                tuple(channels),
                tuple(call.maps) or None,
                call.scale,
                call.weight,
                call.bias,
                call.gain,
                call.residual,
                strides_of(call.residual, call.layout),
                call.residual_gain,
                out,
                strides_of(out, call.layout),
                len(weight),
                sum(channels),
                h * w,
                pixel_blocks,
                channel_blocks,
                sum(up(each, config.depth) for each in channels),
                first,
                SUM=accumulator(x.dtype),
                FACTOR=factor(x.dtype),
                WIDE=far(*call.parts, call.residual, out),
                PIXELS=config.pixels,
                CHANNELS=config.channels,
                DEPTH=config.depth,
                COUNT=len(channels),
                ACTIVATION=activation,
                SLOPE=negative_slope if activation == "leaky_relu" else 0.0,
                **options(config.warps),
            )
    return out.to(x.dtype)


def forward_keeping(*args: Any) -> tuple[Tensor, list[Tensor]]:
    return last_step.forward_keeping(forward, *args)


def backward(grads: list[Tensor], wanted: list[bool], *args: Any, kept: list[Tensor] | None = None) -> list[Tensor]:
    grad = last_step.gradient_before(forward, grads[0], kept, *args)
    return shared.backward(gradients, [grad], wanted, *args[: last_step.BEFORE])
