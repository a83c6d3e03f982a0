"""attended_conv put together of other ops and torch's own: for any device, and for gradients.

The gate of one picture goes into the filters. The mean that it comes from is known before: the mean of a convolution's
result is the same convolution of the sums over what each tap sees.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..channel_attention import channel_attention
from ..dense_conv import dense_conv
from ..functional import under_autocast


def composed(
    x: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [C_out, C, KH, KW]
    bias: Tensor | None,  # [C_out]
    down_weight: Tensor,  # [R, C_out, 1, 1]
    down_bias: Tensor | None,  # [R]
    up_weight: Tensor,  # [C_out, R, 1, 1]
    up_bias: Tensor | None,  # [C_out]
) -> Tensor:  # [N, C_out, H, W]
    layers = (down_weight, down_bias, up_weight, up_bias)
    if in_filters(x):
        return dense_conv(x, *scaled_filters(x, weight, bias, *layers))
    return channel_attention(dense_conv(x, weight, bias), *layers, statistic="mean")


def in_filters(x: Tensor) -> bool:
    """Whether the gate goes into the filters: there is one, and filters may be scaled without losing digits."""
    wide = x.dtype in (torch.float32, torch.float64) and not under_autocast(x.device.type)
    return wide and x.shape[0] == 1


def scaled_filters(
    x: Tensor,  # [1, C, H, W]
    weight: Tensor,  # [C_out, C, KH, KW]
    bias: Tensor | None,  # [C_out]
    down_weight: Tensor,  # [R, C_out, 1, 1]
    down_bias: Tensor | None,  # [R]
    up_weight: Tensor,  # [C_out, R, 1, 1]
    up_bias: Tensor | None,  # [C_out]
) -> tuple[Tensor, Tensor | None]:  # [C_out, C, KH, KW], [C_out]
    """`weight` and `bias` times the gate of this picture."""
    seen = seen_by_taps(x, *weight.shape[2:]) / (x.shape[2] * x.shape[3])
    mean = F.linear(seen.flatten(), weight.flatten(1), bias)  # [C_out]
    hidden = F.relu(F.linear(mean, down_weight.flatten(1), down_bias))
    gate = torch.sigmoid(F.linear(hidden, up_weight.flatten(1), up_bias))
    return weight * gate[:, None, None, None], None if bias is None else bias * gate


def seen_by_taps(x: Tensor, kh: int, kw: int) -> Tensor:  # [N, C, H, W] -> [N, C, KH, KW]
    """For each tap of a convolution, the sum over the pixels it sees: all but a few rows and columns."""
    columns = x.sum(2)  # [N, C, W]
    rows = torch.stack([columns - _unseen(x, 2, tap) for tap in _taps(kh)], 2)  # [N, C, KH, W]
    total = rows.sum(3)
    return torch.stack([total - _unseen(rows, 3, tap) for tap in _taps(kw)], 3)


def _taps(side: int) -> range:
    """How far each tap is from the middle."""
    return range(-(side // 2), side // 2 + 1)


def _unseen(x: Tensor, axis: int, tap: int) -> Tensor:
    """The sum along an axis of what a tap does not see: the first ones where it reaches further on, else the last."""
    unseen = slice(tap, None) if tap < 0 else slice(tap)
    return x[(slice(None),) * axis + (unseen,)].sum(axis)
