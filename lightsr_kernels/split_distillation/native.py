"""split_distillation on the compiled kernels of csrc/split_distillation, on the CPU and on CUDA alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..dense_conv.rule import FEWEST, faster
from ..functional import ACTIVATIONS
from ..memory import empty
from ..native import raw_operator
from . import backward as shared
from .convolution import convolved, in_layout_of

_ARGUMENTS = (
    "Tensor x, Tensor? residual, Tensor? bias, Tensor? weight, Tensor? weight_bias, Tensor? gate_weight, "
    "Tensor? gate_bias, int split, bool whole, bool channels_last, int activation, int distilled_activation, "
    "float negative_slope"
)
_forward = raw_operator(f"split_distillation_forward({_ARGUMENTS}, Tensor(a!) distilled, Tensor(b!)? remaining) -> ()")
_forward_convolved = raw_operator(
    f"split_distillation_convolved({_ARGUMENTS}, Tensor convolution, Tensor(a!) distilled, Tensor(b!)? remaining) -> ()"
)
_backward = raw_operator(
    f"split_distillation_gradients({_ARGUMENTS}, Tensor grad_distilled, Tensor? grad_remaining, Tensor(a!)? grad_x, "
    "Tensor(b!)? grad_residual, Tensor(c!)? grad_bias, Tensor(d!)? grad_weight, Tensor(e!)? grad_weight_bias, "
    "Tensor(f!)? grad_gate_weight, Tensor(g!)? grad_gate_bias) -> ()"
)


def _arguments(call: shared.Call) -> tuple[Any, ...]:
    return (
        call.x,
        call.residual,
        call.bias,
        call.weight,
        call.weight_bias,
        call.gate_weight,
        call.gate_bias,
        call.split,
        call.whole,
        call.layout == torch.channels_last,
        ACTIVATIONS.index(call.activation),
        ACTIVATIONS.index(call.distilled_activation),
        call.negative_slope,
    )


def forward(
    x: Tensor,  # [N, C, H, W]; with a convolution [N, C_in, H, W]
    split: int | None,
    bias: Tensor | None,  # [C]
    residual: Tensor | None,  # [N, C, H, W]
    activation: str,
    negative_slope: float,
    weight: Tensor | None,  # [D, split or C, 1, 1]
    weight_bias: Tensor | None,  # [D]
    distilled_activation: str,
    gate_weight: Tensor | None,  # [D, D, 1, 1]
    gate_bias: Tensor | None,  # [D]
    keep: bool,
    convolution: Tensor | None = None,  # [C, C_in, KH, KW]
) -> tuple[Tensor, Tensor]:  # [N, D, H, W], [N, C - split or C or 0, H, W]
    step = (split, bias, residual, activation, negative_slope)
    ends = (weight, weight_bias, distilled_activation, gate_weight, gate_bias)
    if convolution is not None and not _in_tiles(x, convolution):
        return in_layout_of(x, forward(convolved(x, convolution), *step, *ends, keep))
    call = shared.call_of(x, *step, *ends, convolution)
    n, _, h, w = x.shape
    rest = (call.channels if call.whole else call.channels - call.split) if keep else 0
    distilled = empty((n, call.distilled, h, w), x.dtype, x.device, call.layout)
    remaining = empty((n, rest, h, w), x.dtype, x.device, call.layout)
    results = distilled, remaining if keep else None
    if call.convolution is None:
        _forward(*_arguments(call), *results)
    else:
        _forward_convolved(*_arguments(call), call.convolution, *results)
    return distilled, remaining


def _in_tiles(x: Tensor, convolution: Tensor) -> bool:
    """Whether a convolution goes by the CPU's tiles of few multiplications, which the rest of a step can follow."""
    outs, c, kh, kw = convolution.shape
    fit = not x.is_cuda and (kh, kw) == (3, 3) and min(c, outs) >= FEWEST
    return fit and faster("cpu", x, convolution, None, "leaky_relu")


def _gradients(call: shared.Call, grad: Tensor, grad_remaining: Tensor | None, found: dict[str, Tensor]) -> None:
    names = ("x", "residual", "bias", "weight", "weight_bias", "gate_weight", "gate_bias")
    _backward(*_arguments(call), grad, grad_remaining, *(found.get(name) for name in names))


def backward(grads: list[Tensor], wanted: list[bool], *args: Any) -> list[Tensor]:
    return shared.backward(_gradients, grads, wanted, *args)
