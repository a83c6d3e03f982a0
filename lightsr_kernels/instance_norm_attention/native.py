"""instance_norm_attention on the compiled kernels of csrc/instance_norm_attention, on the CPU and on CUDA alike.

The passes here serve instance_norm, channel_attention and spatial_attention too.
"""

from __future__ import annotations

import sys
from typing import cast

import torch
from torch import Tensor

from ..depthwise_conv.native import convolve, weight_gradients
from ..functional import empty_gradient, empty_result
from ..native import raw_operator
from . import compose
from .compose import OF_PLANES, Affine, Maps, Parts, Passes, parts, wide

__all__ = ["convolve", "weight_gradients"]

_AFFINE = "Tensor? centre, Tensor? scale, Tensor? shift"
_BACKWARD = f"Tensor grad, Tensor x, {_AFFINE}, Tensor? gate, Tensor? pooled"
_moments = raw_operator("instance_norm_attention_moments(Tensor x, Tensor(a!) moments) -> ()")
_factors = raw_operator(
    "instance_norm_attention_factors(Tensor mean, Tensor variance, Tensor? norm_weight, Tensor? norm_bias, "
    "Tensor? down_weight, Tensor? down_bias, Tensor? up_weight, Tensor? up_bias, float eps, bool deviation, bool norm, "
    "Tensor(a!) factors) -> ()"
)
_forward = raw_operator(  # on the CPU alone
    "instance_norm_attention_forward(Tensor x, Tensor? norm_weight, Tensor? norm_bias, Tensor? down_weight, "
    "Tensor? down_bias, Tensor? up_weight, Tensor? up_bias, Tensor? spatial_weight, float eps, bool deviation, "
    "bool norm, bool residual, Tensor(a!)? moments, Tensor(b!)? pooled, Tensor(c!)? gate, Tensor(d!) out) -> ()"
)
_gradients = raw_operator(  # on the CPU alone
    "instance_norm_attention_gradients(Tensor grad, Tensor x, Tensor moments, Tensor? norm_weight, "
    "Tensor? norm_bias, Tensor? down_weight, Tensor? down_bias, Tensor? up_weight, Tensor? up_bias, float eps, "
    "bool deviation, bool norm, bool residual, Tensor? gate, Tensor? pooled, Tensor? grad_pooled, Tensor? share, "
    "Tensor(a!)? grad_x, Tensor(b!)? grad_norm_weight, Tensor(c!)? grad_norm_bias, Tensor(d!)? grad_down_weight, "
    "Tensor(e!)? grad_down_bias, Tensor(f!)? grad_up_weight, Tensor(g!)? grad_up_bias) -> ()"
)
_channel_pool = raw_operator(f"instance_norm_attention_channel_pool(Tensor x, {_AFFINE}, Tensor(a!) pooled) -> ()")
_gated_affine = raw_operator(
    f"instance_norm_attention_gated_affine(Tensor x, {_AFFINE}, Tensor? pooled, Tensor? spatial_weight, bool residual, "
    "Tensor(a!)? gate, Tensor(b!) out) -> ()"
)
_gate_gradient = raw_operator(
    f"instance_norm_attention_gate_gradient({_BACKWARD}, Tensor(a!) grad_logit, Tensor(b!) share) -> ()"
)
_affine_sums = raw_operator(
    f"instance_norm_attention_affine_sums({_BACKWARD}, Tensor? grad_pooled, Tensor? share, Tensor(a!) sums) -> ()"
)
_affine_gradient = raw_operator(
    f"instance_norm_attention_affine_gradient({_BACKWARD}, Tensor? grad_pooled, Tensor? share, bool residual, "
    "Tensor? constant, Tensor? slope, Tensor(a!) grad_x) -> ()"
)


def together(x: Tensor, parts: Parts, keep: bool) -> tuple[Tensor, list[Tensor]] | None:
    """What compose.forward_keeping gives, in one call, where there is one; nothing kept unless asked for."""
    if x.device.type != "cpu":
        return None
    out = empty_result(x, x.shape[1])
    spatial = None if parts.spatial_weight is None else parts.spatial_weight.to(x.dtype).contiguous()
    found = pooled = gate = None
    if keep and parts.has_planes:
        found = _two_of_planes(x)
    if keep and spatial is not None:
        pooled, gate = _maps(x, 2), _maps(x, 1)
    options = parts.eps, parts.statistic == "mean+std", parts.norm, parts.residual
    _forward(x, *parts.of_planes(x), spatial, *options, found, pooled, gate, out)
    return out, [each for each in (found, pooled, gate) if each is not None]


