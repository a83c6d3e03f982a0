"""The convolution that a step begins with, where it is a call of its own: dense_conv has the rules for that."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ..dense_conv import SPEC as DENSE_CONV
from ..dispatch import call, requested
from ..functional import dense_as, layout_of

_PLAIN: tuple[Any, ...] = (None, "none", 0.0, None, 1)  # nothing but the convolution: what follows x and its filters


def convolved(
    x: Tensor,  # [N, C_in, H, W]
    convolution: Tensor,  # [C, C_in, KH, KW]
) -> Tensor:  # [N, C, H, W]
    """The convolution: dense_conv's, or PyTorch's where a backend was asked for by name that has no kernels of it."""
    args = (x, convolution, *_PLAIN)
    return cast(Tensor, call(DENSE_CONV, *args) if _dispatched() else DENSE_CONV.reference(*args))


def in_layout_of(x: Tensor, results: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Results of a step on a convolution of x. One channel between them lies the same way in both layouts."""
    layout = layout_of(x)
    return results[0].contiguous(memory_format=layout), results[1].contiguous(memory_format=layout)


def gradients(
    grad: Tensor,  # [N, C, H, W]
    wanted: list[bool],  # of x and of the filters
    x: Tensor,  # [N, C_in, H, W]
    convolution: Tensor,  # [C, C_in, KH, KW]
) -> list[Tensor]:
    """Those gradients of the convolution that are wanted."""
    if _dispatched():
        return cast(list[Tensor], torch.ops.lightsr.dense_conv_backward([grad], wanted, x, convolution, *_PLAIN))
    padding = [side // 2 for side in convolution.shape[2:]]
    backward = torch.ops.aten.convolution_backward
    found = backward(grad, x, convolution, None, [1, 1], padding, [1, 1], False, [0, 0], 1, [*wanted, False])
    return [dense_as(value, like) for value, like in zip(found, (x, convolution), strict=False) if value is not None]


def _dispatched() -> bool:
    """Whether dense_conv may choose; not where a backend was asked for by name that has no kernels of it."""
    return requested() in ("auto", *DENSE_CONV.backends)
