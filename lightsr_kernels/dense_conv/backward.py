"""The gradients of dense_conv out of two primitives, which each backend has its own kernels for.

What stands behind the convolution is undone first: the shuffle, then the activation. Its derivative is told by the
result (relu, leaky_relu, sigmoid) or by the values before it (gelu, silu), whichever eager calls keep, as plain PyTorch
does too; the operator keeps neither, and computes the values before it again. The gradient there is the residual's;
summed over pixels it is the bias's. The gradient of x is its convolution with the filters turned by 180 degrees and
with inputs and outputs exchanged, because the padding is the same on all sides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..depthwise_conv.backward import activation_gradient
from ..functional import activate, dense_as, empty_gradient

# The forward of a backend: the op's arguments and, where the filters are to be turned and their axes exchanged, True
Convolve = Callable[..., Tensor]
# (grad, x, (KH, KW), bias) -> the gradients of weight [C_out, C, KH, KW] and, where bias, of bias [C_out]
WeightGradients = Callable[[Tensor, Tensor, tuple[int, int], bool], tuple[Tensor, Tensor | None]]


def forward_keeping(
    convolve: Convolve,
    x: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [C_out, C, KH, KW]
    bias: Tensor | None,  # [C_out]
    activation: str,
    negative_slope: float,
    residual: Tensor | None,  # [N, C_out, H, W]
    pixel_shuffle: int,
) -> tuple[Tensor, list[Tensor]]:
    """The result, and what tells the activation's derivative: the result itself, or the values before it."""
    if activation in ("gelu", "silu"):
        z = convolve(x, weight, bias, "none", 0.0, residual, 1)
        result = activate(z, activation, negative_slope)
        return dense_as(F.pixel_shuffle(result, pixel_shuffle) if pixel_shuffle > 1 else result, x), [z]
    result = convolve(x, weight, bias, activation, negative_slope, residual, pixel_shuffle)
    return result, [result] if told_by_result(activation, negative_slope) else []


def backward(
    convolve: Convolve,
    weight_gradients: WeightGradients,
    grads: list[Tensor],  # of the one result, [N, C_out / r^2, rH, rW]
    wanted: list[bool],  # one flag for each tensor given, in the order below
    x: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [C_out, C, KH, KW]
    bias: Tensor | None,  # [C_out]
    activation: str,
    negative_slope: float,
    residual: Tensor | None,  # [N, C_out, H, W]
    pixel_shuffle: int,  # r
    kept: list[Tensor] | None = None,  # by forward_keeping
) -> list[Tensor]:
    given = {"x": x, "weight": weight, "bias": bias, "residual": residual}
    names = [name for name, value in given.items() if value is not None]
    wants = [name for name, want in zip(names, wanted, strict=True) if want]
    if not wants:
        return []

    def unshuffled(value: Tensor) -> Tensor:
        return dense_as(F.pixel_unshuffle(value, pixel_shuffle) if pixel_shuffle > 1 else value, x)

    grad = unshuffled(grads[0])
    if activation != "none":
        if kept and told_by_result(activation, negative_slope):
            grad = gradient_by_result(grad, unshuffled(kept[0]), activation, negative_slope)
        else:
            z = kept[0] if kept else convolve(x, weight, bias, "none", 0.0, residual, 1)
            grad = activation_gradient(grad, z, activation, negative_slope)
    found: dict[str, Tensor | None] = {}
    if "x" in wants:
        found["x"] = dense_as(convolve(grad, weight, None, "none", 0.0, None, 1, True), x)
    if "weight" in wants:
        kh, kw = weight.shape[2:]
        grad_weight, found["bias"] = weight_gradients(grad, x, (kh, kw), "bias" in wants)
        found["weight"] = dense_as(grad_weight, weight)
    elif "bias" in wants:
        # Beside the least of filters: torch's own sum may depend on the number of threads.
        found["bias"] = weight_gradients(grad, x[:, :1], (1, 1), True)[1]
    if "residual" in wants and residual is not None:
        # A copy where it is still the incoming one: an operator may not hand back one of its inputs.
        same = grad.untyped_storage().data_ptr() == grads[0].untyped_storage().data_ptr()
        found["residual"] = empty_gradient(residual).copy_(grad) if same else dense_as(grad, residual)
    return [value for name in wants if (value := found[name]) is not None]


def told_by_result(activation: str, negative_slope: float) -> bool:
    """Whether the result of an activation tells its derivative."""
    return activation in ("relu", "sigmoid") or (activation == "leaky_relu" and negative_slope >= 0)


def gradient_by_result(grad: Tensor, result: Tensor, activation: str, negative_slope: float) -> Tensor:
    """The gradient before an activation, from that behind it and its result."""
    aten: Any = torch.ops.aten
    if activation == "sigmoid":
        found = aten.sigmoid_backward(grad, result)
    elif activation == "relu":
        found = aten.threshold_backward(grad, result, 0)
    else:
        found = aten.leaky_relu_backward(grad, result, negative_slope, True)
    return cast(Tensor, found)
