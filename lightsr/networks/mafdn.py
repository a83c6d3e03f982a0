"""MAFDN, a multi-attention fusion distillation network with DO-Conv: a reconstruction from its abstract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lightsr_kernels as ops

from ..errors import InputError
from .base import LARGEST_WIDTH, Block, FoldableConv2d, Join, SRNetwork, Tail, convolve, leaky_relu, tail_scale

BRANCHES = 4  # of a block; one more than it has 3x3 convolutions


class DOConv2d(FoldableConv2d):
    """Depthwise over-parameterised convolution: a matrix for each input channel mixes the filter's taps.

    With taps m and s from 0 to K*K-1: filter[o, i, m] = sum_s (depth + I)[i, m, s] * weight[o, i, s]. `depth` starts
    at 0, so that training starts from the plain convolution. Keep weight decay off it: that would pull it back there.

    Source: DO-Conv, arXiv 2006.12030, and its released code, yangyanli/DO-Conv.
    """

    extra = ("depth",)
    depth: nn.Parameter  # [C_in, K*K, K*K]

    def __init__(self, c_in: int, c_out: int, kernel_size: int, folded: bool) -> None:
        super().__init__(c_in, c_out, kernel_size)
        if not folded:
            self.depth = nn.Parameter(torch.zeros(c_in, kernel_size**2, kernel_size**2))

    def merged_weight(self) -> Tensor:  # [C_out, C_in, K, K]
        mixed = torch.einsum("ims,ois->oim", self.depth, self.weight.flatten(2))
        return self.weight + mixed.reshape(self.weight.shape)


class MultiAttention(nn.Module):
    """MA: a gate for every value (as in PAN), then one for every pixel (as in CBAM), then one for every channel."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.pixel = nn.Conv2d(channels, channels, 1)
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.down = nn.Conv2d(channels, squeezed, 1)
        self.up = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W]
        z = x * torch.sigmoid(self.pixel(x))
        z = z * torch.sigmoid(self.spatial(torch.cat([z.mean(1, keepdim=True), z.amax(1, keepdim=True)], dim=1)))
        return z * torch.sigmoid(self.up(F.relu(self.down(z.mean((2, 3), keepdim=True)))))


class MultiAttentionDistillation(Block):
    """MAFDB: three residual 3x3 DO-Convs in a row (OPCRB), and a branch with its own attention before, between, after.

    x_k = lrelu(refine_k(x_{k-1}) + x_{k-1});  p_k = attention_k(lrelu(distill_k(x_{k-1})));  out = x + fusion(cat(p))
    """

    def __init__(self, channels: int, distilled: int, squeezed: int, folded: bool) -> None:
        super().__init__()
        self.distill = nn.ModuleList(nn.Conv2d(channels, distilled, 1) for _ in range(BRANCHES))
        self.refine = nn.ModuleList(DOConv2d(channels, channels, 3, folded) for _ in range(BRANCHES - 1))
        self.attention = nn.ModuleList(MultiAttention(distilled, squeezed) for _ in range(BRANCHES))
        self.fusion = nn.Conv2d(BRANCHES * distilled, channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W]
        if self.use_fused:
            return self._fused(x)
        parts, rest = [], x
        for k in range(BRANCHES):
            if k > 0:
                rest = leaky_relu(self.refine[k - 1](rest) + rest)
            parts.append(self.attention[k](leaky_relu(self.distill[k](rest))))
        return x + self.fusion(torch.cat(parts, dim=1))  # type: ignore[no-any-return]

    def _fused(self, x: Tensor) -> Tensor:
        """One call a branch, which begins with the 3x3 before it, and one for attention."""
        parts, rest = [], x
        for k in range(BRANCHES):
            first, last = k == 0, k == BRANCHES - 1
            conv: Any = None if first else self.refine[k - 1]
            distill: Any = self.distill[k]
            part, passed = ops.split_distillation(
                rest,
                convolution=None if first else conv.current_weight(),
                bias=None if first else conv.bias,
                residual=None if first else rest,
                activation="none" if first else "leaky_relu",
                negative_slope=0.05,
                weight=distill.weight,
                weight_bias=distill.bias,
                keep=not (first or last),
            )
            parts.append(part)
            rest = rest if first else passed
        units: list[Any] = list(self.attention)
        return ops.multi_attention(
            parts,
            [unit.pixel.weight for unit in units],
            [unit.pixel.bias for unit in units],
            [unit.spatial.weight for unit in units],
            [unit.down.weight for unit in units],
            [unit.down.bias for unit in units],
            [unit.up.weight for unit in units],
            [unit.up.bias for unit in units],
            out_weight=self.fusion.weight,
            out_bias=self.fusion.bias,
            residual=x,
        )


