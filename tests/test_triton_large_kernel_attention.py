"""large_kernel_attention on Triton against the reference, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from lightsr_kernels.large_kernel_attention.reference import reference
from lightsr_kernels.spec import SPECS, Make

pytest.importorskip("triton")
from triton import knobs

from lightsr_kernels import triton_common
from lightsr_kernels.large_kernel_attention import triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and not knobs.runtime.interpret:
    pytest.skip("no GPU, and TRITON_INTERPRET is not 1", allow_module_level=True)

EACH_LAYOUT = pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"]
)
EACH_DTYPE = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=lambda each: str(each)[6:]
)


def call(
    make: Make, layout: torch.memory_format, shape: tuple[int, int, int, int] = (1, 3, 5, 6), **given: bool
) -> tuple[Any, ...]:
    """The arguments of a call with small filters, 3x3 and 3x3 with dilation 2."""
    c = shape[1]
    x, residual = (make(*shape).contiguous(memory_format=layout) for _ in range(2))
    weights = make(c, 1, 3, 3), make(c), make(c, 1, 3, 3), make(c), make(c, c, 1, 1), make(c), 2
    ends = make(c, c, 1, 1), make(c), [residual[:, :1], residual[:, 1:]]
    return (x, *weights, *(ends if given.get("ends", True) else (None, None, [])))


def in_double(args: tuple[Any, ...]) -> list[Any]:
    return [tree_map(lambda each: each.double() if isinstance(each, Tensor) else each, value) for value in args]


@EACH_DTYPE
@EACH_LAYOUT
@pytest.mark.parametrize("ends", [True, False], ids=["out-residual", "gate-alone"])
def test_as_exact_as_eager(dtype: torch.dtype, layout: torch.memory_format, ends: bool) -> None:
    args = call(Make(dtype, DEVICE), layout, ends=ends)
    wanted = reference(*in_double(args))
    allowed = 1.25 * (reference(*args).double() - wanted).norm()
    if dtype in (torch.float32, torch.float64):  # where eager may be right to the last bit by luck
        allowed = 4 * torch.finfo(dtype).eps * wanted.norm()
    got = triton.forward(*args)
    assert got.dtype == dtype
    assert got.stride() == args[0].stride()
    assert (got.double() - wanted).norm() <= allowed


@EACH_LAYOUT
def test_the_filters_of_the_visual_attention_network(layout: torch.memory_format) -> None:
    """5x5, then 7x7 with dilation 3; what lies between them is zero outside the picture, whatever bias1 is."""
    sample = next(iter(SPECS["large_kernel_attention"].samples(Make(device=DEVICE, integers=True))))
    args = (sample.args[0].contiguous(memory_format=layout), *sample.args[1:])
    assert torch.equal(triton.forward(*args), reference(*in_double(args)).float())


@EACH_DTYPE
@EACH_LAYOUT
def test_gradients(dtype: torch.dtype, layout: torch.memory_format) -> None:
    args = call(Make(dtype, DEVICE), layout)
    grad = torch.randn_like(args[0])
    exact = in_double(args)
    inputs = [each.requires_grad_() for each in tree_leaves(exact) if isinstance(each, Tensor)]
    wanted = torch.autograd.grad(reference(*exact), inputs, grad.double())
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    for one, other in zip(triton.backward([grad], [True] * len(inputs), *args), wanted, strict=True):
        assert one.dtype == dtype
        assert (one.double() - other).norm() <= tolerance * other.norm()


@EACH_LAYOUT
@pytest.mark.parametrize("shape", [(0, 3, 5, 5), (2, 0, 5, 5), (2, 3, 0, 5), (1, 1, 1, 1), (2, 2, 1, 3)])
def test_any_size(shape: tuple[int, int, int, int], layout: torch.memory_format) -> None:
    args = call(Make(device=DEVICE, integers=True), layout, shape)
    got = triton.forward(*args)
    assert got.shape == shape
    if got.numel():
        assert torch.equal(got, reference(*in_double(args)).float())


@EACH_LAYOUT
@pytest.mark.parametrize("channels", [3, 70])
def test_wide_offsets_and_several_launches(
    layout: torch.memory_format, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Make(device=DEVICE, integers=True)
    x, gate, residual = (make(2, channels, 6, 9).contiguous(memory_format=layout) for _ in range(3))
    args = (x, gate, make(channels, channels, 1, 1), None, make(channels, channels, 1, 1), None, residual)
    narrow = triton.mix(*args)
    monkeypatch.setattr(triton_common, "NARROW", 0)
    monkeypatch.setattr(triton, "MOST_PROGRAMS", 2)
    assert torch.equal(triton.mix(*args), narrow)


@EACH_LAYOUT
def test_twenty_runs_give_the_same_bits(layout: torch.memory_format) -> None:
    make = Make(device=DEVICE)
    x, gate, residual = (make(1, 17, 3, 5).contiguous(memory_format=layout) for _ in range(3))
    args = (x, gate, make(17, 17, 1, 1), make(17), make(17, 17, 1, 1), make(17), residual)
    runs = [triton.mix(*args) for _ in range(20)]
    assert all(torch.equal(each, runs[0]) for each in runs)
