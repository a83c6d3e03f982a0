"""The activation at the end of distillation_fusion in its gradients, which undo it before all else.

Its derivative is told by the result (relu, leaky_relu, sigmoid) or by the values before it (gelu, silu), whichever
eager calls keep, as plain PyTorch does too; the operator keeps neither, and computes the values before it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..dense_conv.backward import gradient_by_result, told_by_result
from ..depthwise_conv.backward import activation_gradient
from ..functional import activate

Forward = Callable[..., Tensor]  # of a backend: the arguments of the op, the last two with defaults that mean none
BEFORE = 8  # arguments stand before the activation; other ops give a backend these alone


def forward_keeping(forward: Forward, *args: Any) -> tuple[Tensor, list[Tensor]]:
    """The result, and what tells the derivative of the activation: the result itself, or the values before it."""
    activation, negative_slope = args[BEFORE:]
    if activation in ("gelu", "silu"):
        z = forward(*args[:BEFORE])
        return activate(z, activation, negative_slope), [z]
    result = forward(*args)
    return result, [result] if told_by_result(activation, negative_slope) else []


def gradient_before(forward: Forward, grad: Tensor, kept: list[Tensor] | None, *args: Any) -> Tensor:
    """The gradient before the activation, from that of the result; `kept` is what forward_keeping kept, if it ran."""
    activation, negative_slope = args[BEFORE:] or ("none", 0.0)
    if activation == "none":
        return grad
    if kept and told_by_result(activation, negative_slope):
        return gradient_by_result(grad, kept[0], activation, negative_slope)
    return activation_gradient(grad, kept[0] if kept else forward(*args[:BEFORE]), activation, negative_slope)
