"""depthwise_conv on the compiled kernels of csrc/depthwise_conv, on the CPU and on CUDA alike."""

from __future__ import annotations

import torch
from torch import Tensor

from ..dispatch import requested
from ..functional import ACTIVATIONS, dense, dense_as, empty_result
from ..native import raw_operator
from . import backward as gradients
from .reference import reference
from .rule import faster

_forward = raw_operator(
    "depthwise_conv_forward(Tensor x, Tensor weight, Tensor? bias, int dh, int dw, int activation, "
    "float negative_slope, Tensor? gate, Tensor? residual, bool flip, Tensor(a!) out) -> ()"
)
_backward_weight = raw_operator(
    "depthwise_conv_backward_weight(Tensor grad, Tensor x, int dh, int dw, Tensor(a!) grad_weight, "
    "Tensor(b!)? grad_bias) -> ()"
)


def forward(
    x: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [C, 1, KH, KW]
    bias: Tensor | None,  # [C]
    dilation: list[int],
    activation: str,
    negative_slope: float,
    gate: Tensor | None,  # [N, C, H, W]
    residual: Tensor | None,  # [N, C, H, W]
    flip: bool = False,
) -> Tensor:  # [N, C, H, W]
    x = dense(x)
    out = empty_result(x, x.shape[1])
    _forward(
        x,
        weight.contiguous(),
        None if bias is None else bias.contiguous(),
        *dilation,
        ACTIVATIONS.index(activation),
        negative_slope,
        None if gate is None else dense_as(gate, x),
        None if residual is None else dense_as(residual, x),
        flip,
        out,
    )
    return out


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: list[int], flip: bool) -> Tensor:
    if requested() == "auto" and not faster(x.device.type, x, weight, bias, dilation):
        return reference(x, weight.flip(2, 3) if flip else weight, bias, dilation, "none", 0.0, None, None)
    return forward(x, weight, bias, dilation, "none", 0.0, None, None, flip)


def weight_gradients(
    grad: Tensor,  # [N, C, H, W]
    x: Tensor,  # [N, C, H, W]
    size: tuple[int, int],
    dilation: list[int],
    bias: bool,
) -> tuple[Tensor, Tensor | None]:  # [C, 1, KH, KW], [C]
    x = dense(x)
    channels = x.shape[1]
    grad_weight = torch.empty((channels, 1, *size), dtype=x.dtype, device=x.device)
    grad_bias = torch.empty(channels, dtype=x.dtype, device=x.device) if bias else None
    _backward_weight(dense_as(grad, x), x, *dilation, grad_weight, grad_bias)
    return grad_weight, grad_bias


def backward(grads: list[Tensor], wanted: list[bool], *args: object) -> list[Tensor]:
    return gradients.backward(convolve, weight_gradients, grads, wanted, *args)  # type: ignore[arg-type]
