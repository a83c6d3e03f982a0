"""channel_attention as a part of instance_norm_attention."""

from __future__ import annotations

from torch import Tensor

from ..instance_norm_attention.compose import Parts


def parts(
    down_weight: Tensor,  # [R, C, 1, 1]
    down_bias: Tensor | None,  # [R]
    up_weight: Tensor,  # [C, R, 1, 1]
    up_bias: Tensor | None,  # [C]
    statistic: str,
) -> Parts:
    return Parts(
        down_weight=down_weight, down_bias=down_bias, up_weight=up_weight, up_bias=up_bias, statistic=statistic
    )
