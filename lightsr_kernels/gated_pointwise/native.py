"""gated_pointwise on the compiled kernels of csrc/gated_pointwise.

Two passes over the pixels, and between them one that makes the coarse map of the gate. There is no backward here:
gradients are the reference's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..functional import dense, empty_result
from ..native import raw_operator

_entry = raw_operator(
    "gated_pointwise_entry(Tensor x, Tensor norm_weight, Tensor norm_bias, float eps, Tensor weight, Tensor bias, "
    "Tensor(a!) entered) -> ()"
)
_coarse = raw_operator(
    "gated_pointwise_coarse(Tensor entered, Tensor stride_weight, Tensor stride_bias, Tensor pool_weight, "
    "Tensor pool_bias, Tensor(a!) coarse) -> ()"
)
_exit = raw_operator(
    "gated_pointwise_exit(Tensor x, Tensor norm_weight, Tensor norm_bias, float eps, Tensor entered, Tensor coarse, "
    "Tensor weight_a, Tensor bias_a, Tensor weight_b, Tensor bias_b, Tensor weight_c, Tensor bias_c, "
    "Tensor skip_weight, Tensor skip_bias, Tensor exit_weight, Tensor exit_bias, Tensor out_weight, Tensor out_bias, "
    "Tensor(a!) out) -> ()"
)


def forward(x: Tensor, *others: Any) -> Tensor:
    """Arguments and result as the reference's."""
    *weights, eps = others
    given = [each.contiguous() for each in weights]
    norm_weight, norm_bias, *paths = given[:8]
    entry_weight, entry_bias, stride_weight, stride_bias, pool_weight, pool_bias = given[8:14]
    weight_c, bias_c = paths[4:]
    x = dense(x)
    out = empty_result(x, x.shape[1])
    if x.numel() == 0:
        return out
    entered = empty_result(x, entry_bias.shape[0])
    _entry(x, norm_weight, norm_bias, eps, *_joined(weight_c, bias_c, entry_weight, entry_bias), entered)
    height, width = (((side - 3) // 2 + 1 - 7) // 3 + 1 for side in x.shape[2:])
    wide = torch.promote_types(x.dtype, torch.float32)
    coarse = torch.empty((x.shape[0], height, width, len(entry_bias)), dtype=wide, device=x.device)
    _coarse(entered, stride_weight, stride_bias, pool_weight, pool_bias, coarse)
    _exit(x, norm_weight, norm_bias, eps, entered, coarse, *paths, *given[14:], out)
    return out


def _joined(weight: Tensor, bias: Tensor, entry_weight: Tensor, entry_bias: Tensor) -> tuple[Tensor, Tensor]:
    """The path's 1x1 convolution followed by the gate's entry, as one 1x1 convolution."""
    entry = entry_weight.flatten(1).double()  # so that the number of threads changes no bit of the rounded result
    joined, joined_bias = entry @ weight.flatten(1).double(), entry @ bias.double() + entry_bias
    return joined.to(weight.dtype), joined_bias.to(weight.dtype)
