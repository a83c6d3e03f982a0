"""Calls of instance_norm_attention's Triton kernels, for triton_targets.py to compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lightsr_kernels.instance_norm_attention import triton
from lightsr_kernels.instance_norm_attention.compose import wide
from lightsr_kernels.instance_norm_attention.triton_configs import (
    MOMENT_CONFIGS,
    PIXEL_CONFIGS,
    SUM_CONFIGS,
    VALUE_CONFIGS,
    Config,
)
from lightsr_kernels.spec import Make

Call = Callable[[], object]


def attention_calls(x: Tensor, configs: bool) -> Iterator[Call]:
    """Every kernel with everything it can be given, with the tile that the rule picks or with each there is."""
    (n, c, h, w), kind = x.shape, wide(x.dtype)
    last = not x.is_contiguous()
    affine = (torch.empty(n, c, dtype=kind),) * 3
    gate, pooled = torch.empty(n, 1, h, w, dtype=kind), torch.empty(n, 2, h, w, dtype=kind)
    weight, maps = torch.empty(1, 2, 7, 7, dtype=x.dtype), (gate, pooled, pooled, gate)

    def of_layout(given: tuple[Config, ...]) -> list[Config | None]:
        return [each for each in given if each.channels_last == last] if configs else [None]

    for config in of_layout(MOMENT_CONFIGS):
        yield lambda config=config: triton.moments(x, config)  # type: ignore[misc]
    for config in of_layout(SUM_CONFIGS):
        yield lambda config=config: triton.affine_sums(x, x, affine, *maps, config)  # type: ignore[misc]
    for config in of_layout(PIXEL_CONFIGS):
        yield lambda config=config: triton.channel_pool(x, affine, config)  # type: ignore[misc]
        yield lambda config=config: triton.gate_gradient(x, x, affine, gate, pooled, config)  # type: ignore[misc]
    for config in of_layout(VALUE_CONFIGS):
        yield lambda config=config: triton.gated_affine(x, affine, pooled, weight, True, config)  # type: ignore[misc]
        yield lambda config=config: triton.affine_gradient(x, x, affine, *maps, True, *affine[:2], config)  # type: ignore[misc]
    if not configs:
        yield lambda: factors(x, True)


def factors(x: Tensor, everything: bool) -> object:
    """The factors of a plain channel attention, or with a norm and all parameters."""
    c, make = x.shape[1], Make(x.dtype)
    mean = torch.empty(x.shape[:2], dtype=torch.float64)
    layers = make(8, c, 1, 1), make(8), make(c, 8, 1, 1), make(c)
    if everything:
        return triton.factors(mean, mean, make(c), make(c), *layers, 1e-5, "mean+std", True, wide(x.dtype))
    return triton.factors(mean, mean, None, None, layers[0], None, layers[2], None, 1.0, "mean", False, wide(x.dtype))


def attention_variants(x: Tensor) -> Iterator[Call]:
    """With nothing that can be left out, and a small filter."""
    n, c, h, w = x.shape
    nothing, kind = (None, None, None), wide(x.dtype)
    scale, pooled = torch.empty(n, c, dtype=kind), torch.empty(n, 2, h, w, dtype=kind)
    gate, weight = pooled[:, :1].contiguous(), torch.empty(1, 2, 3, 3, dtype=x.dtype)
    yield lambda: triton.moments(x)
    yield lambda: factors(x, False)
    yield lambda: triton.channel_pool(x, nothing)
    yield lambda: triton.gated_affine(x, nothing, pooled, weight, False)
    yield lambda: triton.gated_affine(x, (None, scale, None), None, None, False)
    yield lambda: triton.gate_gradient(x, x, nothing, gate, pooled)
    yield lambda: triton.affine_sums(x, x, (None, scale, None), None, None, None, None)
    yield lambda: triton.affine_gradient(x, x, nothing, gate, pooled, pooled, gate, False, None, None)
