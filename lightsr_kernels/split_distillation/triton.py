"""split_distillation on Triton, the portable path on GPUs: forward, and backward to every argument.

triton_forward.py and triton_backward.py say how the kernels work. Nothing here waits for the GPU or measures, so calls
can be captured in a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..triton_common import MOST_PROGRAMS, accumulator, device_of, factor, launches, options, stored, up
from . import backward as shared
from . import triton_forward
from .convolution import convolved, in_layout_of
from .triton_gradients import gradients
from .triton_tiles import far, strides_of

MOST_BYTES = 2**13  # of a gate's matrix, which a program that also distils holds whole


@dataclass(frozen=True)
class Config:
    """A tile: pixels by channels of the distilled part, multiplied `depth` channels at a time."""

    pixels: int
    channels: int
    depth: int
    warps: int


CONFIGS = (
    Config(pixels=128, channels=16, depth=16, warps=4),
    Config(pixels=64, channels=32, depth=32, warps=4),
    Config(pixels=64, channels=64, depth=32, warps=4),
    Config(pixels=32, channels=128, depth=16, warps=8),
)
PLAIN_CONFIGS = (  # for types that tensor cores do not multiply
    Config(pixels=128, channels=16, depth=16, warps=4),
    Config(pixels=32, channels=32, depth=16, warps=4),
    Config(pixels=32, channels=64, depth=16, warps=4),
    Config(pixels=32, channels=128, depth=16, warps=8),
)


def choose(distilled: int, dtype: torch.dtype) -> Config:
    """The smallest tile that holds this many channels, or else the largest."""
    given = CONFIGS if dtype.itemsize == 2 else PLAIN_CONFIGS
    return next((each for each in given if each.channels >= distilled), given[-1])


def forward(
    x: Tensor,  # [N, C, H, W]; with a convolution [N, C_in, H, W]
    split: int | None,
    bias: Tensor | None,  # [C]
    residual: Tensor | None,  # [N, C, H, W]
    activation: str,
    negative_slope: float,
    weight: Tensor | None,  # [D, split or C, 1, 1]
    weight_bias: Tensor | None,  # [D]
    distilled_activation: str,
    gate_weight: Tensor | None,  # [D, D, 1, 1]
    gate_bias: Tensor | None,  # [D]
    keep: bool,
    convolution: Tensor | None = None,  # [C, C_in, KH, KW]
    config: Config | None = None,
) -> tuple[Tensor, Tensor]:  # [N, D or split or C, H, W], [N, C - split or C or 0, H, W]
    step = (split, bias, residual, activation, negative_slope)
    ends = (weight, weight_bias, distilled_activation, gate_weight, gate_bias)
    if convolution is not None:
        return in_layout_of(x, forward(convolved(x, convolution), *step, *ends, keep, config=config))
    call = shared.call_of(x, *step, *ends)
    config = config or choose(call.distilled, x.dtype)
    if weight is not None and gate_weight is not None and not _holds(gate_weight, config):
        distilled, remaining = forward(x, *step, *ends[:3], None, None, keep, config=config)
        gate = (None, None, "none", gate_weight, gate_bias, False)
        return forward(distilled, None, None, None, "none", 0.0, *gate, config=config)[0], remaining
    return _distil(call, keep, config)


def _holds(matrix: Tensor, config: Config) -> bool:
    return len(matrix) <= config.channels and config.channels**2 * matrix.element_size() <= MOST_BYTES


def _distil(call: shared.Call, keep: bool, config: Config) -> tuple[Tensor, Tensor]:
    x = call.x
    n, c, h, w = x.shape
    rest = (c if call.whole else c - call.split) if keep else 0
    kind: dict[str, Any] = {"dtype": stored(x.dtype), "device": x.device, "memory_format": call.layout}
    distilled, remaining = torch.empty((n, call.distilled, h, w), **kind), torch.empty((n, rest, h, w), **kind)
    pixel_blocks, channel_blocks = up(h * w, config.pixels), up(call.distilled, config.channels)
    with device_of(x):
        for first, count in launches(n * pixel_blocks * channel_blocks if x.numel() else 0, MOST_PROGRAMS):
            triton_forward.distil[(count,)](
                x,
                strides_of(x, call.layout),
                call.bias,
                call.residual,
                strides_of(call.residual, call.layout),
                call.weight,
                call.weight_bias,
                call.gate_weight,
                call.gate_bias,
                distilled,
                strides_of(distilled, call.layout),
                remaining if keep else None,
                strides_of(remaining, call.layout) if keep else None,
                c,
                call.split,
                call.distilled,
                h * w,
                pixel_blocks,
                channel_blocks,
                first,
                ACTIVATION=call.activation,
                DISTILLED_ACTIVATION=call.distilled_activation,
                SLOPE=call.negative_slope if "leaky_relu" in (call.activation, call.distilled_activation) else 0.0,
                WHOLE=call.whole,
                SUM=accumulator(x.dtype),
                FACTOR=factor(x.dtype),
                WIDE=far(x, call.residual, distilled, remaining),
                PIXELS=config.pixels,
                CHANNELS=config.channels,
                DEPTH=config.depth,
                **options(config.warps),
            )
    return distilled.to(x.dtype), remaining.to(x.dtype)


def backward(grads: list[Tensor], wanted: list[bool], *args: Any) -> list[Tensor]:
    return shared.backward(gradients, grads, wanted, *args)
