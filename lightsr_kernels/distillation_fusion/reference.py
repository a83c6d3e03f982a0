"""distillation_fusion in plain PyTorch: the specification."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional import activate


def reference(
    parts: list[Tensor],  # each [N, C_k, H, W]
    weight: Tensor,  # [C_out, sum of C_k, 1, 1]
    bias: Tensor | None,  # [C_out]
    scale: Tensor | None,  # [N, sum of C_k, 1, 1]
    maps: list[Tensor],  # none, or one [N, 1, H, W] a part
    gain: Tensor | None,  # [] or [1]
    residual: Tensor | None,  # [N, C_out, H, W]
    residual_gain: Tensor | None,  # [] or [1]
    activation: str = "none",
    negative_slope: float = 0.0,
) -> Tensor:  # [N, C_out, H, W]
    if maps:
        parts = [part * each for part, each in zip(parts, maps, strict=True)]
    joined = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
    if scale is not None:
        joined = joined * scale
    out = F.conv2d(joined, weight, bias)
    if gain is not None:
        out = out * gain
    if residual is not None:
        out = out + (residual if residual_gain is None else residual * residual_gain)
    return activate(out, activation, negative_slope)
