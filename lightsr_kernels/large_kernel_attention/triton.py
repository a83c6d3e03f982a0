"""large_kernel_attention on Triton, the portable path on GPUs, forward and backward.

The field, the two depthwise convolutions, takes two passes through depthwise_conv's kernel, and what lies between them
goes through memory: Triton can neither shift a tile in registers nor address one in shared memory, so a single pass
would have to compute each value between them once for every tap that reads it. The 1x1 convolutions, the gate and the
residual are one pass (triton_mix.py), two where the channels are too many for one tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..depthwise_conv.triton import convolve, weight_gradients
from ..functional import dense, dense_as, layout_of
from ..triton_common import MOST_PROGRAMS, accumulator, device_of, factor, launches, options, stored, up, wide
from . import backward as gradients
from . import triton_mix
from .reference import joined

MOST_BYTES = 2**15  # of the second matrix, which a program holds whole


@dataclass(frozen=True)
class Config:
    """A tile: pixels by channels, multiplied `depth` channels at a time; the one-pass kernel holds all channels."""

    pixels: int
    channels: int
    depth: int
    warps: int


CONFIGS = (
    Config(pixels=64, channels=64, depth=32, warps=4),
    Config(pixels=32, channels=64, depth=16, warps=4),
    Config(pixels=32, channels=16, depth=16, warps=2),
)


def choose(x: Tensor) -> Config:
    """The tile for this picture: wide for 16-bit types, whose products cost little; small where channels are few."""
    if x.shape[1] <= 16:
        return CONFIGS[2]
    return CONFIGS[0] if x.element_size() == 2 else CONFIGS[1]


def forward(
    x: Tensor,  # [N, C, H, W]
    weight1: Tensor,  # [C, 1, KH1, KW1]
    bias1: Tensor | None,  # [C]
    weight2: Tensor,  # [C, 1, KH2, KW2]
    bias2: Tensor | None,  # [C]
    mix_weight: Tensor,  # [C, C, 1, 1]
    mix_bias: Tensor | None,  # [C]
    dilation: int,
    out_weight: Tensor | None,  # [C, C, 1, 1]
    out_bias: Tensor | None,  # [C]
    residual: list[Tensor],  # each [N, C_k, H, W], together [N, C, H, W]; none where there is none
) -> Tensor:  # [N, C, H, W]
    x = dense(x)
    field = convolve(convolve(x, weight1, bias1, [1, 1], False), weight2, bias2, [dilation, dilation], False)
    return mix(field, x, mix_weight, mix_bias, out_weight, out_bias, joined(residual) if residual else None)


def mix(
    x: Tensor,  # [N, C, H, W]
    gate: Tensor,  # [N, C, H, W]
    mix_weight: Tensor,  # [C, C, 1, 1]
    mix_bias: Tensor | None,  # [C]
    out_weight: Tensor | None,  # [C, C, 1, 1]
    out_bias: Tensor | None,  # [C]
    residual: Tensor | None,  # [N, C, H, W]
    config: Config | None = None,
) -> Tensor:  # [N, C, H, W]
    """What follows the field x: 1x1 convolution and gate, then a second 1x1 convolution and the residual."""
    config = config or choose(x)
    if out_weight is None:
        return _pointwise(x, mix_weight, mix_bias, gate, residual, config)
    channels = x.shape[1]
    padded = max(16, 1 << (channels - 1).bit_length())
    if padded * padded * x.element_size() > MOST_BYTES:
        gated = _pointwise(x, mix_weight, mix_bias, gate, None, config)
        return _pointwise(gated, out_weight, out_bias, None, residual, config)
    out = torch.empty_like(x, dtype=stored(x.dtype), memory_format=layout_of(x))
    residual = None if residual is None else dense_as(residual, x)
    blocks = up(x[0, 0].numel(), config.pixels) if x.numel() else 0
    with device_of(x):
        for first, count in launches(x.shape[0] * blocks, MOST_PROGRAMS):
            triton_mix.mix[(count,)](
                x,
                *_matrix(mix_weight, mix_bias),
                dense_as(gate, x),
                *_matrix(out_weight, out_bias),
                residual,
                out,
                *_sizes(x),
                blocks,
                first,
                CHANNELS=padded,
                **_constants(x, config),
            )
    return out.to(x.dtype)


def _pointwise(
    x: Tensor, weight: Tensor, bias: Tensor | None, gate: Tensor | None, residual: Tensor | None, config: Config
) -> Tensor:
    out = torch.empty_like(x, dtype=stored(x.dtype), memory_format=layout_of(x))
    gate, residual = (None if each is None else dense_as(each, x) for each in (gate, residual))
    blocks = up(x[0, 0].numel(), config.pixels) if x.numel() else 0
    channel_blocks = up(x.shape[1], config.channels)
    with device_of(x):
        for first, count in launches(x.shape[0] * blocks * channel_blocks, MOST_PROGRAMS):
            triton_mix.pointwise[(count,)](
                x,
                *_matrix(weight, bias),
                gate,
                residual,
                out,
                *_sizes(x),
                blocks,
                channel_blocks,
                first,
                CHANNELS=config.channels,
                **_constants(x, config),
            )
    return out.to(x.dtype)


def backward(grads: list[Tensor], wanted: list[bool], *args: object) -> list[Tensor]:
    return gradients.backward(convolve, weight_gradients, grads, wanted, *args)  # type: ignore[arg-type]


def _matrix(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return weight.contiguous(), None if bias is None else bias.contiguous()


def _sizes(x: Tensor) -> tuple[int, int, int, int]:
    """Channels, pixels, and from channel to channel and pixel to pixel."""
    _, channels, height, width = x.shape
    last = layout_of(x) == torch.channels_last
    return channels, height * width, 1 if last else height * width, channels if last else 1


def _constants(x: Tensor, config: Config) -> dict[str, object]:
    return {
        "SUM": accumulator(x.dtype),
        "FACTOR": factor(x.dtype),
        "WIDE": wide(x),
        "PIXELS": config.pixels,
        "DEPTH": config.depth,
        **options(config.warps),
    }
