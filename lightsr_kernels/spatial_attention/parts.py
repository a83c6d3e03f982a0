"""spatial_attention as a part of instance_norm_attention."""

from __future__ import annotations

from torch import Tensor

from ..instance_norm_attention.compose import Parts


def parts(
    weight: Tensor,  # [1, 2, K, K]
) -> Parts:
    return Parts(spatial_weight=weight)
