"""The gradients of gated_pointwise's CPU kernels beyond the matrix of all ops: blocks, types, ties, threads."""

from __future__ import annotations

from math import prod

import pytest
import torch
from torch import Tensor

import lightsr_kernels
from lightsr_kernels.dispatch import call, why_not
from lightsr_kernels.gated_pointwise import native
from lightsr_kernels.gated_pointwise.samples import NAMES, shapes
from lightsr_kernels.spec import SPECS, Make

SPEC = SPECS["gated_pointwise"]
pytestmark = pytest.mark.skipif(why_not("cpu", SPEC, "cpu") is not None, reason="no CPU kernels here")
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
# N, C, H, W, E, P: four channels more than fill vectors of 16, one more, five more; several parts of E; P beyond 16.
SIZES = [(2, 52, 37, 51, 156, 16), (1, 17, 24, 40, 90, 17), (1, 21, 31, 16, 33, 5), (1, 3, 15, 230, 5, 1)]
each_size = pytest.mark.parametrize("size", SIZES, ids=str)


def arguments(size: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    make, (n, c, h, w, e, p) = Make(dtype, seed=seed), size
    # Large enough that relu6 cuts at both ends.
    return [make(n, c, h, w), *(make(*shape, scale=2 * prod(shape[1:]) ** -0.5) for shape in shapes(c, e, p).values())]


def gradients(
    backend: str, args: list[Tensor], grad: Tensor, layout: torch.memory_format = torch.contiguous_format
) -> dict[str, Tensor]:
    leaves = [args[0].contiguous(memory_format=layout), *args[1:]]
    leaves = [each.detach().clone().requires_grad_() for each in leaves]
    with lightsr_kernels.backend(backend):
        out = call(SPEC, *leaves, 1e-5)
    return dict(zip(("x", *NAMES), torch.autograd.grad(out, leaves, grad.to(out.dtype)), strict=True))


def error(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm().clamp(min=1e-30))


@each_size
@each_layout
def test_equal_those_of_the_reference(size: tuple[int, ...], layout: torch.memory_format) -> None:
    args = arguments(size, torch.float64)
    grad = Make(torch.float64, seed=1)(*args[0].shape)
    wanted = gradients("reference", args, grad)
    for name, got in gradients("cpu", args, grad, layout).items():
        assert error(got, wanted[name]) < 1e-12, name


@pytest.mark.parametrize("size", SIZES[:2], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
@each_layout
def test_err_no_more_than_eager(size: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format) -> None:
    args = arguments(size, dtype)
    grad = Make(dtype, seed=1)(*args[0].shape)
    exact = gradients("reference", [each.double() for each in args], grad.double())
    eager = gradients("reference", args, grad)
    for name, got in gradients("cpu", args, grad, layout).items():
        plain = error(eager[name], exact[name])
        allowed = 1.5 * plain + 1e-6 if dtype == torch.float32 else 1.25 * plain
        assert got.dtype == dtype
        assert error(got, exact[name]) <= allowed, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@each_layout
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype, layout: torch.memory_format) -> None:
    args = arguments((2, 52, 45, 50, 90, 6), dtype)
    grad, threads = Make(dtype, seed=1)(*args[0].shape), torch.get_num_threads()
    found = []
    try:
        for many in (1, 2, 3):
            torch.set_num_threads(many)
            found.append(gradients("cpu", args, grad, layout))
    finally:
        torch.set_num_threads(threads)
    for name, got in found[0].items():
        assert torch.equal(got, found[1][name]), name
        assert torch.equal(got, found[2][name]), name


def test_a_tie_of_maxima_goes_to_the_first() -> None:
    """As max_pool2d has it: where all pixels are equal, each window's gradient goes to its first."""
    size = (1, 5, 41, 43, 3, 2)
    args = dict(zip(("x", *NAMES), arguments(size, torch.float64), strict=True))
    args["x"] = args["x"][:, :, :1, :1].expand(1, 5, 41, 43).contiguous()
    grad = Make(torch.float64, seed=1)(1, 5, 41, 43)
    wanted = gradients("reference", list(args.values()), grad)
    shifted = gradients("reference", list(args.values()), grad.flip(2, 3))
    assert error(shifted["x"].flip(2, 3), wanted["x"]) > 1e-3  # the last would be another gradient
    for name, got in gradients("cpu", list(args.values()), grad).items():
        assert error(got, wanted[name]) < 1e-10, name


def test_relu6_passes_no_gradient_at_its_ends() -> None:
    args = dict(zip(("x", *NAMES), arguments((1, 4, 16, 17, 6, 2), torch.float32), strict=True))
    grad = Make(seed=1)(1, 4, 16, 17)
    args["weight_a"] = torch.zeros_like(args["weight_a"])
    for value, passes in ((0.0, False), (6.0, False), (3.0, True), (-1.0, False), (7.0, False)):
        args["bias_a"] = torch.full_like(args["bias_a"], value)
        found = gradients("cpu", list(args.values()), grad)
        assert bool(found["weight_a"].any()) is passes
        assert bool(found["bias_a"].any()) is passes


@each_layout
def test_a_gradient_that_is_no_number_is_where_the_reference_has_it(layout: torch.memory_format) -> None:
    args = arguments((2, 6, 30, 34, 12, 4), torch.float64)
    grad = Make(torch.float64, seed=1)(*args[0].shape)
    grad[1, 2, 11, 13] = torch.nan
    wanted = gradients("reference", args, grad, layout)
    got = gradients("cpu", args, grad, layout)
    assert wanted["x"].isnan().any()
    assert not wanted["x"][0].isnan().any()
    for name in wanted:
        assert torch.equal(got[name].isnan(), wanted[name].isnan()), name


def test_without_filters_the_gradient_of_x_is_the_same() -> None:
    args = arguments((1, 20, 33, 40, 30, 4), torch.float32)
    grad = Make(seed=1)(*args[0].shape)
    wanted = gradients("cpu", args, grad)["x"]
    flags = [True, *[False] * len(NAMES)]
    (got,) = native.backward([grad], flags, *args, 1e-5)
    assert torch.equal(got, wanted)


def test_what_the_forward_kept_changes_no_bit() -> None:
    args = arguments((1, 20, 33, 40, 30, 4), torch.float32)
    grad, flags = Make(seed=1)(*args[0].shape), [True] * (len(NAMES) + 1)
    out, kept = native.forward_keeping(*args, 1e-5)
    assert sum(each.numel() for each in kept) < 17 * 33 * 40  # nothing of the 30 expanded channels
    assert torch.equal(out, native.forward(*args, 1e-5))
    with_kept = native.backward([grad], flags, *args, 1e-5, kept=kept)
    for one, other in zip(with_kept, native.backward([grad], flags, *args, 1e-5), strict=True):
        assert torch.equal(one, other)
