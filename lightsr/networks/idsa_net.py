"""IDSA-Net, an information distillation network with shared attention: a reconstruction from its abstract and ASID."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lightsr_kernels as ops

from ..errors import InputError
from .asid import WINDOW, ChannelBlock, GatedFeedForward, LocalBlock, SharedAttention
from .base import LARGEST_WIDTH, Block, SRNetwork, Tail, convolve, tail_scale
from .spatial_gate import SpatialGate

STAGES = 3  # of a distillation block

CHOICES = {"lcipb": ("full", "lka", "none"), "where": ("all", "distill", "end"), "attention": ("inam", "esa")}

# The second reconstruction: ASID-D8 with cheap swaps. IDSANet(4, **R2) has 750,230 parameters.
R2: dict[str, Any] = {"channels": 48, "groups": 8, "blockc": True, "lcipb": "lka", "where": "end"}
# The published parents, built from the same parts: ASID's 313,104 and ASID-D8's 747,734 parameters prove those parts.
ASID: dict[str, Any] = {"channels": 48, "groups": 3, "blockc": True, "lcipb": "none", "attention": "esa"}
ASID_D8: dict[str, Any] = {**ASID, "groups": 8}


class PointwiseFusion(Block):
    """ASID's fusion of the parts of a stage: a 1x1 convolution of their concatenation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, parts: list[Tensor]) -> Tensor:  # [N, C_k, H, W] each -> [N, sum C_k, H, W]
        if self.use_fused:
            return ops.distillation_fusion(parts, self.mix.weight, self.mix.bias)
        return self.mix(torch.cat(parts, dim=1))  # type: ignore[no-any-return]


class LargeKernelPurification(Block):
    """LCIPB: shuffled channels, a gate with the reach of a 23x23 kernel (VAN's large kernel attention), a residual.

    full:  out = x + exit(u * mix(far(near(u)))),  u = shuffle(gelu(entry(x)))
    lka:   out = x + u * mix(far(near(u))),  u = shuffle(x)

    near is a depthwise 5x5, far a depthwise 7x7 of dilation 3. The parts of a stage are its channels; `chunks` is how
    many quarters of the network's width they make together.
    """

    order: Tensor  # [C]

    def __init__(self, channels: int, chunks: int, full: bool) -> None:
        super().__init__()
        self.full = full
        if full:
            self.entry = nn.Conv2d(channels, channels, 1)
        # ShuffleNet's order: the first channel of every chunk, then the second of every chunk, and so on.
        order = torch.arange(channels).reshape(chunks, -1).t().flatten()
        self.register_buffer("order", order, persistent=False)
        self.near = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.far = nn.Conv2d(channels, channels, 7, padding=9, dilation=3, groups=channels)
        self.mix = nn.Conv2d(channels, channels, 1)
        if full:
            self.exit = nn.Conv2d(channels, channels, 1)

    def forward(self, parts: list[Tensor]) -> Tensor:  # [N, C_k, H, W] each -> [N, sum C_k, H, W]
        if self.use_fused:
            return self._fused(parts)
        x = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        u = (F.gelu(self.entry(x)) if self.full else x)[:, self.order]
        gated = u * self.mix(self.far(self.near(u)))
        return x + (self.exit(gated) if self.full else gated)  # type: ignore[no-any-return]

    def _fused(self, parts: list[Tensor]) -> Tensor:
        """Parts are read where they lie, the shuffle is an order of the first 1x1's rows; the end of it is one call."""
        if self.full:
            weight = self.entry.weight.index_select(0, self.order)
            bias = self.entry.bias.index_select(0, self.order)  # type: ignore[union-attr]
            u = ops.distillation_fusion(parts, weight, bias, activation="gelu")
        else:
            parts = [torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]]
            u = parts[0][:, self.order]
        return ops.large_kernel_attention(
            u,
            self.near.weight,
            self.near.bias,
            self.far.weight,
            self.far.bias,
            self.mix.weight,
            self.mix.bias,
            dilation=3,
            out_weight=self.exit.weight if self.full else None,
            out_bias=self.exit.bias if self.full else None,
            residual=parts,
        )


