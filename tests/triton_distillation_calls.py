"""The calls of the distillation ops' Triton kernels that triton_targets.py compiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module

import torch
from torch import Tensor

from lightsr_kernels.distillation_fusion import triton as fusion
from lightsr_kernels.split_distillation import triton as split

gradients = import_module("lightsr_kernels.split_distillation.triton_gradients")
Calls = Iterator[tuple[str, Callable[[], object]]]


def distillation_calls() -> Calls:
    """The steps of networks, forward and backward, with the tiles that the rules pick."""
    for dtype in (torch.float32, torch.bfloat16):
        for last in (False, True):
            for name, call in (*step_calls(dtype, last), *fusion_calls(dtype, last)):
                yield f"{name} {dtype} {last=}", call


def picture(channels: int, dtype: torch.dtype, last: bool) -> Tensor:
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(1, channels, 180, 320, dtype=dtype).contiguous(memory_format=layout)


def step_calls(dtype: torch.dtype, last: bool) -> Calls:
    def make(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype)

    def both(x: Tensor, part: int | None, distilled: int, *others: object) -> None:
        args = (x, part, *others)
        rest = picture(x.shape[1] - (part or 0), dtype, last) if others[-1] else x[:, :0]
        split.forward(*args)  # type: ignore[arg-type]
        split.backward([picture(distilled, dtype, last), rest], [True] * count(args), *args)

    for channels, part, distilled, gate in ((64, 16, 16, False), (52, None, 26, False), (64, 16, 16, True)):
        x, weight = picture(channels, dtype, last), make(distilled, part or channels, 1, 1)
        ends = (make(distilled, distilled, 1, 1), make(distilled)) if gate else (None, None)
        others = (make(channels), x, "leaky_relu", 0.05, weight, make(distilled), "gelu", *ends, True)
        yield f"step {channels} {part} {gate=}", lambda a=(x, part, distilled, *others): both(*a)  # type: ignore[misc]
    x = picture(64, dtype, last)
    gate_alone = (None, None, "none", 0.0, None, None, "none", make(64, 64, 1, 1), make(64), False)
    yield "pixel attention", lambda: both(x, None, 64, *gate_alone)


def fusion_calls(dtype: torch.dtype, last: bool) -> Calls:
    def make(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype)

    def both(*args: object) -> None:
        out = fusion.forward(*args)  # type: ignore[arg-type]
        fusion.backward([out], [True] * count(args), *args)

    for widths, channels, factors in (((26,) * 4, 52, True), ((16,) * 4, 64, False), ((128,) * 2, 130, True)):
        parts, joined = [picture(width, dtype, last) for width in widths], sum(widths)
        maps = [picture(1, dtype, False) for _ in widths] if factors else []
        ends = (make(1, joined, 1, 1) if factors else None, maps, make(1), picture(channels, dtype, last), make(1))
        args = (parts, make(channels, joined, 1, 1), make(channels), *ends, "gelu" if factors else "none", 0.0)
        yield f"fusion {widths}", lambda args=args: both(*args)  # type: ignore[misc]


def count(args: tuple[object, ...]) -> int:
    """The tensors among arguments, those in lists included."""
    lists = [each if isinstance(each, list) else [each] for each in args]
    return sum(isinstance(each, Tensor) for group in lists for each in group)
