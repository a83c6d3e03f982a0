"""The tensor core kernels of depthwise_conv, run on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from cuda_on_cpu.depthwise import check_what_is_not_finite
from cuda_on_cpu.harness import At, Harness, Result, why_not
from torch import Tensor

from lightsr_kernels.depthwise_conv.reference import reference
from lightsr_kernels.functional import ACTIVATIONS

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
TYPES = ("float32", "float64", "float16", "bfloat16")  # in the order of csrc/common/types.h
EACH_TYPE = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
EACH_LAYOUT = pytest.mark.parametrize("last", [False, True], ids=["nchw", "channels_last"])
Size = tuple[int, int]
Shape = tuple[int, int, int, int]

# Picture, filter, dilation.
GEOMETRIES: tuple[tuple[Shape, Size, Size], ...] = (
    ((2, 3, 1, 1), (5, 5), (1, 1)),
    ((1, 2, 33, 131), (3, 3), (1, 1)),
    ((1, 8, 34, 66), (5, 5), (1, 1)),
    ((1, 1, 70, 136), (7, 7), (1, 1)),
    ((2, 17, 5, 9), (9, 9), (1, 1)),
    ((1, 1, 19, 76), (11, 11), (1, 1)),
    ((1, 2, 20, 35), (13, 13), (1, 1)),
    ((1, 1, 18, 41), (15, 15), (1, 1)),
    ((1, 1, 35, 40), (17, 17), (1, 1)),
    ((1, 2, 21, 20), (21, 21), (1, 1)),
    ((1, 1, 40, 37), (31, 31), (1, 1)),
    ((1, 4, 40, 21), (7, 3), (1, 1)),
    ((1, 3, 12, 40), (3, 11), (1, 1)),
    ((1, 2, 9, 24), (3, 31), (1, 1)),
    ((1, 2, 33, 9), (31, 3), (1, 1)),
    ((1, 2, 14, 30), (5, 5), (2, 2)),
    ((1, 1, 40, 136), (7, 7), (2, 2)),
    ((1, 1, 36, 204), (5, 9), (3, 3)),
    ((1, 9, 27, 29), (7, 7), (3, 3)),
    ((2, 1, 19, 140), (3, 5), (2, 3)),
    ((1, 1, 8, 90), (3, 5), (1, 11)),
    ((1, 1, 50, 8), (5, 3), (7, 1)),
    ((1, 2, 5, 4), (3, 5), (11, 12)),
)


class Kernels:
    """The entries of entry_banded.cpp as functions of tensors."""

    def __init__(self) -> None:
        self.harness = Harness("tests/cuda_on_cpu/entry_banded.cpp")

    def forward(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        dilation: Size = (1, 1),
        activation: str = "none",
        slope: float = 0.01,
        gate: Tensor | None = None,
        residual: Tensor | None = None,
        flip: bool = False,
        last: bool = False,
        offset: int = 0,
        seed: int = 0,
        grid_rows: int = 65535,
    ) -> Tensor:
        n, c, h, w = x.shape
        pictures = [None if each is None else At(_laid(each, last), offset) for each in (x, gate, residual)]
        numbers = (_type(x), last, flip, n, c, h, w, *weight.shape[2:], *dilation, ACTIVATIONS.index(activation), slope)
        result = Result((n, h, w, c) if last else (n, c, h, w), x.dtype, offset)
        tensors = (pictures[0], weight, bias, *pictures[1:], result)
        (out,) = self.harness.call("banded_forward", *numbers, *tensors, grid_rows, seed=seed)
        return out.permute(0, 3, 1, 2) if last else out

    def weight(
        self, x: Tensor, grad: Tensor, size: Size, dilation: Size, last: bool, bias: bool = True, seed: int = 0
    ) -> list[Tensor]:
        pictures = [_laid(each, last) for each in (x, grad)]
        results = (Result((x.shape[1], 1, *size), x.dtype), Result((x.shape[1],), x.dtype) if bias else None)
        numbers = (_type(x), last, *x.shape, *size, *dilation)
        return self.harness.call("weight_banded", *numbers, *pictures, *results, seed=seed)


def _type(x: Tensor) -> int:
    return TYPES.index(str(x.dtype).removeprefix("torch."))


def _laid(x: Tensor, last: bool) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous() if last else x


@pytest.fixture(scope="module")
def kernels() -> Iterator[Kernels]:
    kernels = Kernels()
    yield kernels
    kernels.harness.close()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(7)


def whole(dtype: torch.dtype, *shape: int, most: int = 1) -> Tensor:
    return torch.randint(-most, most + 1, shape).to(dtype)


def gradients(x: Tensor, grad: Tensor, size: Size, dilation: Size) -> tuple[Tensor, Tensor, Tensor]:
    """Those of x, the filter (of ones, where x's is meant) and the bias by autograd, in the dtype of x and grad."""
    weight = torch.zeros(x.shape[1], 1, *size, dtype=x.dtype, requires_grad=True)
    bias = torch.zeros(x.shape[1], dtype=x.dtype, requires_grad=True)
    out = reference(x, weight, bias, list(dilation), "none", 0.0, None, None)
    found = torch.autograd.grad(out, (weight, bias), grad)
    return found[0], found[1], out


@EACH_TYPE
@EACH_LAYOUT
@pytest.mark.parametrize(("shape", "size", "dilation"), GEOMETRIES, ids=str)
def test_whole_numbers_are_exact(
    kernels: Kernels, dtype: torch.dtype, last: bool, shape: Shape, size: Size, dilation: Size
) -> None:
    c = shape[1]
    x, grad, bias = whole(dtype, *shape), whole(dtype, *shape), whole(dtype, c, most=3)
    weight = whole(dtype, c, 1, *size)
    weight *= torch.rand(weight.shape) < 60 / (size[0] * size[1])  # so that no sum leaves the whole numbers of bfloat16
    exact = [each.double() for each in (x, weight, bias)]
    expected = reference(*exact, list(dilation), "none", 0.0, None, None)
    assert torch.equal(kernels.forward(x, weight, bias, dilation, last=last).double(), expected)
    expected = reference(exact[0], exact[1].flip(2, 3), None, list(dilation), "none", 0.0, None, None)
    assert torch.equal(kernels.forward(x, weight, None, dilation, flip=True, last=last).double(), expected)
    found = kernels.weight(x, grad, size, dilation, last)
    for each, true in zip(found, gradients(x.double(), grad.double(), size, dilation), strict=False):
        assert torch.equal(each, true.to(dtype))


@pytest.mark.parametrize("offset", [0, 2, 4, 8], ids=lambda offset: f"offset{offset}")
@pytest.mark.parametrize("width", [64, 36, 30, 29], ids=lambda width: f"width{width}")
def test_every_alignment(kernels: Kernels, width: int, offset: int) -> None:
    for size, dilation in (((5, 7), 1), ((3, 17), 1), ((3, 7), 2), ((3, 17), 3)):  # a tile begins 4 or 8 numbers early
        x, gate, residual = (whole(torch.float16, 1, 2, 9, width, most=2) for _ in range(3))
        weight = whole(torch.float16, 2, 1, *size)
        out = kernels.forward(x, weight, None, (1, dilation), gate=gate, residual=residual, offset=offset)
        wide = [each.double() for each in (x, weight, gate, residual)]
        assert torch.equal(out.double(), reference(*wide[:2], None, [1, dilation], "none", 0.0, *wide[2:]))


@EACH_TYPE
@EACH_LAYOUT
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_error_is_at_most_that_of_eager(kernels: Kernels, dtype: torch.dtype, last: bool, activation: str) -> None:
    shape, size, dilation = (1, 16, 21, 26), (7, 7), [1, 2]
    x, gate, residual = (torch.randn(shape).to(dtype) for _ in range(3))
    weight, bias = (torch.randn(16, 1, *size) / 7).to(dtype), torch.randn(16).to(dtype)
    args = (x, weight, bias, dilation, activation, 0.2, gate, residual)
    exact = reference(*(each.double() if isinstance(each, Tensor) else each for each in args))
    eager = (reference(*args).double() - exact).abs()
    found = kernels.forward(x, weight, bias, (1, 2), activation, 0.2, gate, residual, last=last)
    error = (found.double() - exact).abs()
    assert error.max() <= 1.25 * eager.max()
    assert error.norm() <= 1.25 * eager.norm()


@EACH_TYPE
@EACH_LAYOUT
def test_error_of_the_gradient_is_at_most_that_of_eager(kernels: Kernels, dtype: torch.dtype, last: bool) -> None:
    x, grad = (torch.randn(2, 8, 40, 70).to(dtype) for _ in range(2))
    found = kernels.weight(x, grad, (7, 9), (1, 1), last)
    eager = gradients(x, grad, (7, 9), (1, 1))
    for mine, other, exact in zip(found, eager, gradients(x.double(), grad.double(), (7, 9), (1, 1)), strict=False):
        # Half a step of the type's is what the last rounding costs anyone.
        step = torch.finfo(dtype).eps / 2 * exact.abs().max()
        assert (mine.double() - exact).abs().max() <= torch.maximum(1.25 * (other.double() - exact).abs().max(), step)


@EACH_LAYOUT
def test_bits_do_not_depend_on_the_order_of_threads(kernels: Kernels, last: bool) -> None:
    x, gate, residual = (torch.randn(1, 9, 40, 70).half() for _ in range(3))
    weight = torch.randn(9, 1, 5, 11).half()

    def run(seed: int) -> list[Tensor]:
        out = kernels.forward(x, weight, None, (2, 1), "gelu", 0.0, gate, residual, last=last, seed=seed)
        return [out, *kernels.weight(x, gate, (5, 11), (2, 1), last, seed=seed)]

    first = run(0)
    for seed in (1, 2, 3):
        assert all(torch.equal(a, b) for a, b in zip(first, run(seed), strict=True))


@EACH_TYPE
@EACH_LAYOUT
def test_what_is_not_finite_stays_in_its_taps(kernels: Kernels, dtype: torch.dtype, last: bool) -> None:
    check_what_is_not_finite(lambda grad, x, *sizes: kernels.weight(x, grad, *sizes, last)[0], dtype)


@EACH_LAYOUT
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_stays_inside_the_reach_of_the_filter(kernels: Kernels, last: bool, value: float) -> None:
    x, gate, residual = (torch.randn(1, 18, 40, 70).half() for _ in range(3))
    x[0, 0, 0, 0] = x[0, 17, 20, 69] = x[0, 3, 39, 31] = value
    weight, bias = torch.randn(18, 1, 7, 7).half(), torch.randn(18).half()
    found = kernels.forward(x, weight, bias, (1, 1), "relu", 0.0, gate, residual, last=last)
    wide = [each.double() for each in (x, weight, bias, gate, residual)]
    expected = reference(*wide[:3], [1, 1], "relu", 0.0, *wide[3:])
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.isinf(), expected.isinf())
    rest = expected.isfinite()
    assert torch.allclose(found[rest].double(), expected[rest], rtol=2e-3, atol=2e-3)