class InstanceNormAttention(Block):
    """INAM: the input plus its instance-normalised self, gated by channel and by pixel.

    w = sigmoid(up(relu(down(mean + deviation)))) from the input's own statistics: after the norm they are constants.
    y = w * (weight * (x - mean) / sqrt(variance + eps) + bias);  out = x + y * sigmoid(spatial([mean_c y, max_c y]))
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.down = nn.Conv2d(channels, squeezed, 1)
        self.up = nn.Conv2d(squeezed, channels, 1)
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W]
        if self.use_fused:
            return ops.instance_norm_attention(
                x,
                self.weight,
                self.bias,
                self.down.weight,
                self.down.bias,  # type: ignore[arg-type]
                self.up.weight,
                self.up.bias,  # type: ignore[arg-type]
                self.spatial.weight,
                eps=1e-5,
            )
        value = x.to(torch.promote_types(x.dtype, torch.float32))  # 16 bits are too few for sums over a picture
        mean = value.mean((2, 3), keepdim=True)
        centred = value - mean
        variance = centred.square().mean((2, 3), keepdim=True)
        varies = variance > 0
        deviation = torch.where(varies, variance, 1.0).sqrt() * varies  # sqrt with gradient 0 at 0, not 1/0
        w = torch.sigmoid(self.up(F.relu(self.down((mean + deviation).to(x.dtype)))))
        normed = centred * (variance + 1e-5).rsqrt()
        y = w * (self.weight[:, None, None] * normed + self.bias[:, None, None]).to(x.dtype)
        pooled = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], dim=1)
        return x + y * torch.sigmoid(self.spatial(pooled))


class AttentionSharingDistillation(nn.Module):
    """ASDB: three stages of local block, window attention, grid attention and fusion, each narrower by a quarter.

    Of a stage's local block one quarter goes around the attention; of its fused result one quarter is kept for the end.
    The block that `makes_maps` returns its six attention maps, which every other one is given.
    """

    def __init__(self, channels: int, makes_maps: bool, lcipb: str, where: str, blockc: bool) -> None:
        super().__init__()
        self.quarter = quarter = channels // 4
        widths = [(4 - stage) * quarter for stage in range(STAGES)]
        self.local = nn.ModuleList(LocalBlock(width) for width in widths)
        self.windows = nn.ModuleList(SharedAttention(width - quarter, False, makes_maps) for width in widths)
        self.grids = nn.ModuleList(SharedAttention(width - quarter, True, makes_maps) for width in widths)
        self.fusions = nn.ModuleList()
        for stage, chunks in enumerate((4, 3, 4)):
            purifies = lcipb != "none" and (where == "all" or (where == "distill" and stage < 2))
            width = chunks * quarter
            self.fusions.append(
                LargeKernelPurification(width, chunks, lcipb == "full") if purifies else PointwiseFusion(width)
            )
        ends = lcipb != "none" and where == "end"
        self.purify = LargeKernelPurification(channels, 4, lcipb == "full") if ends else None
        self.channel_block = ChannelBlock(channels) if blockc else None

    def forward(self, x: Tensor, maps: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """[N, C, H, W] and the six maps, or None where they are made here -> the same two."""
        made, kept = [], []
        for stage, fusion in enumerate(self.fusions):
            x = self.local[stage](x)
            local, x = x[:, : self.quarter], x[:, self.quarter :]
            for half, attention in enumerate((self.windows[stage], self.grids[stage])):
                x, each = attention(x, maps[2 * stage + half] if maps else None)
                made.append(each)
            if stage < STAGES - 1:
                x = fusion([x, local])
                kept.append(x[:, : self.quarter])
                x = x[:, self.quarter :]
            else:
                x = fusion([*kept, x, local])
        if self.purify is not None:
            x = self.purify([x])
        if self.channel_block is not None:
            x = self.channel_block(x)
        return x, made


class Group(Block):
    """One step of the network: attention(x + mix(ASDB(x)))."""

    def __init__(
        self, channels: int, makes_maps: bool, lcipb: str, where: str, blockc: bool, attention: str, squeezed: int
    ) -> None:
        super().__init__()
        self.distillation = AttentionSharingDistillation(channels, makes_maps, lcipb, where, blockc)
        self.mix = nn.Conv2d(channels, channels, 1)
        self.attention: nn.Module
        if attention == "inam":
            self.attention = InstanceNormAttention(channels, squeezed)
        else:
            self.attention = SpatialGate(channels, max(channels // 4, 16))

    def forward(self, x: Tensor, maps: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        h, maps = self.distillation(x, maps)
        if self.use_fused:
            h = ops.distillation_fusion([h], self.mix.weight, self.mix.bias, residual=x)
        else:
            h = self.mix(h) + x
        return self.attention(h), maps


class IDSANet(SRNetwork):
    """IDSA-Net: 6 groups of shared-attention distillation, 749,458 parameters for x4 (reconstruction R1).

    Args:
        scale: 2, 3 or 4.
        channels: width of the network, a multiple of 4 from 8.
        groups: how many groups; the first makes the attention maps that all use.
        blockc: keeps ASID's channel attention at the end of each distillation block.
        lcipb: large-kernel purification "full" (between two 1x1 convolutions), "lka" (without them) or "none".
        where: it replaces "all" three fusions of a block, or the first two ("distill"), or stands after them ("end").
        attention: what ends a group, "inam" or ASID's "esa".
        reduction: channels over hidden width in INAM's channel attention.
        use_fused: runs the groups on `lightsr_kernels` ops.

    Input and result are as SRNetwork says; inside, zeros to the right and below fill the picture up to 8x8 windows.
    Initial values are PyTorch's defaults; the position tables are normal with deviation 1, as in ASID.

    The second reconstruction is IDSANet(scale, **R2); the published parents are **ASID and **ASID_D8.

    Source: the paper's abstract (DOI 10.13374/j.issn2095-9389.2025.10.24.003) and its parent ASID (arXiv 2501.15774).
    The paper's figures, tables and code were not at hand: docs/networks/idsa_net.md tells block by block what is known.

    Example:
        >>> import torch
        >>> from lightsr.networks.idsa_net import R2, IDSANet
        >>> IDSANet(scale=4, **R2)(torch.rand(1, 3, 20, 33)).shape
        torch.Size([1, 3, 80, 132])
    """

    name = "idsa_net"
    title = "IDSA-Net"
    source = "DOI 10.13374/j.issn2095-9389.2025.10.24.003; a reconstruction from its abstract and from ASID"
    exact_tiles = False  # grid attention, squeeze-and-excitation and instance norm see the whole picture
    multiple = WINDOW

    def __init__(
        self,
        scale: int = 4,
        *,
        channels: int = 64,
        groups: int = 6,
        blockc: bool = False,
        lcipb: str = "full",
        where: str = "all",
        attention: str = "inam",
        reduction: int = 8,
        use_fused: bool = False,
    ) -> None:
        super().__init__(scale, use_fused)
        if channels < 8 or channels % 4 or groups < 1 or not 1 <= reduction <= channels:
            raise InputError(
                f"{self.name}: channels must be a multiple of 4 from 8, groups at least 1 and reduction from 1 to "
                f"channels; got channels {channels}, groups {groups}, reduction {reduction}"
            )
        for key, value in (("lcipb", lcipb), ("where", where), ("attention", attention)):
            if value not in CHOICES[key]:
                raise InputError(f"{self.name}: {key} must be one of {', '.join(CHOICES[key])}; got {value!r}")
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.groups = nn.ModuleList(
            Group(channels, k == 0, lcipb, where, blockc, attention, channels // reduction) for k in range(groups)
        )
        self.body_end = nn.Conv2d(channels, channels, 3, padding=1)
        self.tail = Tail(channels, scale)
        self.spatial_gates = attention == "esa"
        self.set_fused(use_fused)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 3, scale*H, scale*W]
        right, below = (self._filling(side) for side in (x.shape[3], x.shape[2]))
        shallow = y = convolve(self.head, F.pad(x, (0, right, 0, below)), self.use_fused)
        maps = None
        for group in self.groups:
            y, maps = group(y, maps)
        y = self.tail(convolve(self.body_end, y, self.use_fused, residual=shallow))
        # Negative padding crops. A slice would do, but its strides make torch.export refuse sizes that need no crop.
        return F.pad(y, (0, -self.scale * right, 0, -self.scale * below))

    def _filling(self, side: int) -> int:
        """How many pixels `side` lacks to whole windows, and to 15 pixels where ESA ends the groups."""
        windows = (side + WINDOW - 1) // WINDOW
        if self.spatial_gates:
            windows = max(windows, 2)
        return windows * WINDOW - side

    @property
    def radius(self) -> int:
        """Head, body end and upsampler reach 1 each; a group as far as its convolutions and 8x8 windows add up.

        A local block and a feed-forward reach 1, window attention 7, large-kernel purification 11, a pair of channel
        attentions 7 for the window and 1 each for their depthwise 3x3, INAM 3 by its 7x7. Left aside is what sees the
        whole picture: grid attention, squeeze-and-excitation, INAM's statistics and ESA's coarse gate.
        """
        reach = 3
        for group in self.groups:
            for module in group.modules():
                if isinstance(module, LargeKernelPurification):
                    reach += 11
                elif isinstance(module, ChannelBlock):
                    reach += WINDOW - 1 + 2
                elif isinstance(module, LocalBlock | GatedFeedForward):
                    reach += 1
                elif isinstance(module, SharedAttention) and not module.grid:
                    reach += WINDOW - 1
                elif isinstance(module, InstanceNormAttention):
                    reach += 3
        return reach

    @classmethod
    def config_of(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any] | None:
        scale, head = tail_scale(state_dict), state_dict.get("head.weight")
        block = "groups.0.distillation"
        if scale is None or head is None or head.dim() != 4 or f"{block}.windows.0.position" not in state_dict:
            return None
        channels = head.shape[0]
        down = state_dict.get("groups.0.attention.down.weight")
        squeezed = max(channels // 8, 1) if down is None or down.dim() != 4 else down.shape[0]
        if not 8 <= channels <= LARGEST_WIDTH or channels % 4 or not 1 <= squeezed <= channels:
            return None
        groups = 1
        while f"groups.{groups}.mix.weight" in state_dict:
            groups += 1
        # Where a large-kernel purification stands, and with or without its two 1x1 convolutions.
        places = [f"{block}.{place}" for place in ("fusions.2", "fusions.0", "purify")]
        found = [k for k, place in enumerate(places) if f"{place}.near.weight" in state_dict]
        where = CHOICES["where"][found[0]] if found else "all"
        full = any(f"{place}.entry.weight" in state_dict for place in places)
        return {
            "scale": scale,
            "channels": channels,
            "groups": groups,
            "blockc": f"{block}.channel_block.0.temperature" in state_dict,
            "lcipb": ("full" if full else "lka") if found else "none",
            "where": where,
            "attention": "inam" if down is not None else "esa",
            "reduction": channels // squeezed,
        }
