"""The CPU kernels' gradients of the attention ops and of gated_feed_forward beyond the matrix of all ops.

Pictures of many tiles, runs and blocks; any subset of the gradients; numbers of threads; 16 bits; and where a gradient
that is no number may get to.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_depthwise_cpu_kernels import assert_same_with_threads
from test_window_cpu_kernels import arguments as window_arguments
from test_window_cpu_kernels import here
from torch import Tensor

import lightsr_kernels
from lightsr_kernels.dispatch import call
from lightsr_kernels.functional import layout_of
from lightsr_kernels.spec import SPECS, Make

OPS = ("window_attention", "attention_maps", "gated_feed_forward", "large_kernel_attention")
each_op = pytest.mark.parametrize("op", OPS)
each_layout = pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"]
)
pytestmark = here


def arguments(
    op: str, size: tuple[Any, ...], dtype: torch.dtype, layout: torch.memory_format, grid: bool = True
) -> list[Any]:
    shape, window, hidden = size
    if op == "large_kernel_attention":
        make, c = Make(dtype), shape[1]
        near, far = make(c, 1, 3, 3, scale=0.3), make(c, 1, 5, 5, scale=0.2)
        mix, out = make(c, c, 1, 1, scale=c**-0.5), make(c, c, 1, 1, scale=c**-0.5)
        args: list[Any] = [make(*shape), near, make(c), far, make(c), mix, make(c), 2, out, make(c), make(*shape)]
    else:
        args = window_arguments(op, shape, window, hidden, grid, dtype)
    return [each.contiguous(memory_format=layout) if _is_picture(each, args) else each for each in args]


def _is_picture(value: Any, args: list[Any]) -> bool:
    return isinstance(value, Tensor) and value.shape == args[0].shape


def gradients(backend: str, op: str, args: list[Any], wanted: set[int] | None = None) -> list[Tensor]:
    """Of the tensors in their order, or of those in these places alone, for a gradient that is the same each time."""
    fresh = [each.detach().clone() if isinstance(each, Tensor) else each for each in args]
    places = [place for place, each in enumerate(fresh) if isinstance(each, Tensor)]
    asked = [fresh[place].requires_grad_() for place in places if wanted is None or place in wanted]
    last = [fresh[-1:]] if op == "large_kernel_attention" else fresh[-1:]  # its residual is a list of parts
    with lightsr_kernels.backend(backend):
        out = call(SPECS[op], *fresh[:-1], *last)
    grad = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).cos().reshape(out.shape)
    return list(torch.autograd.grad(out, asked, grad.to(out.dtype)))


def widened(args: list[Any]) -> list[Any]:
    return [each.double() if isinstance(each, Tensor) else each for each in args]


@each_op
@each_layout
@pytest.mark.parametrize(
    "size",
    [((2, 20, 16, 264), 8, 24), ((1, 6, 120, 130), 5, 6), ((3, 2, 48, 12), 12, 2), ((1, 33, 8, 136), 8, 7)],
    ids=str,
)
def test_pictures_of_many_tasks(size: Any, layout: torch.memory_format, op: str) -> None:
    for grid in [True, False] if op in ("window_attention", "attention_maps") else [True]:
        args = arguments(op, size, torch.float64, layout, grid)
        for got, wanted in zip(gradients("cpu", op, args), gradients("reference", op, args), strict=True):
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-11 * max(1, float(wanted.abs().max())))
        assert layout_of(gradients("cpu", op, args, {0})[0]) == layout


@each_op
@each_layout
def test_a_gradient_alone_is_the_same_bits(layout: torch.memory_format, op: str) -> None:
    args = arguments(op, ((2, 18, 16, 24), 8, 5), torch.float32, layout)
    together = gradients("cpu", op, args)
    places = [place for place, each in enumerate(args) if isinstance(each, Tensor)]
    for number, place in enumerate(places):
        assert torch.equal(gradients("cpu", op, args, {place})[0], together[number]), place


@each_op
@each_layout
def test_the_number_of_threads_changes_no_bit(layout: torch.memory_format, op: str) -> None:
    given = [arguments(op, ((2, 20, 48, 160), 8, 20), dtype, layout) for dtype in (torch.float32, torch.bfloat16)]
    assert_same_with_threads(lambda: [each for args in given for each in gradients("cpu", op, args)])


@each_op
@each_layout
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_16_bits_are_as_exact_as_eager(dtype: torch.dtype, layout: torch.memory_format, op: str) -> None:
    for size in (((2, 48, 16, 24), 8, 48), ((1, 17, 15, 35), 5, 11)):
        args = arguments(op, size, dtype, layout)
        exact = gradients("reference", op, widened(args))
        mine, eager = gradients("cpu", op, args), gradients("reference", op, args)
        for place, (got, plain, wanted) in enumerate(zip(mine, eager, exact, strict=True)):
            assert got.dtype == dtype
            if op == "large_kernel_attention" and 1 <= place <= 4:
                continue  # sums of what stands in 16 bits between two operators, as in eager code: luck
            error, allowed = (got.double() - wanted).norm(), (plain.double() - wanted).norm()
            assert error <= 1.25 * allowed, f"{size[0]}, {place}: {error:.2e}, eager {allowed:.2e}"


@each_op
@each_layout
def test_a_pixel_that_is_no_number_stays_within_reach(layout: torch.memory_format, op: str) -> None:
    """Of the gradient of x: other sets of a run, other tiles and padding stay clear of it."""
    for size in (((2, 17, 25, 120), 5, 7), ((2, 16, 40, 192), 8, 16)):
        args = arguments(op, size, torch.float32, layout)
        args[0][1, size[0][1] - 1, size[1] + 1, 3 * size[1]] = torch.nan
        wanted, got = gradients("reference", op, widened(args), {0})[0], gradients("cpu", op, args, {0})[0]
        assert wanted.isnan().any() and not wanted.isnan().all()
        assert torch.equal(got.isnan(), wanted.isnan())
