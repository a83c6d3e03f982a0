"""HASN, the hybrid attention separable network: exactly as its authors released it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lightsr_kernels as ops

from ..errors import InputError
from .base import LARGEST_WIDTH, Block, SRNetwork, Tail, convolve, tail_scale
from .spatial_gate import SpatialGate

SMALLEST = 15  # pixels a side below which the spatial gate's pooling has no window left


class ChannelAttentionBlock(Block):
    """CAB: two 3x3 convolutions through a bottleneck, then a scale for each channel from its mean. No residual."""

    def __init__(self, channels: int, bottleneck: int, squeeze: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(channels, bottleneck, 3, padding=1)
        self.widen = nn.Conv2d(bottleneck, channels, 3, padding=1)
        self.down = nn.Conv2d(channels, squeeze, 1)
        self.up = nn.Conv2d(squeeze, channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W]
        h = convolve(self.narrow, x, self.use_fused, "gelu")
        widen, down, up = self.widen, self.down, self.up
        if self.use_fused:
            return ops.attended_conv(h, widen.weight, widen.bias, down.weight, down.bias, up.weight, up.bias)
        y: Tensor = widen(h)
        mean = y.mean((2, 3), keepdim=True)
        return y * torch.sigmoid(up(F.relu(down(mean))))


class HybridAttentionBlock(Block):
    """HASB: x + depthwise(out(relu6(a) * b + gate(c))), with a, b, c of norm(depthwise(x)); then CAB."""

    def __init__(self, channels: int, hidden: int, gate: int, bottleneck: int, squeeze: int) -> None:
        super().__init__()
        self.depthwise_in = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.a = nn.Conv2d(channels, hidden, 1)
        self.b = nn.Conv2d(channels, hidden, 1)
        self.c = nn.Conv2d(channels, hidden, 1)
        self.gate = SpatialGate(hidden, gate)
        self.out = nn.Conv2d(hidden, channels, 1)
        self.depthwise_out = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.attention = ChannelAttentionBlock(channels, bottleneck, squeeze)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W], H and W at least 15
        if self.use_fused:
            return self._fused(x)
        n = self.norm(self.depthwise_in(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        star = F.relu6(self.a(n)) * self.b(n) + self.gate(self.c(n))
        return self.attention(x + self.depthwise_out(self.out(star)))  # type: ignore[no-any-return]

    def _fused(self, x: Tensor) -> Tensor:
        gate = self.gate
        layers = (self.a, self.b, self.c, gate.entry, gate.stride, gate.pool, gate.skip, gate.exit, self.out)
        parameters: list[Any] = [each for layer in layers for each in (layer.weight, layer.bias)]
        t = ops.depthwise_conv(x, self.depthwise_in.weight, self.depthwise_in.bias)
        u = ops.gated_pointwise(t, self.norm.weight, self.norm.bias, *parameters, eps=self.norm.eps)
        v = ops.depthwise_conv(u, self.depthwise_out.weight, self.depthwise_out.bias, residual=x)
        return self.attention(v)  # type: ignore[no-any-return]


class HASN(SRNetwork):
    """HASN: 6 hybrid attention blocks in plain sequence, 435,272 parameters for x4.

    Args:
        scale: 2, 3 or 4. The authors released x4 only.
        channels: width of the blocks.
        blocks: how many.
        hidden: width of the star operation, 3 * channels as published.
        gate: width inside the spatial gate (ESA).
        bottleneck: width inside CAB, channels // 3 as published.
        squeeze: width inside CAB's channel attention, channels // 30 as published.
        use_fused: runs the blocks on `lightsr_kernels` ops.

    Input and result are as SRNetwork says; a picture below 15 pixels a side is extended to 15 by repeating its last
    row and column, and the result cropped. Initial values are PyTorch's defaults, as in the authors' code.

    Source: arXiv 2410.09844 and the authors' code, github.com/nathan66666/HASN (basicsr/archs/hasn_arch.py).

    Example:
        >>> import torch
        >>> from lightsr.networks.hasn import HASN
        >>> HASN(scale=2)(torch.rand(1, 3, 20, 33)).shape
        torch.Size([1, 3, 40, 66])
    """

    name = "hasn"
    title = "HASN"
    source = "arXiv 2410.09844 and the authors' released code; nothing is reconstruction"
    exact_tiles = False  # CAB averages over the whole picture, and ESA stretches its pooled map over it

    def __init__(
        self,
        scale: int = 4,
        *,
        channels: int = 52,
        blocks: int = 6,
        hidden: int = 156,
        gate: int = 16,
        bottleneck: int = 17,
        squeeze: int = 1,
        use_fused: bool = False,
    ) -> None:
        super().__init__(scale, use_fused)
        widths = (channels, hidden, gate, bottleneck, squeeze)
        if min(blocks, *widths) < 1:
            raise InputError(f"{self.name}: blocks and every width must be at least 1; got {blocks} and {widths}")
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.ModuleList(HybridAttentionBlock(*widths) for _ in range(blocks))
        self.body_end = nn.Conv2d(channels, channels, 3, padding=1)
        self.tail = Tail(channels, scale)
        self.set_fused(use_fused)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 3, scale*H, scale*W]
        h, w = x.shape[2:]
        if h < SMALLEST or w < SMALLEST:
            x = F.pad(x, (0, max(SMALLEST - w, 0), 0, max(SMALLEST - h, 0)), mode="replicate")
        shallow = y = convolve(self.head, x, self.use_fused)
        for block in self.blocks:
            y = block(y)
        out: Tensor = self.tail(convolve(self.body_end, y, self.use_fused, residual=shallow))
        return out[:, :, : h * self.scale, : w * self.scale]

    @property
    def radius(self) -> int:
        """Reach of the local path alone: head 1, each block 3 + 3 + 1 + 1, the last two convolutions 1 each.

        The pooled paths reach further and are not in it: CAB's mean takes in the whole picture, and ESA's gate a pooled
        map whose cells move with the picture's size.
        """
        return 1 + 8 * len(self.blocks) + 2

    @classmethod
    def config_of(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any] | None:
        scale = tail_scale(state_dict)
        parts = {
            "channels": "depthwise_in",
            "hidden": "a",
            "gate": "gate.entry",
            "bottleneck": "attention.narrow",
            "squeeze": "attention.down",
        }
        weights = {name: state_dict.get(f"blocks.0.{part}.weight") for name, part in parts.items()}
        widths = {name: weight.shape[0] for name, weight in weights.items() if weight is not None and weight.dim() == 4}
        if scale is None or len(widths) < len(parts) or not all(1 <= each <= LARGEST_WIDTH for each in widths.values()):
            return None
        blocks = 1
        while f"blocks.{blocks}.depthwise_in.weight" in state_dict:
            blocks += 1
        return {"scale": scale, "blocks": blocks, **widths}

    @staticmethod
    def from_released(state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return from_released(state_dict)


RELEASED = {"conv_1": "head", "conv_2": "body_end", "upsampler.0": "tail.0"}
RELEASED_BLOCK = {
    "dwconv.conv": "depthwise_in",
    "ln": "norm",
    "f1.conv": "a",
    "f2.conv": "b",
    "f3.conv": "c",
    "esa.conv1": "gate.entry",
    "esa.conv2": "gate.stride",
    "esa.conv3": "gate.pool",
    "esa.conv_f": "gate.skip",
    "esa.conv4": "gate.exit",
    "g.conv": "out",
    "dwconv2.conv": "depthwise_out",
    "cab.cab.0": "attention.narrow",
    "cab.cab.2": "attention.widen",
    "cab.cab.3.attention.1": "attention.down",
    "cab.cab.3.attention.3": "attention.up",
}


def from_released(state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Renames the keys of the authors' checkpoint to ours; a key it does not know, ours among them, stays as it is.

    ================================  ======================================
    authors' (.weight and .bias)      ours
    ================================  ======================================
    conv_1                            head
    block_K.dwconv.conv, K from 1     blocks.K-1.depthwise_in
    block_K.ln                        blocks.K-1.norm
    block_K.f1.conv, f2, f3           blocks.K-1.a, b, c
    block_K.esa.conv1                 blocks.K-1.gate.entry
    block_K.esa.conv2                 blocks.K-1.gate.stride
    block_K.esa.conv3                 blocks.K-1.gate.pool
    block_K.esa.conv_f                blocks.K-1.gate.skip
    block_K.esa.conv4                 blocks.K-1.gate.exit
    block_K.g.conv                    blocks.K-1.out
    block_K.dwconv2.conv              blocks.K-1.depthwise_out
    block_K.cab.cab.0                 blocks.K-1.attention.narrow
    block_K.cab.cab.2                 blocks.K-1.attention.widen
    block_K.cab.cab.3.attention.1     blocks.K-1.attention.down
    block_K.cab.cab.3.attention.3     blocks.K-1.attention.up
    conv_2                            body_end
    upsampler.0                       tail.0
    ================================  ======================================
    """
    renamed = {key: _ours(key) for key in state_dict}
    # Where both names are there, the file is nobody's release: nothing may be overwritten.
    return {key if renamed[key] in state_dict else renamed[key]: value for key, value in state_dict.items()}


def _ours(key: str) -> str:
    module, _, kind = key.rpartition(".")
    block = re.fullmatch(r"block_([1-9]\d{0,3})\.(.+)", module, re.ASCII)
    if block and block[2] in RELEASED_BLOCK:
        return f"blocks.{int(block[1]) - 1}.{RELEASED_BLOCK[block[2]]}.{kind}"
    return f"{RELEASED[module]}.{kind}" if module in RELEASED else key
