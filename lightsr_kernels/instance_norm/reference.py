"""instance_norm in plain PyTorch: the specification."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import layout_of


def reference(
    x: Tensor,  # [N, C, H, W]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    eps: float,
) -> Tensor:  # [N, C, H, W]
    # 16 bits hold neither the sum of a plane nor its squares: float32 (or float64) throughout, rounded once at the end.
    wide = torch.promote_types(x.dtype, torch.float32)
    _, centred, variance = moments(x.to(wide))
    scale = (variance + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.to(wide)[:, None, None]
    out = centred * scale
    if bias is not None:
        out = out + bias.to(wide)[:, None, None]
    return out.to(x.dtype).contiguous(memory_format=layout_of(x))


def moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of every plane [N, C, 1, 1], x without it [N, C, H, W], and the variance [N, C, 1, 1]."""
    # The mean is taken off before squaring: E[x^2] - E[x]^2 loses every digit where the mean is large.
    mean = x.mean((2, 3), keepdim=True)
    centred = x - mean
    # The mean of numbers near 1e4 is off by 1e-3 in float32; what that leaves behind is small and so known exactly.
    centred = centred - centred.mean((2, 3), keepdim=True)
    return mean, centred, centred.square().mean((2, 3), keepdim=True)
