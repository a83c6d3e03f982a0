"""window_attention in plain PyTorch: the specification."""

from __future__ import annotations

from torch import Tensor

from ..functional import channel_norm, from_sets, layout_of, to_sets


def reference(
    x: Tensor,  # [N, C, H, W]
    maps: Tensor,  # [N*sets, window^2, window^2]
    norm_weight: Tensor,  # [C]
    norm_bias: Tensor,  # [C]
    value_weight: Tensor,  # [C, C]
    out_weight: Tensor,  # [C, C]
    window: int,
    grid: bool,
    eps: float,
) -> Tensor:  # [N, C, H, W]
    tokens = to_sets(channel_norm(x, norm_weight, norm_bias, eps), window, grid)
    mixed = (maps @ (tokens @ value_weight.mT)) @ out_weight.mT
    out = x + from_sets(mixed, x.shape, window, grid)
    return out.to(x.dtype).contiguous(memory_format=layout_of(x))
