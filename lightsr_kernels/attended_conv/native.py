"""attended_conv on the compiled kernels of csrc/attended_conv and of the ops it is made of."""

from __future__ import annotations

import torch
from torch import Tensor

from ..dense_conv import dense_conv
from ..functional import dense
from ..native import raw_operator
from .composed import composed, in_filters

_filters = raw_operator(
    "attended_conv_filters(Tensor x, Tensor weight, Tensor? bias, Tensor down_weight, Tensor? down_bias, "
    "Tensor up_weight, Tensor? up_bias, Tensor(a!) out_weight, Tensor(b!)? out_bias) -> ()"
)


def forward(
    x: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [C_out, C, KH, KW]
    bias: Tensor | None,  # [C_out]
    down_weight: Tensor,  # [R, C_out, 1, 1]
    down_bias: Tensor | None,  # [R]
    up_weight: Tensor,  # [C_out, R, 1, 1]
    up_bias: Tensor | None,  # [C_out]
) -> Tensor:  # [N, C_out, H, W]
    layers = (weight, bias, down_weight, down_bias, up_weight, up_bias)
    if not in_filters(x):
        return composed(x, *layers)
    x = dense(x)
    scaled = torch.empty(weight.shape, dtype=x.dtype, device=x.device)
    scaled_bias = None if bias is None else torch.empty(bias.shape, dtype=x.dtype, device=x.device)
    _filters(x, *[None if each is None else each.contiguous() for each in layers], scaled, scaled_bias)
    return dense_conv(x, scaled, scaled_bias)
