"""attention_maps on the compiled kernels of csrc/attention_maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..functional import dense, from_sets, to_sets
from ..native import raw_operator
from .gradients import ChannelNorm, own
from .reference import position_bias

_forward = raw_operator(
    "attention_maps_forward(Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor query_key_weight, "
    "Tensor position_table, int window, bool grid, float eps, Tensor(a!) maps) -> ()"
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
    maps = torch.empty((n * (h // window) * (w // window), window**2, window**2), dtype=x.dtype, device=x.device)
    # A score is a query times a key, both linear in their pixels: one matrix between the two pixels.
    parameters = (norm_weight, norm_bias, query_key_weight, position_table)
    _forward(x, *(each.contiguous() for each in parameters), window, grid, eps, maps)
    return maps


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
) -> list[Tensor]:
    """With scores = (n W^T) n^T + position. The gradients of queries' and keys' weights come of that of W."""
    given = (x, norm_weight, norm_bias, query_key_weight, position_table)
    maps = forward(*given, window, grid, eps)
    grad = torch._softmax_backward_data(grads[0], maps, -1, maps.dtype)
    found: dict[int, Tensor] = {}
    if wanted[4]:
        pull_back: Any = torch.func.vjp(lambda table: position_bias(table, window), position_table)[1]
        found[4] = pull_back(grad.sum(0))[0]
    if not any(wanted[:4]):
        return [own(found[4], position_table)]
    norm = ChannelNorm(x, norm_weight, norm_bias, eps)
    tokens = to_sets(norm.result, window, grid)
    query, key = _query_and_key(query_key_weight)
    weight = (key.mT @ query).to(x.dtype)
    grad_query = grad @ tokens  # of n W^T
    if any(wanted[:3]):
        grad_tokens = grad_query @ weight + grad.mT @ (tokens @ weight.mT)
        grad_norm = from_sets(grad_tokens, x.shape, window, grid)
        found[0], found[1], found[2] = norm.backward(grad_norm, *wanted[:3])
    if wanted[3]:
        joint = (grad_query.flatten(0, 1).mT @ tokens.flatten(0, 1)).to(key.dtype)
        scale = x.shape[1] ** -0.25
        found[3] = torch.cat([key @ joint, query @ joint.mT]) * scale
    return [own(found[i], like) for i, like in enumerate(given) if wanted[i]]


def _query_and_key(query_key_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both weights, [C, C] each, in float32 or wider, each with its half of the scale."""
    scale = query_key_weight.shape[1] ** -0.25
    wide = torch.promote_types(query_key_weight.dtype, torch.float32)
    query, key = query_key_weight.to(wide).mul(scale).chunk(2)
    return query, key
