"""Networks in a form that torch's exporters can trace once for every size: no branch on a size, no size in a modulo."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .networks import SRNetwork
from .networks.hasn import HASN, SMALLEST
from .resize import imresize


def traceable(net: SRNetwork) -> nn.Module:
    """A module with the results of `net` for every size; most networks are one as they are."""
    if net.name == "bicubic":
        return TraceableBicubic(net.scale)
    return TraceableHASN(net) if isinstance(net, HASN) else net


class TraceableHASN(nn.Module):
    """Extends every picture to HASN's smallest sides, by nothing where it is large enough, instead of asking first.

    The program would otherwise hold one of the two cases, and crash the runtime that meets the other.
    """

    def __init__(self, net: HASN) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 3, scale*H, scale*W]
        h, w = x.shape[2:]
        below, right = (torch.sym_max(SMALLEST - each, 0) for each in (h, w))  # type: ignore[no-untyped-call]
        out: Tensor = self.net(F.pad(x, (0, right, 0, below), mode="replicate"))
        return out[:, :, : h * self.net.scale, : w * self.net.scale]


class TraceableBicubic(nn.Module):
    """Bicubic enlargement as one convolution, a 5x5 filter for each phase, and a pixel shuffle.

    An enlarged pixel depends on its place among the `scale` x `scale` ones of its input pixel, and on 5x5 input pixels.
    The filters are read off `imresize` itself, by enlarging single bright pixels.
    """

    weight: Tensor  # [scale^2, 1, 5, 5]

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        bright = torch.eye(5, dtype=torch.float64)[:, None]  # [5, 1, 5]: in picture k, column k is bright
        wide = F.pad(bright, (4, 4)).expand(-1, 13, -1)  # far from the border
        phases = imresize(wide, scale)[:, 6 * scale, 6 * scale : 7 * scale]  # [5, scale]
        filters = torch.einsum("ir,jc->rcij", phases, phases)
        self.register_buffer("weight", filters.reshape(scale**2, 1, 5, 5).float())

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 3, scale*H, scale*W]
        n, c, h, w = x.shape
        x = x.index_select(2, _mirrored(h, x)).index_select(3, _mirrored(w, x))
        phases = F.conv2d(x.flatten(0, 1)[:, None], self.weight)
        return F.pixel_shuffle(phases, self.scale).reshape(n, c, h * self.scale, w * self.scale)


def _mirrored(side: int, x: Tensor) -> Tensor:  # [side + 4] int64
    """Rows -2 to side + 1 with the border mirrored, its own pixel repeated; a single row repeats all the way."""
    rows = torch.arange(-2, side + 2, device=x.device)
    rows = torch.where(rows < 0, -1 - rows, rows)
    return torch.where(rows >= side, 2 * side - 1 - rows, rows).clamp(0, side - 1)