def moments(x: Tensor) -> Tensor:
    found = _two_of_planes(x)
    _moments(x, found)
    return found


def factors(
    mean: Tensor,
    variance: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    down_weight: Tensor | None,
    down_bias: Tensor | None,
    up_weight: Tensor | None,
    up_bias: Tensor | None,
    eps: float,
    statistic: str,
    norm: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    found = torch.empty((3, *mean.shape), dtype=dtype, device=mean.device)
    parameters = norm_weight, norm_bias, down_weight, down_bias, up_weight, up_bias
    _factors(mean, variance, *parameters, eps, statistic == "mean+std", norm, found)
    return found[0], found[1], found[2]


def channel_pool(x: Tensor, affine: Affine) -> Tensor:
    pooled = _maps(x, 2)
    _channel_pool(x, *affine, pooled)
    return pooled


def gated_affine(
    x: Tensor, affine: Affine, pooled: Tensor | None, spatial_weight: Tensor | None, residual: bool
) -> tuple[Tensor, Tensor | None]:
    out = empty_result(x, x.shape[1])
    gate = None if pooled is None else _maps(x, 1)
    _gated_affine(x, *affine, pooled, spatial_weight, residual, gate, out)
    return out, gate


def gate_gradient(grad: Tensor, x: Tensor, affine: Affine, gate: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
    grad_logit, share = _maps(x, 1), _maps(x, 1)
    _gate_gradient(grad, x, *affine, gate, pooled, grad_logit, share)
    return grad_logit, share


def affine_sums(
    grad: Tensor,
    x: Tensor,
    affine: Affine,
    gate: Tensor | None,
    pooled: Tensor | None,
    grad_pooled: Tensor | None,
    share: Tensor | None,
) -> Tensor:
    sums = _two_of_planes(x)
    _affine_sums(grad, x, *affine, gate, pooled, grad_pooled, share, sums)
    return sums


def affine_gradient(
    grad: Tensor,
    x: Tensor,
    affine: Affine,
    gate: Tensor | None,
    pooled: Tensor | None,
    grad_pooled: Tensor | None,
    share: Tensor | None,
    residual: bool,
    constant: Tensor | None,
    slope: Tensor | None,
) -> Tensor:
    grad_x = empty_result(x, x.shape[1])
    _affine_gradient(grad, x, *affine, gate, pooled, grad_pooled, share, residual, constant, slope, grad_x)
    return grad_x


def backward_together(
    grad: Tensor,
    x: Tensor,
    parts: Parts,
    moments: Tensor,
    maps: Maps,
    wants: set[str],
) -> dict[str, Tensor] | None:
    """The gradients wanted of x and of what planes have, in one call, where there is one."""
    if x.device.type != "cpu":
        return None
    values = parts.of_planes(x)
    found = {"x": empty_gradient(x)} if "x" in wants else {}
    for name, each in zip(OF_PLANES, values, strict=True):
        if each is not None and name in wants:
            found[name] = torch.empty_like(each)
    options = parts.eps, parts.statistic == "mean+std", parts.norm, parts.residual
    _gradients(grad, x, moments, *values, *options, *maps, *map(found.get, ("x", *OF_PLANES)))
    return found


def _two_of_planes(x: Tensor) -> Tensor:
    """Room for two numbers of every plane."""
    n, c, _, _ = x.shape
    return torch.empty((2, n, c), dtype=torch.float64, device=x.device)


def _maps(x: Tensor, count: int) -> Tensor:
    return torch.empty((x.shape[0], count, *x.shape[2:]), dtype=wide(x.dtype), device=x.device)


PASSES = cast(Passes, sys.modules[__name__])


def forward(x: Tensor, *others: object) -> Tensor:
    return compose.forward(PASSES, x, parts(*others))  # type: ignore[arg-type]


def forward_keeping(x: Tensor, *others: object) -> tuple[Tensor, list[Tensor]]:
    return compose.forward_keeping(PASSES, x, parts(*others))  # type: ignore[arg-type]


def backward(
    grads: list[Tensor], wanted: list[bool], x: Tensor, *others: object, kept: list[Tensor] | None = None
) -> list[Tensor]:
    return compose.backward(PASSES, grads, wanted, x, parts(*others), kept)  # type: ignore[arg-type]
