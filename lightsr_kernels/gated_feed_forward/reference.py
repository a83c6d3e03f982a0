"""gated_feed_forward in plain PyTorch: the specification."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..functional import channel_norm, layout_of


def reference(
    x: Tensor,  # [N, C, H, W]
    norm_weight: Tensor,  # [C]
    norm_bias: Tensor,  # [C]
    in_weight: Tensor,  # [2M, C, 1, 1]
    depthwise_weight: Tensor,  # [2M, 1, 3, 3]
    out_weight: Tensor,  # [C, M, 1, 1]
    eps: float,
) -> Tensor:  # [N, C, H, W]
    hidden = F.conv2d(channel_norm(x, norm_weight, norm_bias, eps), in_weight)
    hidden = F.conv2d(hidden, depthwise_weight, padding=1, groups=hidden.shape[1])
    gate, value = hidden.chunk(2, 1)
    out = x + F.conv2d(F.gelu(gate) * value, out_weight)
    return out.to(x.dtype).contiguous(memory_format=layout_of(x))
