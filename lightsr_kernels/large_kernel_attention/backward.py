"""The gradients of large_kernel_attention out of the depthwise primitives of a backend and what it has for the rest.

Where a backend has nothing of its own for the 1x1 convolutions and the gate, they are torch's own operators. What lies
between the steps is computed again rather than kept.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..depthwise_conv.backward import Convolve, WeightGradients
from ..functional import dense, dense_as, empty_gradient

# (grad, x, t, mix_weight, mix_bias, out_weight, names of the gradients that are wanted) -> the gradients of
# out_weight (x * (mix_weight t + mix_bias)) + out_bias: of x (without what comes by t), of t, of parameters by name.
Found = dict[str, Tensor | None]
Mixed = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, set[str]], tuple[Tensor, Tensor, Found]]

_NAMES = ("x", "weight1", "bias1", "weight2", "bias2", "mix_weight", "mix_bias", "out_weight", "out_bias")


def backward(
    convolve: Convolve,
    weight_gradients: WeightGradients,
    grads: list[Tensor],  # of the one result, [N, C, H, W]
    wanted: list[bool],  # one flag for each tensor given, in the order below
    x: Tensor,  # [N, C, H, W]
    weight1: Tensor,  # [C, 1, KH1, KW1]
    bias1: Tensor | None,  # [C]
    weight2: Tensor,  # [C, 1, KH2, KW2]
    bias2: Tensor | None,  # [C]
    mix_weight: Tensor,  # [C, C, 1, 1]
    mix_bias: Tensor | None,  # [C]
    dilation: int,
    out_weight: Tensor | None,  # [C, C, 1, 1]
    out_bias: Tensor | None,  # [C]
    residual: list[Tensor],  # each [N, C_k, H, W], together [N, C, H, W]; none where there is none
    *,
    mixed: Mixed | None = None,
) -> list[Tensor]:
    values = (x, weight1, bias1, weight2, bias2, mix_weight, mix_bias, out_weight, out_bias)
    given = {name: value for name, value in zip(_NAMES, values, strict=True) if value is not None}
    wants = {name for name, want in zip(given, wanted, strict=False) if want}  # the flags of the residual are the last
    found: Found = {}
    grad, x = grads[0], dense(x)
    ends = [
        empty_gradient(part).copy_(piece)  # no views: an operator may not hand back what it was given
        for part, piece, want in zip(residual, _split(grad, residual), wanted[len(given) :], strict=True)
        if want
    ]
    if not wants:
        return ends

    near, far = [1, 1], [dilation, dilation]
    one = convolve(x, weight1, bias1, near, False)
    two = convolve(one, weight2, bias2, far, False)
    grad_x, grad, parameters = (mixed or mixed_of_torch)(grad, x, two, mix_weight, mix_bias, out_weight, wants)
    found |= parameters
    if wants & {"weight2", "bias2"}:
        found["weight2"], found["bias2"] = weight_gradients(grad, one, _size(weight2), far, "bias2" in wants)
    if wants & {"x", "weight1", "bias1"}:
        grad = convolve(grad, weight2, None, far, True)
    if wants & {"weight1", "bias1"}:
        found["weight1"], found["bias1"] = weight_gradients(grad, x, _size(weight1), near, "bias1" in wants)
    if "x" in wants:
        found["x"] = convolve(grad, weight1, None, near, True).add_(grad_x)
    return [
        dense_as(value, given[name]) if value.dim() == 4 else value.contiguous()
        for name in given
        if name in wants and (value := found[name]) is not None
    ] + ends


def mixed_of_torch(
    grad: Tensor,
    x: Tensor,
    t: Tensor,
    mix_weight: Tensor,
    mix_bias: Tensor | None,
    out_weight: Tensor | None,
    wants: set[str],
) -> tuple[Tensor, Tensor, Found]:
    """The 1x1 convolutions and the gate by torch's own operators."""
    found: Found = {}
    gate = F.conv2d(t, mix_weight, mix_bias)
    if out_weight is not None:
        grad, found["out_weight"], found["out_bias"] = _pointwise(grad, x * gate, out_weight, "out", wants)
    grad_t, found["mix_weight"], found["mix_bias"] = _pointwise(grad * x, t, mix_weight, "mix", wants)
    return grad * gate, grad_t, found


def _pointwise(
    grad: Tensor, x: Tensor, weight: Tensor, name: str, wants: set[str]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradients of x, weight and bias of a 1x1 convolution."""
    wanted = [True, f"{name}_weight" in wants, f"{name}_bias" in wants]
    backward = torch.ops.aten.convolution_backward
    found = backward(grad, x, weight, [len(weight)], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, wanted)
    return found[0], found[1], found[2]


def _size(weight: Tensor) -> tuple[int, int]:
    return weight.shape[2], weight.shape[3]


def _split(grad: Tensor, parts: list[Tensor]) -> list[Tensor]:
    return list(torch.split(grad, [part.shape[1] for part in parts], 1)) if parts else []