@EACH_LAYOUT
def test_a_grid_too_small_for_all_channels_is_launched_again(kernels: Kernels, last: bool) -> None:
    x, weight = whole(torch.float16, 3, 20, 4, 9, most=2), whole(torch.float16, 20, 1, 5, 5)
    out = kernels.forward(x, weight, last=last, grid_rows=7 if not last else 1)
    assert torch.equal(out.double(), reference(x.double(), weight.double(), None, [1, 1], "none", 0.0, None, None))


def test_the_gradient_of_the_filter_alone(kernels: Kernels) -> None:
    x, grad = whole(torch.float16, 1, 2, 9, 12), whole(torch.float16, 1, 2, 9, 12)
    (found,) = kernels.weight(x, grad, (3, 5), (1, 1), False, bias=False)
    assert torch.equal(found.double(), gradients(x.double(), grad.double(), (3, 5), (1, 1))[0])


@pytest.mark.parametrize(
    ("dtype", "shape", "size", "dilation", "taken"),
    [
        ("float16", (1, 64, 180, 320), (7, 7), (1, 1), (True, True)),
        ("bfloat16", (1, 64, 180, 320), (31, 31), (3, 3), (True, True)),
        ("float32", (1, 64, 180, 320), (7, 7), (1, 1), (False, False)),
        ("float64", (1, 64, 180, 320), (7, 7), (1, 1), (False, False)),
        ("float16", (1, 64, 180, 320), (1, 1), (1, 1), (False, False)),
        ("float16", (1, 64, 180, 320), (31, 1), (1, 1), (False, False)),
        ("float16", (1, 1, 1 << 30, 2), (7, 7), (1, 1), (False, False)),
        ("float16", (1, 1, 1 << 20, 1 << 20), (7, 7), (1 << 19, 1 << 19), (False, False)),
        ("float16", (9, 64, 64, 64), (7, 7), (12, 12), (False, False)),
        ("float16", (9, 64, 9, 9), (7, 7), (1, 1), (False, True)),
        ("float16", (5, 3, 40000, 40000), (7, 7), (1, 1), (True, True)),
    ],
)
def test_which_calls_are_taken(
    kernels: Kernels, dtype: str, shape: Shape, size: Size, dilation: Size, taken: tuple[bool, bool]
) -> None:
    (found,) = kernels.harness.call(
        "banded_takes", TYPES.index(dtype), *shape, *size, *dilation, Result((2,), torch.int64)
    )
    assert tuple(found.tolist()) == taken


@EACH_LAYOUT
def test_places_beyond_32_bits(kernels: Kernels, last: bool) -> None:
    n, c, h, w, dh, dw = 3, 40, 30011, 40009, 2, 3
    planes, image, group = (8, 2, 4) if last else (3, 2, 39)
    for row in range(dh):
        phase = row * (dw if last else 1) + (2 if last else 0)
        sizes = (n, c, h, w, 7, 7, dh, dw)
        (found,) = kernels.harness.call(
            "banded_place", last, *sizes, planes, image, group, phase, Result((2,), torch.int64)
        )
        channel, column = (32, 2) if last else (39, 0)
        last_row, last_column = row + (h - 1 - row) // dh * dh, column + (w - 1 - column) // dw * dw

        for index, (y, x) in zip(found.tolist(), ((row, column), (last_row, last_column)), strict=True):
            assert index == (
                ((image * h + y) * w + x) * c + channel if last else ((image * c + channel) * h + y) * w + x
            )
        assert found[1] > 2**32
