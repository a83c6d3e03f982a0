"""large_kernel_attention in plain PyTorch: the specification."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(
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
    if 0 in x.shape[1:]:
        return x.clone()  # conv2d refuses no channels, and a picture smaller than its filter's inside
    channels = x.shape[1]
    kh, kw = weight1.shape[2:]
    t = F.conv2d(x, weight1, bias1, padding=(kh // 2, kw // 2), groups=channels)
    kh, kw = weight2.shape[2:]
    padding = (dilation * (kh // 2), dilation * (kw // 2))
    t = F.conv2d(t, weight2, bias2, padding=padding, dilation=dilation, groups=channels)
    out = x * F.conv2d(t, mix_weight, mix_bias)
    if out_weight is not None:
        out = F.conv2d(out, out_weight, out_bias)
    if residual:
        out = out + joined(residual)
    return out


def joined(
    parts: list[Tensor],  # each [N, C_k, H, W]
) -> Tensor:  # [N, sum of C_k, H, W]
    """One picture of these parts, a copy where they are several."""
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]
