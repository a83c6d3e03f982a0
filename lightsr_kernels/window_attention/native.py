"""window_attention on the compiled kernels of csrc/window_attention."""

from __future__ import annotations

from torch import Tensor

from ..functional import dense, dense_as, empty_gradient, empty_result
from ..native import raw_operator

_ARGUMENTS = (
    "Tensor x, Tensor maps, Tensor norm_weight, Tensor norm_bias, Tensor value_weight, Tensor out_weight, int window, "
    "bool grid, float eps"
)
_forward = raw_operator(f"window_attention_forward({_ARGUMENTS}, Tensor(a!) out) -> ()")
_backward = raw_operator(
    f"window_attention_gradients({_ARGUMENTS}, Tensor grad, Tensor(a!)? grad_x, Tensor(b!)? grad_maps, "
    "Tensor(c!)? grad_norm_weight, Tensor(d!)? grad_norm_bias, Tensor(e!)? grad_value_weight, "
    "Tensor(f!)? grad_out_weight) -> ()"
)


def forward(
    x: Tensor,  # [N, C, H, W]
    maps: Tensor,  # [N*sets, window^2, window^2]
    norm_weight: Tensor,  # [C]
    norm_bias: Tensor,  # [C]
    value_weight: Tensor,  # [C, C]
    out_weight: Tensor,  # [C, C]
    window: int,
    grid: bool,
    eps: float,
) -> Tensor:  # [N, C, H, W]
    x = dense(x)
    out = empty_result(x, x.shape[1])
    parameters = (norm_weight, norm_bias, value_weight, out_weight)
    _forward(x, maps.contiguous(), *(each.contiguous() for each in parameters), window, grid, eps, out)
    return out


def backward(
    grads: list[Tensor],  # of the one result, [N, C, H, W]
    wanted: list[bool],  # one flag for each tensor, in the order below
    x: Tensor,
    maps: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    value_weight: Tensor,
    out_weight: Tensor,
    window: int,
    grid: bool,
    eps: float,
) -> list[Tensor]:
    """The gradients of both weights come of that of their product."""
    x = dense(x)
    tensors = (maps, norm_weight, norm_bias, value_weight, out_weight)
    found = [empty_gradient(each) if want else None for each, want in zip((x, *tensors), wanted, strict=True)]
    _backward(x, *(each.contiguous() for each in tensors), window, grid, eps, dense_as(grads[0], x), *found)
    return [each for each in found if each is not None]
