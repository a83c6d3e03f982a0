"""attention_maps in plain PyTorch: the specification."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import channel_norm, to_sets


def reference(
    x: Tensor,  # [N, C, H, W]
    norm_weight: Tensor,  # [C]
    norm_bias: Tensor,  # [C]
    query_key_weight: Tensor,  # [2C, C], queries first
    position_table: Tensor,  # [(2*window - 1)^2]
    window: int,
    grid: bool,
    eps: float,
) -> Tensor:  # [N*sets, window^2, window^2]
    tokens = to_sets(channel_norm(x, norm_weight, norm_bias, eps), window, grid)
    query, key = (tokens @ query_key_weight.mT).chunk(2, -1)
    # Scaled before the product, which float16 could not hold otherwise.
    scores = (query * x.shape[1] ** -0.5) @ key.mT + position_bias(position_table, window)
    return torch.softmax(scores, -1).to(x.dtype)


def position_bias(table: Tensor, window: int) -> Tensor:  # [(2*window - 1)^2] -> [window^2, window^2]
    """One number for every pair of tokens: the table's entry for how far the query lies below and right of the key.

    Overlapping views instead of an index, because they differentiate without atomic additions.
    """
    offsets = table.reshape(2 * window - 1, 2 * window - 1)  # [i_q - i_k + window - 1, j_q - j_k + window - 1]
    views = offsets.unfold(0, window, 1).unfold(1, window, 1)  # [i_q, j_q, window - 1 - i_k, window - 1 - j_k]
    return views.flip(2, 3).reshape(window**2, window**2)
