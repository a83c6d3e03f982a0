"""split_distillation, distillation_fusion and pixel_attention on Triton against the reference, forward and backward."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch
from op_cases import change, filled, outputs, tensors
from torch import Tensor

from lightsr_kernels.functional import layout_of
from lightsr_kernels.spec import SPECS, Make, Sample

pytest.importorskip("triton")
from triton import knobs

from lightsr_kernels.split_distillation import triton_tiles

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and not knobs.runtime.interpret:
    pytest.skip("no GPU, and TRITON_INTERPRET is not 1", allow_module_level=True)

OPS = ("split_distillation", "distillation_fusion", "pixel_attention")
KERNELS = {name: import_module(f"lightsr_kernels.{name}.triton") for name in OPS}
EACH_OP = pytest.mark.parametrize("op", OPS)
EACH_LAYOUT = pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"]
)
EACH_DTYPE = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=lambda each: str(each)[6:]
)


def samples(op: str, layout: torch.memory_format, make: Make) -> list[Sample]:
    def lay_out(value: Tensor) -> Tensor:
        return value.contiguous(memory_format=layout) if value.dim() == 4 else value

    return [Sample(each.name, change(each.args, lay_out)) for each in filled(SPECS[op].samples(make))]


def gradients(op: str, args: Any, grads: list[Tensor], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Those of the reference."""
    exact = change(args, lambda each: each.detach().to(dtype).requires_grad_())
    out = outputs(SPECS[op].reference(*exact))
    given = [each.to(dtype) for each in grads]
    return list(torch.autograd.grad(out, tensors(exact), given, allow_unused=True, materialize_grads=True))


