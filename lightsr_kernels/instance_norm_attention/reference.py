"""instance_norm_attention in plain PyTorch: the specification."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional import layout_of


def reference(
    x: Tensor,  # [N, C, H, W]
    norm_weight: Tensor,  # [C]
    norm_bias: Tensor,  # [C]
    down_weight: Tensor,  # [R, C, 1, 1]
    down_bias: Tensor,  # [R]
    up_weight: Tensor,  # [C, R, 1, 1]
    up_bias: Tensor,  # [C]
    spatial_weight: Tensor,  # [1, 2, K, K]
    eps: float,
) -> Tensor:  # [N, C, H, W]
    # 16 bits hold neither the sum of a plane nor its squares: float32 (or float64) throughout, rounded once at the end.
    wide = torch.promote_types(x.dtype, torch.float32)
    value = x.to(wide)

    # The mean is taken off before squaring: E[x^2] - E[x]^2 loses every digit where the mean is large.
    mean = value.mean((2, 3), keepdim=True)
    centred = value - mean
    # The mean of numbers near 1e4 is off by 1e-3 in float32; what that leaves behind is small and so known exactly.
    centred = centred - centred.mean((2, 3), keepdim=True)
    variance = centred.square().mean((2, 3), keepdim=True)

    statistic = mean + _root(variance)
    hidden = F.relu(F.conv2d(statistic, down_weight.to(wide), down_bias.to(wide)))
    channel_gate = torch.sigmoid(F.conv2d(hidden, up_weight.to(wide), up_bias.to(wide)))

    scale = norm_weight.to(wide)[:, None, None] * (variance + eps).rsqrt()
    y = channel_gate * (scale * centred + norm_bias.to(wide)[:, None, None])

    pooled = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)
    spatial_gate = torch.sigmoid(F.conv2d(pooled, spatial_weight.to(wide), padding=spatial_weight.shape[-1] // 2))
    return (value + y * spatial_gate).to(x.dtype).contiguous(memory_format=layout_of(x))


def _root(variance: Tensor) -> Tensor:
    """The square root, with gradient 0 at 0.

    A deviation grows like |t| away from a constant plane, so 0 is its subgradient there; sqrt alone would give inf * 0.
    """
    positive = variance > 0
    return torch.where(positive, variance, 1.0).sqrt() * positive
