"""depthwise_conv on Triton against the reference: every dtype, layout and activation, odd sizes, wide offsets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import lightsr_kernels
from lightsr_kernels.depthwise_conv.reference import reference
from lightsr_kernels.functional import ACTIVATIONS
from lightsr_kernels.spec import Make

pytest.importorskip("triton")
from triton import knobs

from lightsr_kernels import triton_common
from lightsr_kernels.depthwise_conv import triton, triton_configs
from lightsr_kernels.depthwise_conv.triton_configs import CONFIGS, WEIGHT_CONFIGS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and not knobs.runtime.interpret:
    pytest.skip("no GPU, and TRITON_INTERPRET is not 1", allow_module_level=True)

LAST = torch.channels_last
EACH_LAYOUT = pytest.mark.parametrize("layout", [torch.contiguous_format, LAST], ids=["contiguous", "channels-last"])
EACH_DTYPE = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=lambda each: str(each)[6:]
)


def picture(make: Make, *shape: int, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    return make(*shape).contiguous(memory_format=layout)


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: list[int]) -> Tensor:
    return reference(x, weight, bias, dilation, "none", 0.0, None, None)


def gradients_of(*args: Any, grad: Tensor) -> list[Tensor]:
    """What autograd makes of the reference, in float64."""
    args = tuple(each.double().requires_grad_() if isinstance(each, Tensor) else each for each in args)
    inputs = [each for each in args if isinstance(each, Tensor)]
    return list(torch.autograd.grad(reference(*args), inputs, grad.double()))


@EACH_DTYPE
@EACH_LAYOUT
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_as_exact_as_eager(dtype: torch.dtype, layout: torch.memory_format, activation: str) -> None:
    make = Make(dtype, DEVICE)
    x, gate, residual = (picture(make, 1, 2, 5, 9, layout=layout) for _ in range(3))
    args = (x, make(2, 1, 3, 3), make(2), [1, 2], activation, 0.01, gate, residual)
    wanted = reference(*[each.double() if isinstance(each, Tensor) else each for each in args])
    allowed = 1.25 * (reference(*args).double() - wanted).norm()
    if dtype in (torch.float32, torch.float64):  # where eager may be right to the last bit by luck
        allowed = torch.finfo(dtype).eps * wanted.norm()
    got = triton.forward(*args)
    assert got.dtype == dtype
    assert (got.double() - wanted).norm() <= allowed


@EACH_DTYPE
@EACH_LAYOUT
def test_gradients(dtype: torch.dtype, layout: torch.memory_format) -> None:
    make = Make(dtype, DEVICE)
    x, gate, residual, grad = (picture(make, 2, 2, 5, 9, layout=layout) for _ in range(4))
    args = (x, make(2, 1, 3, 5), make(2), [2, 1], "silu", 0.0, gate, residual)
    wanted = gradients_of(*args, grad=grad)
    got = triton.backward([grad], [True] * 5, *args)
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == dtype
        assert (one.double() - other).norm() <= tolerance * other.norm()


@EACH_LAYOUT
@pytest.mark.parametrize("shape", [(0, 3, 5, 5), (2, 0, 5, 5), (2, 3, 0, 5), (2, 3, 5, 0), (1, 1, 1, 1), (3, 2, 1, 4)])
def test_any_size(shape: tuple[int, int, int, int], layout: torch.memory_format) -> None:
    make = Make(device=DEVICE, integers=True)
    x, weight, bias = picture(make, *shape, layout=layout), make(shape[1], 1, 5, 3), make(shape[1])
    args = (x, weight, bias, [1, 1], "none", 0.0, None, None)
    got = triton.forward(*args)
    assert got.shape == shape
    found = triton.backward([torch.ones_like(x)], [True] * 3, *args)
    if x.numel():
        assert torch.equal(got, plain(x, weight, bias, [1, 1]))
        wanted = gradients_of(*args, grad=torch.ones_like(x))
        assert all(torch.equal(one, other.float()) for one, other in zip(found, wanted, strict=True))
    else:
        assert all(not each.any() for each in found)
        assert [each.shape for each in found] == [shape, weight.shape, bias.shape]


@EACH_LAYOUT
def test_dilation_beyond_the_picture_leaves_the_middle_tap(layout: torch.memory_format) -> None:
    make = Make(device=DEVICE, integers=True)
    x, weight = picture(make, 1, 2, 5, 6, layout=layout), make(2, 1, 31, 31)
    got = triton.forward(x, weight, None, [2**40, 2**31], "none", 0.0, None, None)
    assert torch.equal(got, x * weight[:, 0, 15, 15, None, None])


@EACH_LAYOUT
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_pixel_that_is_no_number_stays_in_its_field(layout: torch.memory_format, value: float) -> None:
    x = picture(Make(device=DEVICE), 1, 1, 10, 9, layout=layout)
    x[0, 0, 5, 4] = value
    weight = Make(device=DEVICE)(1, 1, 7, 3)
    got = triton.forward(x, weight, None, [1, 2], "none", 0.0, None, None)
    field = torch.zeros(1, 1, 10, 9, dtype=torch.bool, device=DEVICE)
    field[0, 0, 2:9, 2:7:2] = True
    assert torch.equal(~got.isfinite(), field)


@EACH_LAYOUT
def test_the_operator_takes_it_by_name(layout: torch.memory_format) -> None:
    make = Make(torch.float64, DEVICE, requires_grad=True)
    x, weight, bias = make(1, 2, 5, 6), make(2, 1, 3, 3), make(2)
    results = []
    for name in ("triton", "reference"):
        with lightsr_kernels.backend(name):
            picture = x.contiguous(memory_format=layout)
            out = lightsr_kernels.depthwise_conv(picture, weight, bias, activation="gelu", residual=picture)
        assert out.stride() == picture.stride()
        results.append([out.detach(), *torch.autograd.grad(out.square().sum(), (x, weight, bias))])
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@EACH_LAYOUT
def test_twenty_runs_give_the_same_bits(layout: torch.memory_format) -> None:
    make = Make(device=DEVICE)
    x, grad = (picture(make, 1, 1, 4, 9, layout=layout) for _ in range(2))
    args = (x, make(1, 1, 3, 3), make(1), [1, 1], "none", 0.0, None, None)
    runs = [[triton.forward(*args), *triton.backward([grad], [True] * 3, *args)] for _ in range(20)]
    assert all(torch.equal(one, other) for run in runs for one, other in zip(run, runs[0], strict=True))


@EACH_LAYOUT
def test_wide_offsets_and_several_launches(layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Make(device=DEVICE, integers=True)
    x, grad = (picture(make, 2, 2, 5, 10, layout=layout) for _ in range(2))
    args = (x, make(2, 1, 5, 3), make(2), [1, 2], "none", 0.0, None, None)
    narrow = [triton.forward(*args), *triton.backward([grad], [True] * 3, *args)]
    monkeypatch.setattr(triton_common, "NARROW", 0)
    monkeypatch.setattr(triton, "MOST_PROGRAMS", 2)
    wide = [triton.forward(*args), *triton.backward([grad], [True] * 3, *args)]
    assert all(torch.equal(one, other) for one, other in zip(wide, narrow, strict=True))


@EACH_LAYOUT
def test_the_workspace_does_not_grow_with_the_pictures(
    layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Make(device=DEVICE, integers=True)
    x, grad = (picture(make, 5, 2, 4, 9, layout=layout) for _ in range(2))
    call = (grad, x, (3, 5), [1, 1], True)
    at_once = triton.weight_gradients(*call)
    made, empty = [], torch.empty

    def noted(*shape: Any, **options: Any) -> Tensor:
        made.append(empty(*shape, **options))
        return made[-1]

    monkeypatch.setattr(torch, "empty", noted)
    most = 2 * 4 * sum(each.numel() for each in at_once)  # two pictures' sums
    monkeypatch.setattr(triton, "MOST_BYTES", most if layout != LAST else 2 * most)  # two parts across the picture
    few = triton.weight_gradients(*call)
    assert [len(each) for each in made if each.ndim == 3] == [2 if layout != LAST else 4]
    assert all(torch.equal(one, other) for one, other in zip(few, at_once, strict=True))


def test_offsets_are_wide_from_where_narrow_ones_would_overflow() -> None:
    large = torch.empty(17, 64, 1080, 1920, device="meta")
    assert triton_common.wide(large)
    assert not triton_common.wide(large[:15], None)
    assert triton._constants(large[:1, :1, :1, :1].expand(1, 1, 1, 2**30), large[:1], CONFIGS[0])["WIDE"]


@pytest.mark.parametrize("side", [1, 3, 13, 31])
def test_there_is_a_tile_for_every_call(side: int) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        for shape in ((1, 1, 1, 1), (1, 64, 180, 320), (2, 3, 9, 7)):
            for layout in (torch.contiguous_format, LAST):
                x = torch.empty(shape, dtype=dtype, device="meta").contiguous(memory_format=layout)
                for each in (triton_configs.choose, triton_configs.choose_weight):
                    config = each(x, (side, side), [1, 1])
                    assert config.channels_last == (not x.is_contiguous())


def test_what_was_measured_goes_before_the_rule() -> None:
    x, call = torch.empty(1, 64, 180, 320, device="meta"), ((7, 7), [1, 1])
    rule = triton_configs.choose(x, *call)
    other = next(each for each in triton_configs.eligible(CONFIGS, x, (7, 7)) if each != rule)
    try:
        assert triton_configs.tune(CONFIGS, x, *call, seconds=lambda each: float(each != other)) == other
        assert triton_configs.choose(x, *call) == other
        assert triton_configs.choose(x[:, :, :179], *call) == triton_configs.choose(x[:, :, :179].clone(), *call)
        assert triton_configs.choose_weight(x, *call) in WEIGHT_CONFIGS
    finally:
        triton_configs.forget()
    assert triton_configs.choose(x, *call) == rule
