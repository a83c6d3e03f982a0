"""channel_attention in plain PyTorch: the specification."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional import layout_of
from ..instance_norm.reference import moments


def reference(
    x: Tensor,  # [N, C, H, W]
    down_weight: Tensor,  # [R, C, 1, 1]
    down_bias: Tensor | None,  # [R]
    up_weight: Tensor,  # [C, R, 1, 1]
    up_bias: Tensor | None,  # [C]
    statistic: str,
) -> Tensor:  # [N, C, H, W]
    # 16 bits hold neither the sum of a plane nor its squares: float32 (or float64) throughout, rounded once at the end.
    wide = torch.promote_types(x.dtype, torch.float32)
    value = x.to(wide)
    if statistic == "mean":
        read = value.mean((2, 3), keepdim=True)
    else:
        mean, _, variance = moments(value)
        read = mean + root(variance)
    layers = (None if each is None else each.to(wide) for each in (down_weight, down_bias, up_weight, up_bias))
    down_weight, down_bias, up_weight, up_bias = layers  # type: ignore[assignment]
    hidden = F.relu(F.conv2d(read, down_weight, down_bias))
    gate = torch.sigmoid(F.conv2d(hidden, up_weight, up_bias))
    return (value * gate).to(x.dtype).contiguous(memory_format=layout_of(x))


def root(variance: Tensor) -> Tensor:
    """The square root, with gradient 0 at 0.

    A deviation grows like |t| away from a constant plane, so 0 is its subgradient there; sqrt alone would give inf * 0.
    """
    positive = variance > 0
    return torch.where(positive, variance, 1.0).sqrt() * positive
