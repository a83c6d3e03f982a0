"""The spatial gate at low resolution that HASN and ASID have in common."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SpatialGate(nn.Module):
    """ESA, a gate in 0..1 for every value, computed on a narrow, pooled copy: x * sigmoid(exit(low + skip)).

    Needs 15 pixels a side. Source: Omni-SR, arXiv 2304.10244 (ops/esa.py), after RFANet's enhanced spatial attention.
    """

    def __init__(self, channels: int, narrow: int) -> None:
        super().__init__()
        self.entry = nn.Conv2d(channels, narrow, 1)
        self.stride = nn.Conv2d(narrow, narrow, 3, stride=2)
        self.pool = nn.Conv2d(narrow, narrow, 3, padding=1)
        self.skip = nn.Conv2d(narrow, narrow, 1)
        self.exit = nn.Conv2d(narrow, channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W], H and W at least 15
        entry = self.entry(x)
        pooled = F.max_pool2d(self.stride(entry), 7, stride=3)
        low = F.interpolate(self.pool(pooled), size=x.shape[2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.exit(low + self.skip(entry)))
