"""The arguments of multi_attention as its kernels take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..functional import layout_of
from ..split_distillation.backward import sliced


@dataclass(frozen=True)
class Found:
    """What a forward pass finds besides its result. "Wide" is float64 for float64, else float32."""

    pooled: Tensor | None  # wide [N, 2 parts, H, W]: mean and maximum over the channels of each part by turns
    gates: Tensor  # wide [N, parts, H, W]
    means: Tensor  # float64, part after part [N, C_k]: of the spatially attended parts
    scales: Tensor  # wide, as means: the channel attention

    def raw(self) -> tuple[Any, ...]:
        """What every raw operator takes after the arguments of the call."""
        return self.pooled, self.gates, self.means, self.scales


@dataclass(frozen=True)
class Call:
    """The arguments of one call, with pictures as kernels take them and everything else contiguous."""

    parts: list[Tensor]  # each [N, C_k, H, W], sliced, in one layout
    pixel_weights: list[Tensor]  # each [C_k, C_k, 1, 1]
    pixel_biases: list[Tensor]  # each [C_k]
    spatial_weights: list[Tensor]  # each [1, 2, K, K]
    down_weights: list[Tensor]  # each [R_k, C_k, 1, 1]
    down_biases: list[Tensor]  # each [R_k]
    up_weights: list[Tensor]  # each [C_k, R_k, 1, 1]
    up_biases: list[Tensor]  # each [C_k]
    out_weight: Tensor | None  # [C_out, sum of C_k, 1, 1]
    out_bias: Tensor | None  # [C_out]
    residual: Tensor | None  # [N, C_out or sum of C_k, H, W], sliced
    layout: torch.memory_format  # of results and gradients

    @property
    def channels(self) -> list[int]:
        """C_k of each part."""
        return [part.shape[1] for part in self.parts]

    @property
    def wide(self) -> torch.dtype:
        """What the kernels compute in."""
        return torch.float64 if self.parts[0].dtype == torch.float64 else torch.float32

    @property
    def out_channels(self) -> int:
        """Channels of the result."""
        return sum(self.channels) if self.out_weight is None else len(self.out_weight)

    def by_part(self, planes: Tensor) -> list[Tensor]:  # each [N, C_k]
        """The numbers of each part, of such as stand part after part."""
        n, found, begin = self.parts[0].shape[0], [], 0
        for channels in self.channels:
            found.append(planes[begin : begin + n * channels].view(n, channels))
            begin += n * channels
        return found

    def to_find(self, pooled: bool) -> Found:
        """Memory for what forward finds."""
        n, _, h, w = self.parts[0].shape
        count, planes, device = len(self.parts), n * sum(self.channels), self.parts[0].device
        return Found(
            torch.empty((n, 2 * count, h, w), dtype=self.wide, device=device) if pooled else None,
            torch.empty((n, count, h, w), dtype=self.wide, device=device),
            torch.empty(planes, dtype=torch.float64, device=device),
            torch.empty(planes, dtype=self.wide, device=device),
        )

    def raw(self) -> tuple[Any, ...]:
        """What every raw operator takes first."""
        small = self.pixel_weights, self.pixel_biases, self.spatial_weights
        gates = self.down_weights, self.down_biases, self.up_weights, self.up_biases
        ends = self.out_weight, self.out_bias, self.residual, self.layout == torch.channels_last
        return (self.parts, *small, *gates, *ends)


def call_of(
    parts: list[Tensor],  # each [N, C_k, H, W]
    pixel_weights: list[Tensor],  # each [C_k, C_k, 1, 1]
    pixel_biases: list[Tensor],  # each [C_k]
    spatial_weights: list[Tensor],  # each [1, 2, K, K]
    down_weights: list[Tensor],  # each [R_k, C_k, 1, 1]
    down_biases: list[Tensor],  # each [R_k]
    up_weights: list[Tensor],  # each [C_k, R_k, 1, 1]
    up_biases: list[Tensor],  # each [C_k]
    out_weight: Tensor | None,  # [C_out, sum of C_k, 1, 1]
    out_bias: Tensor | None,  # [C_out]
    residual: Tensor | None,  # [N, C_out or sum of C_k, H, W]
) -> Call:
    layout = layout_of(parts[0])

    def packed(values: list[Tensor]) -> list[Tensor]:
        return [each.contiguous() for each in values]

    return Call(
        [sliced(part, layout) for part in parts],
        packed(pixel_weights),
        packed(pixel_biases),
        packed(spatial_weights),
        packed(down_weights),
        packed(down_biases),
        packed(up_weights),
        packed(up_biases),
        None if out_weight is None else out_weight.contiguous(),
        None if out_bias is None else out_bias.contiguous(),
        None if residual is None else sliced(residual, layout),
        layout,
    )