@EACH_OP
@EACH_DTYPE
@EACH_LAYOUT
def test_as_exact_as_eager(op: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
    for sample in samples(op, layout, Make(dtype, DEVICE)):
        reference = SPECS[op].reference
        exact, eager = outputs(reference(*change(sample.args, Tensor.double))), outputs(reference(*sample.args))
        for got, wanted, plain in zip(outputs(KERNELS[op].forward(*sample.args)), exact, eager, strict=True):
            allowed = 1.25 * (plain.double() - wanted).norm()
            if dtype in (torch.float32, torch.float64):  # where eager may be right to the last bit by luck
                allowed = 4 * torch.finfo(dtype).eps * wanted.norm()
            assert got.dtype == dtype
            assert got.is_contiguous(memory_format=layout_of(tensors(sample.args)[0]))
            assert (got.double() - wanted).norm() <= allowed, sample.name


@EACH_OP
@EACH_DTYPE
@EACH_LAYOUT
def test_gradients(op: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
    tolerance = {torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    for sample in samples(op, layout, Make(dtype, DEVICE)):
        grads = [torch.randn_like(each) for each in outputs(KERNELS[op].forward(*sample.args))]
        wanted, eager = gradients(op, sample.args, grads), gradients(op, sample.args, grads, dtype)
        got = KERNELS[op].backward(grads, [True] * len(wanted), *sample.args)
        for one, other, plain, like in zip(got, wanted, eager, tensors(sample.args), strict=True):
            assert one.dtype == dtype
            assert one.stride() == like.stride()
            allowed = tolerance * other.norm() + 4 * (plain.double() - other).norm()  # where terms cancel
            assert (one.double() - other).norm() <= allowed, sample.name


@pytest.mark.parametrize("op", OPS[:2])
@EACH_LAYOUT
def test_each_gradient_alone_is_the_same(op: str, layout: torch.memory_format) -> None:
    for sample in samples(op, layout, Make(device=DEVICE)):
        grads = [torch.randn_like(each) for each in outputs(KERNELS[op].forward(*sample.args))]
        count = len(tensors(sample.args))
        every = KERNELS[op].backward(grads, [True] * count, *sample.args)
        for k in range(count):
            (alone,) = KERNELS[op].backward(grads, [i == k for i in range(count)], *sample.args)
            assert torch.equal(alone, every[k]), (sample.name, k)


@EACH_OP
@EACH_LAYOUT
def test_channels_of_a_wider_picture(op: str, layout: torch.memory_format) -> None:
    def sliced(value: Tensor) -> Tensor:
        wide = torch.full((value.shape[0], value.shape[1] + 3, *value.shape[2:]), 9.0, device=DEVICE)
        wide = wide.contiguous(memory_format=layout)
        wide[:, 1:-2] = value
        return wide[:, 1:-2]

    for sample in samples(op, layout, Make(device=DEVICE))[:4]:
        pictures = {id(each) for each in tensors(sample.args) if each.dim() == 4 and each.shape[2:].numel() > 1}
        args = change(sample.args, lambda each, pictures=pictures: sliced(each) if id(each) in pictures else each)
        plain, got = outputs(KERNELS[op].forward(*sample.args)), outputs(KERNELS[op].forward(*args))
        assert all(torch.equal(one, other) for one, other in zip(got, plain, strict=True)), sample.name
        wanted = [True] * len(tensors(args))
        grads = [torch.randn_like(each) for each in plain]
        for one, other in zip(
            KERNELS[op].backward(grads, wanted, *args), KERNELS[op].backward(grads, wanted, *sample.args), strict=True
        ):
            assert torch.equal(one, other), sample.name


@EACH_OP
@EACH_LAYOUT
def test_wide_offsets_and_several_launches(
    op: str, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sample in samples(op, layout, Make(device=DEVICE)):
        grads = [torch.randn_like(each) for each in outputs(KERNELS[op].forward(*sample.args))]
        flags = [True] * len(tensors(sample.args))

        def run(sample: Sample = sample, grads: list[Tensor] = grads, flags: list[bool] = flags) -> list[Tensor]:
            return [*outputs(KERNELS[op].forward(*sample.args)), *KERNELS[op].backward(grads, flags, *sample.args)]

        narrow = run()
        with monkeypatch.context() as patch:
            patch.setattr(triton_tiles, "NARROW", 0)
            for owner in ("split_distillation", "distillation_fusion"):
                for file in ("triton", "triton_gradients"):
                    patch.setattr(import_module(f"lightsr_kernels.{owner}.{file}"), "MOST_PROGRAMS", 1)
            assert all(torch.equal(one, other) for one, other in zip(run(), narrow, strict=True)), sample.name


@EACH_OP
@EACH_LAYOUT
@pytest.mark.parametrize("shape", [(0, 5, 5, 6), (2, 5, 1, 1), (1, 5, 1, 7), (3, 5, 4, 1)], ids=str)
def test_any_size(op: str, layout: torch.memory_format, shape: tuple[int, int, int, int]) -> None:
    make = Make(device=DEVICE)
    x, residual, weight = (
        each.contiguous(memory_format=layout) for each in (make(*shape), make(*shape), make(5, 5, 1, 1))
    )
    args = {
        "split_distillation": (x, None, make(5), residual, "relu", 0.0, weight, None, "none", None, None, True),
        "distillation_fusion": ([x, residual], make(3, 10, 1, 1), make(3), None, [], make(1), None, None, "none", 0.0),
        "pixel_attention": (x, weight, make(5)),
    }[op]
    out = outputs(KERNELS[op].forward(*args))
    for got, wanted in zip(out, outputs(SPECS[op].reference(*args)), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    grads = [torch.ones_like(each) for each in out]
    found = KERNELS[op].backward(grads, [True] * len(tensors(args)), *args)
    for one, other in zip(found, gradients(op, args, grads), strict=True):
        torch.testing.assert_close(one, other.float(), rtol=1e-5, atol=1e-5)


@EACH_OP
def test_twenty_runs_give_the_same_bits(op: str) -> None:
    sample = samples(op, torch.channels_last, Make(device=DEVICE))[-1]
    grads = [torch.randn_like(each) for each in outputs(KERNELS[op].forward(*sample.args))]
    flags = [True] * len(tensors(sample.args))
    runs = [
        [*outputs(KERNELS[op].forward(*sample.args)), *KERNELS[op].backward(grads, flags, *sample.args)]
        for _ in range(20)
    ]
    assert all(torch.equal(one, other) for each in runs for one, other in zip(each, runs[0], strict=True))


@EACH_OP
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_pixel_that_is_no_number_spreads_as_in_the_reference(op: str, value: float) -> None:
    for sample in samples(op, torch.contiguous_format, Make(device=DEVICE)):
        x = tensors(sample.args)[0]
        x[-1, 0, x.shape[2] // 2, x.shape[3] // 2] = value
        exact = outputs(SPECS[op].reference(*change(sample.args, Tensor.double)))
        for got, wanted in zip(outputs(KERNELS[op].forward(*sample.args)), exact, strict=True):
            assert torch.equal(got.isfinite(), wanted.isfinite()), sample.name
            assert torch.equal(got.isnan(), wanted.isnan()), sample.name
