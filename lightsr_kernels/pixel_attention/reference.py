"""pixel_attention in plain PyTorch: the specification."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(
    x: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [C, C, 1, 1]
    bias: Tensor | None,  # [C]
) -> Tensor:  # [N, C, H, W]
    return x * torch.sigmoid(F.conv2d(x, weight, bias))
