"""attended_conv in plain PyTorch: the specification."""

from __future__ import annotations

from torch import Tensor

from ..channel_attention.reference import reference as attention
from ..dense_conv.reference import reference as convolution


def reference(
    x: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [C_out, C, KH, KW]
    bias: Tensor | None,  # [C_out]
    down_weight: Tensor,  # [R, C_out, 1, 1]
    down_bias: Tensor | None,  # [R]
    up_weight: Tensor,  # [C_out, R, 1, 1]
    up_bias: Tensor | None,  # [C_out]
) -> Tensor:  # [N, C_out, H, W]
    y = convolution(x, weight, bias, "none", 0.0, None, 1)
    return attention(y, down_weight, down_bias, up_weight, up_bias, "mean")
