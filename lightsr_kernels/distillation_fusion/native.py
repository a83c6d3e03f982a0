"""distillation_fusion on the compiled kernels of csrc/distillation_fusion, on the CPU and on CUDA alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..functional import ACTIVATIONS, activate
from ..memory import empty
from ..native import raw_operator
from . import activation as last_step
from . import backward as shared

# Lists that the schema calls optional hold None where a gradient is not wanted.
_ARGUMENTS = (
    "Tensor[] parts, Tensor weight, Tensor? bias, Tensor? scale, Tensor[] maps, Tensor? gain, Tensor? residual, "
    "Tensor? residual_gain, bool channels_last"
)
_forward = raw_operator(
    f"distillation_fusion_forward({_ARGUMENTS}, int activation, float negative_slope, Tensor(a!) out) -> ()"
)
_backward = raw_operator(
    f"distillation_fusion_gradients({_ARGUMENTS}, Tensor grad, Tensor?[] grad_parts, Tensor?[] grad_maps, "
    "Tensor(a!)? grad_residual, Tensor(b!)? products, Tensor(c!)? sums, Tensor(d!)? residual_product) -> ()"
)


def _arguments(call: shared.Call) -> tuple[Any, ...]:
    ends = (call.gain, call.residual, call.residual_gain, call.layout == torch.channels_last)
    return (call.parts, call.weight, call.bias, call.scale, call.maps, *ends)


def forward(
    parts: list[Tensor],  # each [N, C_k, H, W]
    weight: Tensor,  # [C_out, sum of C_k, 1, 1]
    bias: Tensor | None,  # [C_out]
    scale: Tensor | None,  # [N, sum of C_k, 1, 1]
    maps: list[Tensor],  # none, or one [N, 1, H, W] a part
    gain: Tensor | None,  # [] or [1]
    residual: Tensor | None,  # [N, C_out, H, W]
    residual_gain: Tensor | None,  # [] or [1]
    activation: str = "none",
    negative_slope: float = 0.0,
) -> Tensor:  # [N, C_out, H, W]
    parts, maps = shared.shortened(parts, maps)
    call = shared.call_of(parts, weight, bias, scale, maps, gain, residual, residual_gain)
    n, _, h, w = parts[0].shape
    out = empty((n, len(weight), h, w), weight.dtype, weight.device, call.layout)
    own = not weight.is_cuda  # the CUDA kernel ends with the residual
    _forward(*_arguments(call), ACTIVATIONS.index(activation) if own else 0, negative_slope, out)
    return out if own else activate(out, activation, negative_slope)


def forward_keeping(*args: Any) -> tuple[Tensor, list[Tensor]]:
    return last_step.forward_keeping(forward, *args)


def _gradients(call: shared.Call, grad: Tensor, found: shared.Found) -> None:
    sums = (found.products, found.sums, found.residual_product)
    _backward(*_arguments(call), grad, found.parts, found.maps, found.residual, *sums)


def backward(grads: list[Tensor], wanted: list[bool], *args: Any, kept: list[Tensor] | None = None) -> list[Tensor]:
    grad = last_step.gradient_before(forward, grads[0], kept, *args)
    return shared.backward(_gradients, [grad], wanted, *args[: last_step.BEFORE])
