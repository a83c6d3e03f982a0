"""The parts of ASID that IDSA-Net shares: local blocks, attention with shared maps, feed-forward, channel attention.

Source of every part here: ASID, arXiv 2501.15774, and its released code, saturnian77/ASID (ops/IDSA.py).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lightsr_kernels as ops
from lightsr_kernels.functional import channel_norm, from_sets, to_sets

from .base import Block

WINDOW = 8  # pixels a side, of windows and of grid sets alike


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, eps: float) -> Tensor:  # [N, C, H, W]
        # Callers give eps as a literal: torch.compile(dynamic=True) takes a float attribute for a variable, and traces
        # everything a second time when it finds that it is none.
        return channel_norm(x, self.weight, self.bias, eps)


class LocalBlock(Block):
    """LB: 1x1, depthwise 3x3, squeeze-and-excitation, 1x1, and the input added (inverted residual of expansion 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, channels, 1)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.squeeze = nn.Linear(channels, channels // 4, bias=False)
        self.excite = nn.Linear(channels // 4, channels, bias=False)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W]
        if self.use_fused:
            h = ops.distillation_fusion([x], self.expand.weight, self.expand.bias, activation="gelu")
            h = ops.depthwise_conv(h, self.depthwise.weight, self.depthwise.bias, activation="gelu")
            # The gate scales the input columns of the 1x1, so the gated picture is never written.
            return ops.distillation_fusion([h], self.project.weight, self.project.bias, scale=self.gate(h), residual=x)
        h = F.gelu(self.depthwise(F.gelu(self.expand(x))))
        return self.project(h * self.gate(h)) + x  # type: ignore[no-any-return]

    def gate(self, h: Tensor) -> Tensor:  # [N, C, H, W] -> [N, C, 1, 1]
        """How much of each channel passes, from its mean over the picture."""
        return torch.sigmoid(self.excite(F.silu(self.squeeze(h.mean((2, 3))))))[:, :, None, None]


class GatedFeedForward(Block):
    """GDFN with its norm and residual: 1x1 to twice the width, depthwise 3x3, one half gates the other, 1x1 back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.expand = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels, bias=False)
        self.project = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W]
        if self.use_fused:
            return ops.gated_feed_forward(
                x,
                self.norm.weight,
                self.norm.bias,
                self.expand.weight,
                self.depthwise.weight,
                self.project.weight,
                eps=1e-6,
            )
        gate, value = self.depthwise(self.expand(self.norm(x, 1e-6))).chunk(2, dim=1)
        return x + self.project(F.gelu(gate) * value)  # type: ignore[no-any-return]


class SharedAttention(Block):
    """SLA (`grid=False`) or SGA (`grid=True`): one-head self-attention in sets of 64 pixels, then GatedFeedForward.

    A set is an 8x8 window, or for SGA an 8x8 grid spread over the whole picture. Only a block that `makes_maps` has
    queries, keys and a position table; every other one is given the maps of such a block and has values alone.
    """

    offsets: Tensor  # [64, 64]

    def __init__(self, channels: int, grid: bool, makes_maps: bool) -> None:
        super().__init__()
        self.grid, self.makes_maps = grid, makes_maps
        self.norm = ChannelNorm(channels)
        if makes_maps:
            self.query_key = nn.Linear(channels, 2 * channels, bias=False)
            self.position = nn.Parameter(torch.randn((2 * WINDOW - 1) ** 2))  # nn.Embedding's initial values, as ASID
            self.register_buffer("offsets", position_offsets(), persistent=False)
        self.value = nn.Linear(channels, channels, bias=False)
        self.project = nn.Linear(channels, channels, bias=False)
        self.feed_forward = GatedFeedForward(channels)

    def forward(self, x: Tensor, maps: Tensor | None) -> tuple[Tensor, Tensor]:
        """[N, C, H, W] and maps [N*sets, 64, 64] (None where they are made here) -> the same two."""
        if self.use_fused:
            return self._fused(x, maps)
        tokens = to_sets(self.norm(x, 1e-5), WINDOW, self.grid)  # [N*sets, 64, C]
        if maps is None:
            query, key = self.query_key(tokens).chunk(2, dim=-1)
            scores = query @ key.transpose(1, 2) * x.shape[1] ** -0.5
            maps = F.softmax(scores + self.position[self.offsets], dim=-1)
        attended = self.project(maps @ self.value(tokens))
        x = x + from_sets(attended, x.shape, WINDOW, self.grid)
        return self.feed_forward(x), maps

    def _fused(self, x: Tensor, maps: Tensor | None) -> tuple[Tensor, Tensor]:
        norm = (self.norm.weight, self.norm.bias)
        sets: dict[str, Any] = {"window": WINDOW, "grid": self.grid, "eps": 1e-5}
        if maps is None:
            maps = ops.attention_maps(x, *norm, self.query_key.weight, self.position, **sets)
        x = ops.window_attention(x, maps, *norm, self.value.weight, self.project.weight, **sets)
        return self.feed_forward(x), maps


def position_offsets() -> Tensor:  # [64, 64]
    """Where in the position table [15*15] the bias of query token i towards key token j stands: row-major i - j + 7."""
    side = torch.arange(WINDOW)
    token = torch.stack(torch.meshgrid(side, side, indexing="ij")).flatten(1)  # [2, 64]: row and column
    offsets: Tensor = token[:, :, None] - token[:, None, :] + WINDOW - 1
    return offsets[0] * (2 * WINDOW - 1) + offsets[1]


class ChannelAttention(Block):
    """Attention among channels, with its norm and residual: each set of pixels has its own C x C map.

    Sets are the 8x8 windows or, with `grid`, the 64 pictures that every eighth pixel of every eighth row makes.
    """

    def __init__(self, channels: int, grid: bool) -> None:
        super().__init__()
        self.grid = grid
        self.norm = ChannelNorm(channels)
        self.temperature = nn.Parameter(torch.ones(1))
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.depthwise = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False)
        self.project = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W]
        h = self.query_key_value(self.norm(x, 1e-6))
        h = ops.depthwise_conv(h, self.depthwise.weight) if self.use_fused else self.depthwise(h)
        query, key, value = self._channels(h).chunk(3, dim=-2)  # [N, sets, C, pixels] each
        maps = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-2, -1)
        attended = F.softmax(maps * self.temperature, dim=-1) @ value
        return x + self.project(self._picture(attended, x.shape))  # type: ignore[no-any-return]

    def _channels(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, sets, C, pixels]
        n, c, h, w = x.shape
        rows, columns = h // WINDOW, w // WINDOW
        x = x.reshape(n, c, rows, WINDOW, columns, WINDOW)
        if self.grid:
            return x.permute(0, 3, 5, 1, 2, 4).reshape(n, WINDOW * WINDOW, c, rows * columns)
        return x.permute(0, 2, 4, 1, 3, 5).reshape(n, rows * columns, c, WINDOW * WINDOW)

    def _picture(self, x: Tensor, shape: torch.Size) -> Tensor:  # [N, sets, C, pixels] -> [N, C, H, W]
        n, c, h, w = shape
        rows, columns = h // WINDOW, w // WINDOW
        if self.grid:
            x = x.reshape(n, WINDOW, WINDOW, c, rows, columns).permute(0, 3, 4, 1, 5, 2)
        else:
            x = x.reshape(n, rows, columns, c, WINDOW, WINDOW).permute(0, 3, 1, 4, 2, 5)
        return x.reshape(n, c, h, w)


class ChannelBlock(nn.Sequential):
    """BlockC: channel attention in windows, feed-forward, channel attention on the grid, feed-forward."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            ChannelAttention(channels, grid=False),
            GatedFeedForward(channels),
            ChannelAttention(channels, grid=True),
            GatedFeedForward(channels),
        )
