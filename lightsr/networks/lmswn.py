"""LMSWN, a lightweight multi-scale weighted network: a reconstruction from its abstract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lightsr_kernels as ops

from ..errors import InputError
from .base import LARGEST_WIDTH, Block, FoldableConv2d, Join, SRNetwork, Tail, convolve, leaky_relu, tail_scale

STAGES = 4  # convolutions of a module


class AsymmetricConv2d(FoldableConv2d):
    """ACNet's convolution: a 3x3, a 1x3 and a 3x1 side by side and summed, which fold into one 3x3."""

    extra = ("horizontal", "vertical")
    horizontal: nn.Parameter  # [C_out, C_in, 1, 3]
    vertical: nn.Parameter  # [C_out, C_in, 3, 1]

    def __init__(self, channels: int, folded: bool) -> None:
        super().__init__(channels, channels, 3)
        if not folded:
            self.horizontal = nn.Parameter(nn.Conv2d(channels, channels, (1, 3)).weight.detach())
            self.vertical = nn.Parameter(nn.Conv2d(channels, channels, (3, 1)).weight.detach())

    def merged_weight(self) -> Tensor:  # [C_out, C_in, 3, 3]
        return self.weight + F.pad(self.horizontal, (0, 0, 1, 1)) + F.pad(self.vertical, (1, 1, 0, 0))


