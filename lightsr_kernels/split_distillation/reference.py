"""split_distillation in plain PyTorch: the specification."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dense_conv.reference import reference as convolve
from ..functional import activate


def reference(
    x: Tensor,  # [N, C, H, W]; with a convolution [N, C_in, H, W]
    split: int | None,  # channels of the first part; None: both parts are all of x
    bias: Tensor | None,  # [C]
    residual: Tensor | None,  # [N, C, H, W]
    activation: str,
    negative_slope: float,
    weight: Tensor | None,  # [D, split or C, 1, 1]
    weight_bias: Tensor | None,  # [D]
    distilled_activation: str,
    gate_weight: Tensor | None,  # [D, D, 1, 1]
    gate_bias: Tensor | None,  # [D]
    keep: bool,
    convolution: Tensor | None = None,  # [C, C_in, KH, KW]
) -> tuple[Tensor, Tensor]:  # [N, D or split or C, H, W], [N, C - split or C or 0, H, W]
    if convolution is not None:
        x = convolve(x, convolution, None, "none", 0.0, None, 1)
    if bias is not None:
        x = x + bias.view(1, -1, 1, 1)
    if residual is not None:
        x = x + residual
    x = activate(x, activation, negative_slope)
    distilled, remaining = (x, x) if split is None else (x[:, :split], x[:, split:])
    if weight is not None:
        distilled = activate(F.conv2d(distilled, weight, weight_bias), distilled_activation, negative_slope)
    if gate_weight is not None:
        distilled = distilled * torch.sigmoid(F.conv2d(distilled, gate_weight, gate_bias))
    return distilled, remaining if keep else x[:, :0]
