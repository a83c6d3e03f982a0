"""Calls of the Triton kernels of the ops on windows and layer norms, for triton_targets.py to compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lightsr_kernels.attention_maps import triton as maps
from lightsr_kernels.gated_feed_forward import triton as feed_forward
from lightsr_kernels.gated_pointwise import triton as pointwise
from lightsr_kernels.gated_pointwise.samples import shapes
from lightsr_kernels.multi_attention import triton as multi
from lightsr_kernels.window_attention import triton as windows

WINDOW_OPS = ("window_attention", "attention_maps", "gated_feed_forward", "gated_pointwise", "multi_attention")
Calls = Iterator[tuple[str, Callable[[], object]]]


def window_calls() -> Calls:
    """A width of networks, forward and backward, with the tiles that the rules pick."""
    for dtype, last in ((torch.float32, False), (torch.bfloat16, True)):
        for name, call in (*layer_calls(dtype, last), *gate_calls(dtype, last)):
            yield f"{name} {dtype} {last=}", call


def layer_calls(dtype: torch.dtype, last: bool) -> Calls:
    def make(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype)

    x, c = picture(make(1, 48, 184, 320), last), 48
    norm, square, weights = (make(c), make(c)), make(c, c), make(23 * 40, 64, 64)
    args: tuple[Any, ...] = (x, weights, *norm, square, square, 8, False, 1e-5)
    yield "window_attention", lambda a=args: both(windows, a, a[0])  # type: ignore[misc]
    args = (x, *norm, make(2 * c, c), make(225), 8, True, 1e-5)
    yield "attention_maps", lambda a=args, g=weights: both(maps, a, g)  # type: ignore[misc]
    args = (x, *norm, make(2 * c, c, 1, 1), make(2 * c, 1, 3, 3), make(c, c, 1, 1), 1e-6)
    yield "gated_feed_forward", lambda a=args: both(feed_forward, a, a[0])  # type: ignore[misc]


def gate_calls(dtype: torch.dtype, last: bool) -> Calls:
    def make(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype)

    x = picture(make(1, 52, 180, 320), last)
    args: tuple[Any, ...] = (x, *(make(*shape) for shape in shapes(52, 156, 16).values()), 1e-6)
    yield "gated_pointwise", lambda a=args: both(pointwise, a, a[0])  # type: ignore[misc]
    part, channels = picture(make(1, 26, 180, 320), last), (make(6, 26, 1, 1), make(6), make(26, 6, 1, 1), make(26))
    layers = [make(26, 26, 1, 1), make(26), make(1, 2, 7, 7), *channels]
    args = ([part], *([each] for each in layers), make(52, 26, 1, 1), make(52), x)
    yield "multi_attention", lambda a=args: both(multi, a, a[-1])  # type: ignore[misc]


def picture(x: Tensor, last: bool) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def both(kernels: Any, args: tuple[Any, ...], grad: Tensor) -> None:
    lists = [each if isinstance(each, list) else [each] for each in args]
    count = sum(isinstance(each, Tensor) for group in lists for each in group)
    kernels.forward(*args)
    kernels.backward([grad], [True] * count, *args)
