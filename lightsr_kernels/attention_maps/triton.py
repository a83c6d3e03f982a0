"""attention_maps on Triton, the portable path on GPUs, forward and backward.

triton_forward.py says how the kernel works. Nothing here waits for the GPU or measures, so calls can be captured in a
CUDA graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import triton_common
from ..functional import dense
from ..triton_common import MOST_PROGRAMS, accumulator, device_of, factor, launches, options, stored, up
from ..window_attention.triton_launch import gather
from . import triton_forward
from .gradients import own
from .reference import position_bias, reference
from .triton_gradients import norm_gradients, product_sums
from .triton_project import padded, project, strides_of, wide

MOST_TOKENS = 1024  # of a set, whose scores with some queries a program holds
MOST_SCORES = 4096  # in a program, if these are not too few queries for a product
FEWEST_QUERIES = 16
MOST_KEYS = 64  # at once, where they need not be all
DEPTH = 16


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
    if window**2 > MOST_TOKENS:
        return reference(x, norm_weight, norm_bias, query_key_weight, position_table, window, grid, eps)
    norm, weight = (norm_weight.contiguous(), norm_bias.contiguous()), _joint_weight(query_key_weight)
    return score(dense(x), norm, eps, weight, window, grid, position_table.contiguous())


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
    """With scores = n^T W n + position, and G their gradient: of what W joins, G n for queries and G^T n for keys."""
    given = (x, norm_weight, norm_bias, query_key_weight, position_table)
    if window**2 > MOST_TOKENS:
        return _of_reference(grads[0], wanted, given, window, grid, eps)
    x, norm = dense(x), (norm_weight.contiguous(), norm_bias.contiguous())
    weight = _joint_weight(query_key_weight)
    grad = score(x, norm, eps, weight, window, grid, position_table.contiguous(), grads[0].contiguous())
    found: dict[int, Tensor] = {}
    if wanted[4]:
        pull_back: Any = torch.func.vjp(lambda table: position_bias(table, window), position_table)[1]
        found[4] = pull_back(grad.sum(0))[0]
    if any(wanted[:4]):
        of_queries = gather(x, grad, window, grid, None, norm, eps)
    if any(wanted[:3]):
        of_keys = gather(x, grad, window, grid, None, norm, eps, transposed=True)
        grad_norm = project(of_keys, weight.mT.contiguous())
        grad_norm = project(of_queries, weight, added=grad_norm)
        found[0], found[1], found[2] = norm_gradients(grad_norm, x, norm[0], eps, None, (wanted[0], any(wanted[1:3])))
    if wanted[3]:
        joint = product_sums(of_queries, x, norm, eps) * x.shape[1] ** -0.5  # of W transposed
        query, key = query_key_weight.to(joint.dtype).chunk(2)
        found[3] = torch.cat([key @ joint, query @ joint.mT])
    return [own(found[i], like) for i, like in enumerate(given) if wanted[i]]


def score(
    x: Tensor,  # [N, C, H, W], dense
    norm: tuple[Tensor, Tensor],  # weight and bias of the layer norm, [C] each, contiguous
    eps: float,
    weight: Tensor,  # [C, C], contiguous
    window: int,
    grid: bool,
    table: Tensor | None = None,  # [(2*window - 1)^2], contiguous
    grad: Tensor | None = None,  # [N*sets, window^2, window^2], contiguous
    other: Tensor | None = None,  # [N, C, H, W], in the layout of x
) -> Tensor:  # [N*sets, window^2, window^2]
    """The maps, their scores' gradient where `grad` is given, or without a table scores with `other` as queries."""
    n, channels, height, width = x.shape
    tokens, sets = window**2, n * (height // window) * (width // window)
    maps = torch.empty((sets, tokens, tokens), dtype=stored(x.dtype), device=x.device)
    keys = padded(tokens) if table is not None else min(padded(tokens), MOST_KEYS)
    queries = min(keys, max(FEWEST_QUERIES, MOST_SCORES // keys))
    query_blocks, key_blocks = up(tokens, queries), up(tokens, keys)
    with device_of(x):
        for first, count in launches(sets * query_blocks * key_blocks, MOST_PROGRAMS):
            triton_forward.score[(count,)](
                x,
                other,
                *norm,
                weight,
                table,
                grad,
                maps,
                channels,
                height // window,
                width // window,
                channels * height * width,
                *strides_of(x, channels),
                query_blocks,
                key_blocks,
                first,
                WINDOW=window,
                GRID=grid,
                EPS=eps,
                SUM=accumulator(x.dtype),
                FACTOR=factor(x.dtype),
                WIDE=wide(x) or maps.numel() > triton_common.NARROW,
                QUERIES=queries,
                KEYS=keys,
                DEPTH=DEPTH,
                **options(8 if queries * keys > MOST_SCORES else 4),
            )
    return maps.to(x.dtype)


def _joint_weight(query_key_weight: Tensor) -> Tensor:  # [2C, C] -> [C, C]
    """What stands between the pixel of a query and that of a key, in float32 or wider."""
    query, key = query_key_weight.double().chunk(2)  # so that nothing, TF32 least of all, moves the rounded result
    kind = torch.promote_types(query_key_weight.dtype, torch.float32)
    joint: Tensor = query.mT @ key * query_key_weight.shape[1] ** -0.5
    return joint.to(kind)


def _of_reference(
    grad: Tensor, wanted: list[bool], given: tuple[Tensor, ...], window: int, grid: bool, eps: float
) -> list[Tensor]:
    specification: Any = reference
    pull_back: Any = torch.func.vjp(lambda *tensors: specification(*tensors, window, grid, eps), *given)[1]
    return [own(each, like) for each, like, want in zip(pull_back(grad), given, wanted, strict=True) if want]
