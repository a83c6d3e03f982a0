"""gated_feed_forward on the compiled kernels of csrc/gated_feed_forward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention_maps.gradients import ChannelNorm, own
from ..depthwise_conv.native import convolve, weight_gradients
from ..functional import dense, empty_result
from ..native import raw_operator

_forward = raw_operator(
    "gated_feed_forward_forward(Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor in_weight, "
    "Tensor depthwise_weight, Tensor out_weight, float eps, Tensor(a!) out) -> ()"
)


def forward(
    x: Tensor,  # [N, C, H, W]
    norm_weight: Tensor,  # [C]
    norm_bias: Tensor,  # [C]
    in_weight: Tensor,  # [2M, C, 1, 1]
    depthwise_weight: Tensor,  # [2M, 1, 3, 3]
    out_weight: Tensor,  # [C, M, 1, 1]
    eps: float,
) -> Tensor:  # [N, C, H, W]
    x = dense(x)
    out = empty_result(x, x.shape[1])
    weights = (norm_weight, norm_bias, in_weight, depthwise_weight, out_weight)
    _forward(x, *(each.contiguous() for each in weights), eps, out)
    return out


def backward(
    grads: list[Tensor],  # of the one result, [N, C, H, W]
    wanted: list[bool],  # one flag for each tensor, in the order below
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    in_weight: Tensor,
    depthwise_weight: Tensor,
    out_weight: Tensor,
    eps: float,
) -> list[Tensor]:
    """In channels_last, where 1x1 convolutions are products; what lies between the steps is computed again."""
    given = (x, norm_weight, norm_bias, in_weight, depthwise_weight, out_weight)
    norm = ChannelNorm(x, norm_weight, norm_bias, eps)
    grad, near = grads[0].contiguous(memory_format=torch.channels_last), [1, 1]
    weights, filters = in_weight.flatten(1).chunk(2), depthwise_weight.chunk(2)
    hidden = [_product(norm.result, each) for each in weights]
    first, second = (convolve(h, each, None, near, False) for h, each in zip(hidden, filters, strict=True))
    gate = F.gelu(first)
    grad_star = _product(grad, out_weight.flatten(1).mT)
    found = {}
    if wanted[5]:
        found[5] = _sums(grad, gate * second).view_as(out_weight)
    if any(wanted[:5]):
        grads_of = [torch.ops.aten.gelu_backward(grad_star * second, first), grad_star * gate]
        if wanted[4]:
            parts = [weight_gradients(g, h, (3, 3), near, False)[0] for g, h in zip(grads_of, hidden, strict=True)]
            found[4] = torch.cat(parts)
        grads_of = [convolve(g, each, None, near, True) for g, each in zip(grads_of, filters, strict=True)]
        if wanted[3]:
            found[3] = torch.cat([_sums(g, norm.result) for g in grads_of]).view_as(in_weight)
        grad_norm = _product(grads_of[0], weights[0].mT) + _product(grads_of[1], weights[1].mT)
        found[0], found[1], found[2] = norm.backward(grad_norm, *wanted[:3])
        if wanted[0]:
            found[0] = found[0] + grads[0]
    return [own(found[i], like) for i, like in enumerate(given) if wanted[i]]


def _product(
    x: Tensor,  # [N, C, H, W], channels_last
    weight: Tensor,  # [O, C]
) -> Tensor:  # [N, O, H, W], channels_last
    return F.linear(x.permute(0, 2, 3, 1), weight).permute(0, 3, 1, 2)


def _sums(
    grad: Tensor,  # [N, O, H, W], channels_last
    x: Tensor,  # [N, C, H, W], channels_last
) -> Tensor:  # [O, C]
    return grad.permute(0, 2, 3, 1).flatten(0, 2).mT @ x.permute(0, 2, 3, 1).flatten(0, 2)
