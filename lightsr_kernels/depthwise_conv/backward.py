"""The gradients of depthwise_conv out of two primitives, which each backend has its own kernels for.

The gradient of x is the same convolution of the incoming gradient with the taps in reverse order, because the padding
is the same on all sides. What stands behind the convolution (activation, gate, residual) is differentiated in plain
PyTorch; the values before the activation are computed again rather than kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from ..functional import activate, dense_as, empty_gradient

# (x, weight, bias, dilation, flip) -> the convolution, with the taps in reverse order where flip
Convolve = Callable[[Tensor, Tensor, Tensor | None, list[int], bool], Tensor]
# (grad, x, (KH, KW), dilation, bias) -> the gradients of weight [C, 1, KH, KW] and, where bias, of bias [C]
WeightGradients = Callable[[Tensor, Tensor, tuple[int, int], list[int], bool], tuple[Tensor, Tensor | None]]


def backward(
    convolve: Convolve,
    weight_gradients: WeightGradients,
    grads: list[Tensor],  # of the one result, [N, C, H, W]
    wanted: list[bool],  # one flag for each tensor given, in the order below
    x: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [C, 1, KH, KW]
    bias: Tensor | None,  # [C]
    dilation: list[int],
    activation: str,
    negative_slope: float,
    gate: Tensor | None,  # [N, C, H, W]
    residual: Tensor | None,  # [N, C, H, W]
) -> list[Tensor]:
    given = {"x": x, "weight": weight, "bias": bias, "gate": gate, "residual": residual}
    names = [name for name, value in given.items() if value is not None]
    wants = {name for name, want in zip(names, wanted, strict=True) if want}
    found: dict[str, Tensor | None] = {}
    grad = grads[0]

    if "residual" in wants and residual is not None:
        # A copy: an operator may not hand back one of its inputs.
        found["residual"] = empty_gradient(residual).copy_(grad)
    before = wants & {"x", "weight", "bias"}
    if "gate" in wants or (before and activation != "none"):
        z = convolve(x, weight, bias, dilation, False)
        if "gate" in wants and gate is not None:
            product = grad * activate(z, activation, negative_slope)
            found["gate"] = dense_as(product, gate)
    if before:
        if gate is not None:
            grad = grad * gate
        if activation != "none":
            grad = activation_gradient(grad, z, activation, negative_slope)
    if "x" in wants:
        found["x"] = dense_as(convolve(grad, weight, None, dilation, True), x)
    if "weight" in wants:
        kh, kw = weight.shape[2:]
        grad_weight, found["bias"] = weight_gradients(grad, x, (kh, kw), dilation, "bias" in wants)
        found["weight"] = dense_as(grad_weight, weight)
    elif "bias" in wants:
        found["bias"] = grad.sum((0, 2, 3))
    return [value for name in names if name in wants and (value := found[name]) is not None]


def activation_gradient(grad: Tensor, z: Tensor, activation: str, negative_slope: float) -> Tensor:
    """The gradient before an activation, from that behind it and the values z before it."""
    aten: Any = torch.ops.aten
    before = {
        "relu": lambda: aten.threshold_backward(grad, z, 0),
        "leaky_relu": lambda: aten.leaky_relu_backward(grad, z, negative_slope, False),
        "gelu": lambda: aten.gelu_backward(grad, z),
        "silu": lambda: aten.silu_backward(grad, z),
        "sigmoid": lambda: aten.sigmoid_backward(grad, torch.sigmoid(z)),
    }
    return cast(Tensor, before[activation]())
