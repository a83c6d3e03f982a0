"""dense_conv on the compiled kernels of csrc/dense_conv."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..functional import ACTIVATIONS, dense, dense_as, layout_of
from ..memory import empty
from ..native import raw_operator
from . import backward as gradients

_forward = raw_operator(
    "dense_conv_forward(Tensor x, Tensor weight, Tensor? bias, int activation, float negative_slope, "
    "Tensor? residual, int pixel_shuffle, bool transpose, bool winograd, Tensor(a!) out) -> ()"
)
_backward_weight = raw_operator(
    "dense_conv_backward_weight(Tensor grad, Tensor x, Tensor(a!) grad_weight, Tensor(b!)? grad_bias) -> ()"
)


def forward(
    x: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [C_out, C, KH, KW]; where transpose, [C, C_out, KH, KW] with its taps in reverse order
    bias: Tensor | None,  # [C_out]
    activation: str,
    negative_slope: float,
    residual: Tensor | None,  # [N, C_out, H, W]
    pixel_shuffle: int,
    transpose: bool = False,
) -> Tensor:  # [N, C_out / pixel_shuffle^2, pixel_shuffle * H, pixel_shuffle * W]
    x = dense(x)
    n, _, h, w = x.shape
    channels = weight.shape[transpose] // (pixel_shuffle * pixel_shuffle)
    shape = (n, channels, h * pixel_shuffle, w * pixel_shuffle)
    out = empty(shape, x.dtype, x.device, layout_of(x))
    _forward(
        x,
        weight.contiguous(),
        None if bias is None else bias.contiguous(),
        ACTIVATIONS.index(activation),
        negative_slope,
        None if residual is None else dense_as(residual, x),
        pixel_shuffle,
        transpose,
        True,
        out,
    )
    return out


def forward_keeping(*args: Any) -> tuple[Tensor, list[Tensor]]:
    return gradients.forward_keeping(forward, *args)


def weight_gradients(
    grad: Tensor,  # [N, C_out, H, W]
    x: Tensor,  # [N, C, H, W]
    size: tuple[int, int],
    bias: bool,
) -> tuple[Tensor, Tensor | None]:  # [C_out, C, KH, KW], [C_out]
    x = dense(x)
    grad_weight = torch.empty((grad.shape[1], x.shape[1], *size), dtype=x.dtype, device=x.device)
    if x.numel() == 0 and bias:  # the kernel sums beside the products, of which there are none
        return grad_weight, grad.sum((0, 2, 3))
    grad_bias = torch.empty(grad.shape[1], dtype=x.dtype, device=x.device) if bias else None
    _backward_weight(dense_as(grad, x), x, grad_weight, grad_bias)
    return grad_weight, grad_bias


def backward(grads: list[Tensor], wanted: list[bool], *args: Any, kept: list[Tensor] | None = None) -> list[Tensor]:
    return gradients.backward(forward, weight_gradients, grads, wanted, *args, kept=kept)  # type: ignore[misc]
