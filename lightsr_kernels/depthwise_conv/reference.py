"""depthwise_conv in plain PyTorch: the specification."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..functional import activate


def reference(
    x: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [C, 1, KH, KW]
    bias: Tensor | None,  # [C]
    dilation: list[int],  # [rows, columns]
    activation: str,
    negative_slope: float,
    gate: Tensor | None,  # [N, C, H, W]
    residual: Tensor | None,  # [N, C, H, W]
) -> Tensor:  # [N, C, H, W]
    if 0 in x.shape[1:]:
        return x.clone()  # conv2d refuses no channels, and a picture smaller than its filter's inside
    kh, kw = weight.shape[2:]
    padding = (dilation[0] * (kh // 2), dilation[1] * (kw // 2))
    out = F.conv2d(x, weight, bias, padding=padding, dilation=tuple(dilation), groups=x.shape[1])
    out = activate(out, activation, negative_slope)
    if gate is not None:
        out = out * gate
    if residual is not None:
        out = out + residual
    return out
