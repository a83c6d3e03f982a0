"""instance_norm as a part of instance_norm_attention."""

from __future__ import annotations

from torch import Tensor

from ..instance_norm_attention.compose import Parts


def parts(
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    eps: float,
) -> Parts:
    return Parts(norm_weight=weight, norm_bias=bias, norm=True, eps=eps)
