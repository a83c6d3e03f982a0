"""gated_feed_forward on the compiled kernels of csrc/gated_feed_forward."""

from __future__ import annotations

from torch import Tensor

from ..functional import dense, dense_as, empty_gradient, empty_result
from ..native import raw_operator

_ARGUMENTS = (
    "Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor in_weight, Tensor depthwise_weight, Tensor out_weight, "
    "float eps"
)
_forward = raw_operator(f"gated_feed_forward_forward({_ARGUMENTS}, Tensor(a!) out) -> ()")
_backward = raw_operator(
    f"gated_feed_forward_gradients({_ARGUMENTS}, Tensor grad, Tensor(a!)? grad_x, Tensor(b!)? grad_norm_weight, "
    "Tensor(c!)? grad_norm_bias, Tensor(d!)? grad_in_weight, Tensor(e!)? grad_depthwise_weight, "
    "Tensor(f!)? grad_out_weight) -> ()"
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
    """What lies between the steps is computed again, a few rows at a time."""
    x = dense(x)
    weights = (norm_weight, norm_bias, in_weight, depthwise_weight, out_weight)
    found = [empty_gradient(each) if want else None for each, want in zip((x, *weights), wanted, strict=True)]
    _backward(x, *(each.contiguous() for each in weights), eps, dense_as(grads[0], x), *found)
    return [each for each in found if each is not None]