class PyramidHead(Block):
    """Shallow features at three scales: 3x3, 5x5 and 7x7 convolutions side by side, mixed by a 1x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        quarter = channels // 4
        widths = {3: channels - 2 * quarter, 5: quarter, 7: quarter}
        self.scales = nn.ModuleList(nn.Conv2d(3, width, k, padding=k // 2) for k, width in widths.items())
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, C, H, W]
        features = [convolve(each, x, self.use_fused, "leaky_relu") for each in self.scales]  # type: ignore[arg-type]
        if self.use_fused:
            return ops.distillation_fusion(features, self.mix.weight, self.mix.bias)
        return self.mix(torch.cat(features, dim=1))  # type: ignore[no-any-return]


class DistillationStage(Block):
    """h = leaky_relu(conv(x) + x): the first `split` channels are kept, through a 1x1, and the rest goes on."""

    def __init__(self, channels: int, split: int, folded: bool) -> None:
        super().__init__()
        self.split = split
        self.conv = AsymmetricConv2d(channels, folded)
        self.distill = nn.Conv2d(split, split, 1) if split < channels else None  # the last stage keeps all, as it is

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # [N, C, H, W] -> [N, split, H, W], [N, C - split, H, W]
        if self.use_fused:
            return self._fused(x)
        h = leaky_relu(self.conv(x) + x)
        kept, rest = h[:, : self.split], h[:, self.split :]
        return kept if self.distill is None else leaky_relu(self.distill(kept)), rest

    def _fused(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first: dict[str, Any] = {"convolution": self.conv.current_weight(), "bias": self.conv.bias, "residual": x}
        if self.distill is None:
            return ops.split_distillation(x, keep=False, **first)
        weight, weight_bias = self.distill.weight, self.distill.bias
        return ops.split_distillation(x, self.split, weight=weight, weight_bias=weight_bias, **first)


class WeightedDistillation(Block):
    """The module: out = fusion_gain * fusion(cat of what four stages kept) + residual_gain * x."""

    def __init__(self, channels: int, distilled: int, folded: bool) -> None:
        super().__init__()
        widths = [channels - k * distilled for k in range(STAGES)]
        splits = [distilled] * (STAGES - 1) + widths[-1:]
        self.stages = nn.ModuleList(DistillationStage(*each, folded) for each in zip(widths, splits, strict=True))
        self.fusion = nn.Conv2d(channels, channels, 1)
        self.fusion_gain = nn.Parameter(torch.ones(()))
        self.residual_gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W]
        parts, rest = [], x
        for stage in self.stages:
            kept, rest = stage(rest)
            parts.append(kept)
        fusion, gain, residual_gain = self.fusion, self.fusion_gain, self.residual_gain
        if self.use_fused:
            return ops.distillation_fusion(
                parts, fusion.weight, fusion.bias, gain=gain, residual=x, residual_gain=residual_gain
            )
        return gain * fusion(torch.cat(parts, dim=1)) + residual_gain * x  # type: ignore[no-any-return]


class LMSWN(SRNetwork):
    """LMSWN: 6 weighted distillation modules, 543,452 parameters for x4 when folded, 819,932 in training form.

    Args:
        scale: 2, 3 or 4.
        channels: width of the network, more than 3 * distilled.
        blocks: how many modules.
        distilled: channels that each of a module's first three stages keeps.
        folded: builds the plain 3x3 convolutions of inference, without the asymmetric ones of training.
        use_fused: runs the modules on `lightsr_kernels` ops.

    Input and result are as SRNetwork says. Initial values are PyTorch's defaults, and 1 for the two gains.

    Source: the paper's abstract (Computer Engineering & Science 46(8):1433-1443, 2024). The paper's figures, tables and
    code were not at hand: the wiring is a reconstruction, told block by block in docs/networks/lmswn.md.

    Example:
        >>> import torch
        >>> from lightsr.networks.lmswn import LMSWN
        >>> LMSWN(scale=3, folded=True)(torch.rand(1, 3, 20, 33)).shape
        torch.Size([1, 3, 60, 99])
    """

    name = "lmswn"
    title = "LMSWN"
    source = "Computer Engineering & Science 46(8):1433-1443, 2024; a reconstruction from its abstract"
    exact_tiles = True
    multiple = 2  # Winograd's convolution rounds rows, and columns, of odd and even number in two ways

    def __init__(
        self,
        scale: int = 4,
        *,
        channels: int = 64,
        blocks: int = 6,
        distilled: int = 16,
        folded: bool = False,
        use_fused: bool = False,
    ) -> None:
        super().__init__(scale, use_fused)
        if blocks < 1 or distilled < 1 or channels <= (STAGES - 1) * distilled:
            raise InputError(
                f"{self.name}: blocks and distilled must be at least 1 and channels more than 3 * distilled; "
                f"got blocks {blocks}, distilled {distilled}, channels {channels}"
            )
        self.head = PyramidHead(channels)
        self.blocks = nn.ModuleList(WeightedDistillation(channels, distilled, folded) for _ in range(blocks))
        self.fusion = nn.Conv2d(blocks * channels, channels, 1)
        self.body_end = nn.Conv2d(channels, channels, 3, padding=1)
        self.tail = Tail(channels, scale)
        self.set_fused(use_fused)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 3, scale*H, scale*W]
        shallow = y = self.head(x)
        outputs = Join(self.fusion, self.use_fused)
        for block in self.blocks:
            y = block(y)
            outputs.add(y)
        y = convolve(self.body_end, outputs.result(), self.use_fused, residual=shallow)
        return self.tail(y)  # type: ignore[no-any-return]

    @property
    def radius(self) -> int:
        """The head's 7x7 reaches 3, each stage of a module 1, the last two convolutions 1 each."""
        return 3 + STAGES * len(self.blocks) + 2

    @classmethod
    def config_of(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any] | None:
        scale = tail_scale(state_dict)
        mix, distill = state_dict.get("head.mix.weight"), state_dict.get("blocks.0.stages.0.distill.weight")
        if scale is None or mix is None or mix.dim() != 4 or distill is None or distill.dim() != 4:
            return None
        channels, distilled = mix.shape[0], distill.shape[0]
        if not 3 <= (STAGES - 1) * distilled < channels <= LARGEST_WIDTH:
            return None
        blocks = 1
        while f"blocks.{blocks}.fusion.weight" in state_dict:
            blocks += 1
        folded = not any(key.endswith((".horizontal", ".vertical")) for key in state_dict)
        return {"scale": scale, "channels": channels, "blocks": blocks, "distilled": distilled, "folded": folded}
