"""spatial_attention in plain PyTorch: the specification."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional import layout_of


def reference(
    x: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [1, 2, K, K]
) -> Tensor:  # [N, C, H, W]
    # 16 bits are too few for a map that all channels are multiplied by: float32 (or float64), rounded once at the end.
    wide = torch.promote_types(x.dtype, torch.float32)
    value = x.to(wide)
    pooled = torch.cat([value.mean(1, keepdim=True), value.amax(1, keepdim=True)], 1)
    gate = torch.sigmoid(F.conv2d(pooled, weight.to(wide), padding=weight.shape[-1] // 2))
    return (value * gate).to(x.dtype).contiguous(memory_format=layout_of(x))
