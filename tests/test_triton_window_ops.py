"""The ops on windows and layer norms, and multi_attention, on Triton against the reference, forward and backward."""

from __future__ import annotations

from importlib import import_module
from math import prod
from typing import Any

import pytest
import torch
from op_cases import change, tensors
from torch import Tensor

from lightsr_kernels.functional import layout_of
from lightsr_kernels.gated_pointwise.samples import shapes
from lightsr_kernels.spec import SPECS, Make

pytest.importorskip("triton")
from triton import knobs

from lightsr_kernels import triton_common

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and not knobs.runtime.interpret:
    pytest.skip("no GPU, and TRITON_INTERPRET is not 1", allow_module_level=True)

OPS = ("window_attention", "attention_maps", "gated_feed_forward", "gated_pointwise", "multi_attention")
KERNELS = {name: import_module(f"lightsr_kernels.{name}.triton") for name in OPS}
EACH_OP = pytest.mark.parametrize("op", OPS)
EACH_LAYOUT = pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"]
)
EACH_DTYPE = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=lambda each: str(each)[6:]
)


def arguments(op: str, make: Make, layout: torch.memory_format, c: int = 5, grid: bool = True) -> tuple[Any, ...]:
    """A small call of an op; the sets of the first two have 9 pixels each."""

    def weight(*shape: int) -> Tensor:
        return make(*shape, scale=prod(shape[1:]) ** -0.5)

    norm = make(c, offset=1.0), make(c, scale=0.5)
    if op == "window_attention":
        args: tuple[Any, ...] = (make(1, c, 6, 3), make(2, 9, 9), *norm, weight(c, c), weight(c, c), 3, grid, 1e-5)
    elif op == "attention_maps":
        args = (make(1, c, 3, 6), *norm, weight(2 * c, c), make(25), 3, grid, 1e-3)
    elif op == "gated_feed_forward":
        args = (make(1, c, 5, 3), *norm, weight(8, c, 1, 1), make(8, 1, 3, 3, scale=0.3), weight(c, 4, 1, 1), 1e-6)
    elif op == "gated_pointwise":
        args = (make(1, c, 15, 16), *(weight(*shape) for shape in shapes(c, 2 * c, 3).values()), 1e-6)
    else:
        channels = [weight(1, c, 1, 1), make(1, offset=0.5), weight(c, 1, 1, 1), make(c)]
        layers = [weight(c, c, 1, 1), make(c), make(1, 2, 3, 3, scale=0.3), *channels]
        ends = weight(4, c, 1, 1), make(4), make(1, 4, 5, 3)
        args = ([make(1, c, 5, 3)], *([each] for each in layers), *ends)
    laid_out: tuple[Any, ...] = change(
        args, lambda each: each.contiguous(memory_format=layout) if each.dim() == 4 else each
    )
    return laid_out


def gradients(op: str, args: Any, grad: Tensor, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Those of the reference."""
    exact = change(args, lambda each: each.detach().to(dtype).requires_grad_())
    return list(torch.autograd.grad(SPECS[op].reference(*exact), tensors(exact), grad.to(dtype)))


def result_of(op: str, args: Any) -> Tensor:
    """Memory like a result's."""
    out: Tensor = SPECS[op].fake(*args)
    return out


@EACH_OP
@EACH_DTYPE
@EACH_LAYOUT
def test_as_exact_as_eager(op: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
    args = arguments(op, Make(dtype, DEVICE), layout)
    got, eager = KERNELS[op].forward(*args), SPECS[op].reference(*args)
    exact = SPECS[op].reference(*change(args, Tensor.double))
    allowed = 1.25 * (eager.double() - exact).norm()
    if dtype in (torch.float32, torch.float64):  # where eager may be right to the last bit by luck
        allowed = 8 * torch.finfo(dtype).eps * exact.norm()
    assert got.dtype == dtype
    assert got.dim() == 3 or got.is_contiguous(memory_format=layout_of(tensors(args)[0]))
    assert (got.double() - exact).norm() <= allowed


@EACH_OP
@EACH_DTYPE
def test_gradients(op: str, dtype: torch.dtype) -> None:
    if op == "gated_pointwise" and dtype == torch.bfloat16 and DEVICE == "cpu":
        pytest.skip("there the interpreter computes in float32, and slowly")
    tolerance = {torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    layout = torch.channels_last if dtype.itemsize == 8 else torch.contiguous_format
    args = arguments(op, Make(dtype, DEVICE), layout, grid=False)
    grad = torch.randn_like(result_of(op, args))
    wanted, eager = gradients(op, args, grad), gradients(op, args, grad, dtype)
    got = KERNELS[op].backward([grad], [True] * len(wanted), *args)
    for one, other, plain, like in zip(got, wanted, eager, tensors(args), strict=True):
        assert one.dtype == dtype
        assert one.stride() == like.stride()
        allowed = tolerance * other.norm() + 4 * (plain.double() - other).norm()  # where terms cancel
        assert (one.double() - other).norm() <= allowed


@EACH_OP
def test_each_gradient_alone_has_the_same_bits(op: str) -> None:
    args = arguments(op, Make(torch.float64, DEVICE), torch.channels_last)
    grad = torch.randn_like(result_of(op, args))
    count = len(tensors(args))
    every = KERNELS[op].backward([grad], [True] * count, *args)
    assert torch.equal(KERNELS[op].forward(*args), KERNELS[op].forward(*args))
    for k in range(0, count, 1 if count < 7 else 12):
        (alone,) = KERNELS[op].backward([grad], [i == k for i in range(count)], *args)
        assert torch.equal(alone, every[k]), k
    memory = {each.untyped_storage().data_ptr() for each in (*every, *tensors(args), grad)}
    assert len(memory) == 2 * count + 1


@EACH_OP
def test_wide_offsets_and_several_launches(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    args = arguments(op, Make(device=DEVICE), torch.channels_last)
    grad, flags = torch.randn_like(result_of(op, args)), [True] * len(tensors(args))

    def run() -> list[Tensor]:
        return [KERNELS[op].forward(*args), *KERNELS[op].backward([grad], flags, *args)]

    narrow = run()
    monkeypatch.setattr(triton_common, "NARROW", 0)
    for name, files in LAUNCHERS.items():
        for file in files:
            monkeypatch.setattr(import_module(f"lightsr_kernels.{name}.{file}"), "MOST_PROGRAMS", 1)
    assert all(torch.equal(one, other) for one, other in zip(run(), narrow, strict=True))


LAUNCHERS = {
    "attention_maps": ("triton", "triton_project", "triton_gradients"),
    "window_attention": ("triton_launch",),
    "gated_feed_forward": ("triton_launch",),
    "gated_pointwise": ("triton_launch", "triton_gradients"),
    "multi_attention": ("triton_launch",),
}


@EACH_OP
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_pixel_that_is_no_number_spreads_as_in_the_reference(op: str, value: float) -> None:
    args = arguments(op, Make(device=DEVICE), torch.contiguous_format)
    x = tensors(args)[0]
    x[-1, 1, x.shape[2] // 2, x.shape[3] - 1] = value
    got, wanted = KERNELS[op].forward(*args), SPECS[op].reference(*args)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5, equal_nan=True)


@EACH_OP
def test_more_channels_than_a_tile_has(op: str) -> None:
    c = {"multi_attention": 20, "gated_pointwise": 17}.get(op, 70)
    args = arguments(op, Make(torch.float64, DEVICE), torch.contiguous_format, c)
    torch.testing.assert_close(KERNELS[op].forward(*args), SPECS[op].reference(*args), rtol=1e-12, atol=1e-12)
