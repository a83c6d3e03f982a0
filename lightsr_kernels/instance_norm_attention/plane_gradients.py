"""The gradients of what there is one number of for every plane: of the channel gate, and of the norm's factors."""

from __future__ import annotations

import torch
from torch import Tensor


def plane_gradients(
    sums: Tensor,  # float64 [2, N, C]: of dy, and of dy (x - centre)
    mean: Tensor,  # float64 [N, C]
    variance: Tensor,  # float64 [N, C]
    centre: Tensor,  # float64 [N, C]
    parameters: dict[str, Tensor],  # those given of norm_weight [C], norm_bias, down_weight [R, C, 1, 1], ...
    eps: float,
    statistic: str,
    norm: bool,
    pixels: int,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Gradients by mean and variance, [N, C], and by each parameter.

    With g the channel gate and r = 1 / sqrt(variance + eps)::

        y = g (norm_weight r (x - mean) + norm_bias)        or g x without a norm
        g = sigmoid(up_weight h + up_bias), h = relu(down_weight s + down_bias), s = mean + sqrt(variance), or mean
    """
    values = {
        name: value.double().flatten(1) if value.dim() == 4 else value.double() for name, value in parameters.items()
    }
    found: dict[str, Tensor] = {}
    gated = "down_weight" in values
    if gated:
        down, up = values["down_weight"], values["up_weight"]
        positive = variance > 0
        root = torch.where(positive, variance, 1.0).sqrt()
        pooled = mean + root * positive if statistic == "mean+std" else mean
        hidden = _linear(pooled, down, values.get("down_bias")).relu_()
        gate = _linear(hidden, up, values.get("up_bias")).sigmoid_()

    grad, by_centred = sums
    if norm:
        rate = (variance + eps).rsqrt()
        by_centred = by_centred - (mean - centre) * grad  # of dy (x - mean)
        normal = rate * by_centred  # of dy times the normalised x
        weight, bias = values.get("norm_weight"), values.get("norm_bias")
        by_gate = normal if weight is None else weight * normal
        scale = rate if weight is None else weight * rate
        if gated:
            scale = gate * scale
        by_mean = -scale * grad if pixels > 1 else torch.zeros_like(mean)  # y of one pixel is norm_bias, whatever x is
        by_variance = -0.5 * rate * rate * scale * by_centred
        found["norm_weight"] = (gate * normal if gated else normal).sum(0)
        found["norm_bias"] = (gate * grad if gated else grad).sum(0)
        if bias is not None:
            by_gate = by_gate + bias * grad
    else:
        by_gate = by_centred + centre * grad
        by_mean = by_variance = torch.zeros_like(mean)
    if not gated:
        return by_mean, by_variance, found

    by_up = by_gate * gate * (1 - gate)
    by_down = torch.where(hidden <= 0, 0.0, by_up @ up)
    found["up_weight"], found["up_bias"] = by_up.T @ hidden, by_up.sum(0)
    found["down_weight"], found["down_bias"] = by_down.T @ pooled, by_down.sum(0)
    by_pooled = by_down @ down
    if statistic == "mean+std":
        by_variance = by_variance + by_pooled * (0.5 / root) * positive
    return by_mean + by_pooled, by_variance, found


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x @ weight.T if bias is None else torch.addmm(bias, x, weight.T)