class MAFDN(SRNetwork):
    """MAFDN: 6 multi-attention distillation blocks, 596,904 parameters for x4 when folded, 672,720 in training form.

    Args:
        scale: 2, 3 or 4.
        channels: width of the network.
        blocks: how many blocks.
        distilled: width of each of a block's four branches.
        squeezed: hidden width of the channel attention.
        folded: builds the plain 3x3 convolutions of inference, without DO-Conv's `depth`.
        use_fused: runs the blocks on `lightsr_kernels` ops.

    Input and result are as SRNetwork says. Initial values are PyTorch's defaults, and 0 for every `depth`, which weight
    decay should leave alone.

    Source: the paper's abstract (Int. J. Intelligent Systems 2024, DOI 10.1155/2024/3255233). The paper's figures,
    tables and code were not at hand: the wiring is a reconstruction, told block by block in docs/networks/mafdn.md.

    Example:
        >>> import torch
        >>> from lightsr.networks.mafdn import MAFDN
        >>> MAFDN(scale=2, folded=True)(torch.rand(1, 3, 20, 33)).shape
        torch.Size([1, 3, 40, 66])
    """

    name = "mafdn"
    title = "MAFDN"
    source = "Int. J. Intelligent Systems 2024, DOI 10.1155/2024/3255233; a reconstruction from its abstract"
    exact_tiles = False  # the channel attention takes means over the whole picture

    def __init__(
        self,
        scale: int = 4,
        *,
        channels: int = 52,
        blocks: int = 6,
        distilled: int = 26,
        squeezed: int = 6,
        folded: bool = False,
        use_fused: bool = False,
    ) -> None:
        super().__init__(scale, use_fused)
        if min(channels, blocks, distilled, squeezed) < 1:
            raise InputError(
                f"{self.name}: channels, blocks, distilled and squeezed must be at least 1; "
                f"got {channels}, {blocks}, {distilled} and {squeezed}"
            )
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            MultiAttentionDistillation(channels, distilled, squeezed, folded) for _ in range(blocks)
        )
        self.fusion = nn.Conv2d(blocks * channels, channels, 1)
        self.body_end = nn.Conv2d(channels, channels, 3, padding=1)
        self.tail = Tail(channels, scale)
        self.set_fused(use_fused)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 3, scale*H, scale*W]
        shallow = y = convolve(self.head, x, self.use_fused)
        outputs = Join(self.fusion, self.use_fused)
        for block in self.blocks:
            y = block(y)
            outputs.add(y)
        y = convolve(self.body_end, outputs.result(), self.use_fused, residual=shallow)
        return self.tail(y)  # type: ignore[no-any-return]

    @property
    def radius(self) -> int:
        """Head, body end and upsampler reach 1 each, a block 3 by its 3x3 convolutions and 3 by its 7x7 attention.

        The channel attention's mean over the whole picture is left aside.
        """
        return 3 + 6 * len(self.blocks)

    @classmethod
    def config_of(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any] | None:
        scale = tail_scale(state_dict)
        block = "blocks.0.attention.0."
        found = [state_dict.get(key) for key in ("head.weight", f"{block}pixel.weight", f"{block}down.weight")]
        widths = [weight.shape[0] for weight in found if weight is not None and weight.dim() == 4]
        if scale is None or len(widths) != len(found) or not 1 <= min(widths) <= max(widths) <= LARGEST_WIDTH:
            return None
        channels, distilled, squeezed = widths
        blocks = 1
        while f"blocks.{blocks}.fusion.weight" in state_dict:
            blocks += 1
        return {
            "scale": scale,
            "channels": channels,
            "blocks": blocks,
            "distilled": distilled,
            "squeezed": squeezed,
            "folded": not any(key.endswith(".depth") for key in state_dict),
        }
