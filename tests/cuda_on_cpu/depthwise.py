"""What the tests of both kinds of depthwise kernels share: numbers that are none, in the gradient of the weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

Size = tuple[int, int]


def tap_by_tap(grad: Tensor, x: Tensor, size: Size, dilation: Size) -> Tensor:
    """The gradient of the weights from pixels that meet inside the picture alone, in float64."""
    grad, x, (h, w) = grad.double(), x.double(), x.shape[2:]
    out = torch.zeros(x.shape[1], 1, *size, dtype=torch.float64)
    for i, j in itertools.product(*map(range, size)):
        down, right = (i - size[0] // 2) * dilation[0], (j - size[1] // 2) * dilation[1]
        here = grad[..., max(0, -down) : max(0, min(h, h - down)), max(0, -right) : max(0, min(w, w - right))]
        there = x[..., max(0, down) : max(0, min(h, h + down)), max(0, right) : max(0, min(w, w + right))]
        out[:, 0, i, j] = (here * there).sum((0, 2, 3))
    return out


def check_what_is_not_finite(gradient: Callable[[Tensor, Tensor, Size, Size], Tensor], dtype: torch.dtype) -> None:
    """An infinite pixel at the border gets into the taps that touch it, and makes no others NaN."""
    size, dilation = (5, 7), (1, 1)
    grad, x = torch.randn(1, 3, 20, 30).to(dtype), torch.randn(1, 3, 20, 30).to(dtype)
    grad[0, 0, 0, 0] = float("inf")  # taps above and left of the middle never meet it
    x[0, 1, 19, 29] = -float("inf")
    grad[0, 2, 10, 29] = float("nan")
    found, expected = gradient(grad, x, size, dilation), tap_by_tap(grad, x, size, dilation)
    assert expected.isfinite().any() and expected.isinf().any() and expected.isnan().any()
    assert torch.equal(found.isnan(), expected.isnan()) and torch.equal(found.isinf(), expected.isinf())
    rest = expected.isfinite()
    assert torch.allclose(found[rest].double(), expected[rest], rtol=2e-2 if dtype.itemsize == 2 else 1e-4, atol=2e-2)
