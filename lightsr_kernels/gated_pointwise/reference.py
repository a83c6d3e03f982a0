"""gated_pointwise in plain PyTorch: the specification."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional import channel_norm, layout_of


def reference(
    x: Tensor,  # [N, C, H, W]
    norm_weight: Tensor,  # [C]
    norm_bias: Tensor,  # [C]
    weight_a: Tensor,  # [E, C, 1, 1]
    bias_a: Tensor,  # [E]
    weight_b: Tensor,  # [E, C, 1, 1]
    bias_b: Tensor,  # [E]
    weight_c: Tensor,  # [E, C, 1, 1]
    bias_c: Tensor,  # [E]
    entry_weight: Tensor,  # [P, E, 1, 1]
    entry_bias: Tensor,  # [P]
    stride_weight: Tensor,  # [P, P, 3, 3]
    stride_bias: Tensor,  # [P]
    pool_weight: Tensor,  # [P, P, 3, 3]
    pool_bias: Tensor,  # [P]
    skip_weight: Tensor,  # [P, P, 1, 1]
    skip_bias: Tensor,  # [P]
    exit_weight: Tensor,  # [E, P, 1, 1]
    exit_bias: Tensor,  # [E]
    out_weight: Tensor,  # [C, E, 1, 1]
    out_bias: Tensor,  # [C]
    eps: float,
) -> Tensor:  # [N, C, H, W]
    n = channel_norm(x, norm_weight, norm_bias, eps)
    star = F.relu6(F.conv2d(n, weight_a, bias_a)) * F.conv2d(n, weight_b, bias_b)

    c = F.conv2d(n, weight_c, bias_c)
    p = F.conv2d(c, entry_weight, entry_bias)
    coarse = F.max_pool2d(F.conv2d(p, stride_weight, stride_bias, stride=2), 7, stride=3)
    coarse = F.conv2d(coarse, pool_weight, pool_bias, padding=1)
    coarse = F.interpolate(coarse, size=x.shape[2:], mode="bilinear", align_corners=False)
    gate = torch.sigmoid(F.conv2d(coarse + F.conv2d(p, skip_weight, skip_bias), exit_weight, exit_bias))

    out = F.conv2d(star + c * gate, out_weight, out_bias)
    return out.to(x.dtype).contiguous(memory_format=layout_of(x))
