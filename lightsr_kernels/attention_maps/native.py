"""attention_maps on the compiled kernels of csrc/attention_maps."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..functional import dense, empty_gradient
from ..memory import empty
from ..native import raw_operator

_ARGUMENTS = (
    "Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor query_key_weight, Tensor position_table, int window, "
    "bool grid, float eps"
)
_forward = raw_operator(f"attention_maps_forward({_ARGUMENTS}, Tensor(a!) maps) -> ()")
_backward = raw_operator(
    f"attention_maps_gradients({_ARGUMENTS}, Tensor maps, Tensor grad, Tensor(a!)? grad_x, "
    "Tensor(b!)? grad_norm_weight, Tensor(c!)? grad_norm_bias, Tensor(d!)? grad_query_key_weight, "
    "Tensor(e!)? grad_position_table) -> ()"
)


def forward(
    x: Tensor,  # [N, C, H, W]
    norm_weight: Tensor,  # [C]
    norm_bias: Tensor,  # [C]
    query_key_weight: Tensor,  # [2C, C]
    position_table: Tensor,  # [(2*window - 1)^2]
    window: int,
    grid: bool,
    eps: float,
) -> Tensor:  # [N*sets, window^2, window^2]
    x = dense(x)
    n, _, h, w = x.shape
    maps = empty((n * (h // window) * (w // window), window**2, window**2), x.dtype, x.device)
    # A score is a query times a key, both linear in their pixels: one matrix between the two pixels.
    parameters = (norm_weight, norm_bias, query_key_weight, position_table)
    _forward(x, *(each.contiguous() for each in parameters), window, grid, eps, maps)
    return maps


def forward_keeping(*args: Any) -> tuple[Tensor, list[Tensor]]:
    """The maps are what the gradients begin with, and whoever mixes by them keeps them anyway."""
    maps = forward(*args)
    return maps, [maps]


def backward(
    grads: list[Tensor],  # of the one result, [N*sets, window^2, window^2]
    wanted: list[bool],  # one flag for each tensor, in the order below
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    query_key_weight: Tensor,
    position_table: Tensor,
    window: int,
    grid: bool,
    eps: float,
    kept: list[Tensor] | None = None,  # the maps
) -> list[Tensor]:
    """The gradients of queries' and keys' weights come of that of their product."""
    x = dense(x)
    tensors = (norm_weight, norm_bias, query_key_weight, position_table)
    maps = kept[0] if kept else forward(x, *tensors, window, grid, eps)
    found = [empty_gradient(each) if want else None for each, want in zip((x, *tensors), wanted, strict=True)]
    parameters = (each.contiguous() for each in tensors)
    _backward(x, *parameters, window, grid, eps, maps, grads[0].contiguous(), *found)
    return [each for each in found if each is not None]
