"""split_distillation on the compiled kernels of csrc/split_distillation, on the CPU and on CUDA alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..dense_conv.backward import told_by_result
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
    f"split_distillation_convolved({_ARGUMENTS}, Tensor convolution, Tensor(a!) distilled, Tensor(b!)? remaining, "
    "Tensor(c!)? activated) -> ()"
)
_backward = raw_operator(
    f"split_distillation_gradients({_ARGUMENTS}, Tensor grad_distilled, Tensor? grad_remaining, bool activated, "
    "Tensor? rest, Tensor(a!)? grad_x, Tensor(b!)? grad_residual, Tensor(c!)? grad_bias, Tensor(d!)? grad_weight, "
    "Tensor(e!)? grad_weight_bias, Tensor(f!)? grad_gate_weight, Tensor(g!)? grad_gate_bias) -> ()"
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
    return _run(shared.call_of(x, *step, *ends, convolution), keep)[:2]


def forward_keeping(*args: Any) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
    """The results, and what the gradients would compute again: the convolution's, or the activated parts.

    The activated parts where results tell the activation's derivative; most of these are results, and what is kept of
    them takes no memory of its own.
    """
    x, split, _, _, activation, negative_slope, *_, keep, convolution = args
    if convolution is None:
        return forward(*args), []
    told = activation == "none" or (activation != "sigmoid" and told_by_result(activation, negative_slope))
    if not told or not (split is None or keep) or not _in_tiles(x, convolution):
        y = convolved(x, convolution)
        return in_layout_of(x, forward(*(y, *args[1:-1]))), [y]
    distilled, remaining, activated = _run(shared.call_of(*(*args[:-2], convolution)), keep, keeping=True)
    return (distilled, remaining), [activated, remaining]


def _run(call: shared.Call, keep: bool, keeping: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """The results, and where `keeping` the activated part that is distilled: one of them, or a picture of its own."""
    x = call.x
    n, _, h, w = x.shape
    rest = (call.channels if call.whole else call.channels - call.split) if keep else 0
    distilled = empty((n, call.distilled, h, w), x.dtype, x.device, call.layout)
    remaining = empty((n, rest, h, w), x.dtype, x.device, call.layout)
    results = distilled, remaining if keep else None
    if call.convolution is None:
        _forward(*_arguments(call), *results)
        return distilled, remaining, distilled
    activated = distilled if call.weight is None and call.gate_weight is None else remaining
    own = keeping and activated is remaining and not (call.whole and keep)
    if own:
        activated = empty((n, call.split, h, w), x.dtype, x.device, call.layout)
    _forward_convolved(*_arguments(call), call.convolution, *results, activated if own else None)
    return distilled, remaining, activated


def _in_tiles(x: Tensor, convolution: Tensor) -> bool:
    """Whether a convolution goes by the CPU's tiles of few multiplications, which the rest of a step can follow."""
    outs, c, kh, kw = convolution.shape
    fit = not x.is_cuda and (kh, kw) == (3, 3) and min(c, outs) >= FEWEST
    return fit and faster("cpu", x, convolution, None, "leaky_relu")


def _gradients(call: shared.Call, grad: Tensor, grad_remaining: Tensor | None, found: dict[str, Tensor]) -> None:
    names = ("x", "residual", "bias", "weight", "weight_bias", "gate_weight", "gate_bias")
    values = (call.activated, call.rest)
    _backward(*_arguments(call), grad, grad_remaining, *values, *(found.get(name) for name in names))


def backward(grads: list[Tensor], wanted: list[bool], *args: Any, kept: list[Tensor] | None = None) -> list[Tensor]:
    return shared.backward(_gradients, grads, wanted, *args, kept=kept)
