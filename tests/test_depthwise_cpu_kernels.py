"""The CPU kernels of depthwise_conv, compiled for each level of SIMD that this machine runs, against float64.

The matrix over all ops runs the level that the build picks; here are the others, called without torch in between, on
memory that ends where the tensor ends, with results that stand in poisoned memory.
"""

from __future__ import annotations

import ctypes
import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from cuda_on_cpu.depthwise import check_what_is_not_finite, tap_by_tap
from simd_levels import LEVELS, compiler_for
from torch import Tensor

from lightsr_kernels.functional import ACTIVATIONS, activate

CSRC = Path(__file__).resolve().parents[1] / "csrc"
TORCH = Path(torch.__file__).parent
TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
ERRORS = {torch.float32: 2e-6, torch.float64: 1e-13, torch.float16: 6e-4, torch.bfloat16: 4.1e-3}
EXPORTS = """
#include "depthwise_conv/cpu.cpp"
extern "C" void forward(const lightsr::DepthwiseConv& call) { lightsr::depthwise_conv_forward_cpu(call); }
extern "C" void weight(const lightsr::DepthwiseConvWeight& call) { lightsr::depthwise_conv_backward_weight_cpu(call); }
"""
SIZES = [(name, ctypes.c_int64) for name in "nchw"]
FILTER = [("kh", ctypes.c_int), ("kw", ctypes.c_int), ("dh", ctypes.c_int64), ("dw", ctypes.c_int64)]

# (N, C, H, W), (KH, KW), dilation
CASES = [
    ((1, 1, 1, 1), (5, 5), (1, 1)),
    ((2, 3, 9, 7), (3, 3), (1, 1)),
    ((1, 17, 5, 1), (31, 31), (2, 3)),
    ((1, 2, 40, 130), (13, 7), (1, 1)),
    ((2, 16, 33, 18), (7, 7), (3, 3)),
    ((1, 33, 12, 21), (1, 9), (1, 2)),
    ((1, 8, 21, 12), (9, 1), (2, 1)),
    ((1, 4, 24, 64), (1, 1), (1, 1)),
    ((1, 5, 31, 65), (5, 11), (50, 20)),
    ((1, 1, 60, 500), (31, 31), (1, 1)),
    # small filters over vectors of channels; the last one or the last rows and columns overlap with what is before
    ((2, 41, 11, 37), (3, 3), (1, 1)),
    ((1, 32, 9, 75), (5, 5), (2, 3)),
    ((1, 33, 2, 10), (7, 7), (1, 1)),
    ((1, 64, 1, 70), (3, 5), (1, 2)),
    ((1, 40, 21, 3), (1, 3), (3, 1)),
    # heights whose columns of taps are kept in registers, with tiles that have all their rows
    ((1, 3, 24, 40), (3, 5), (1, 1)),
    ((1, 18, 24, 70), (5, 3), (1, 2)),
    ((1, 2, 32, 50), (7, 3), (1, 1)),
    ((1, 18, 24, 40), (9, 9), (1, 1)),
    ((3, 64, 13, 75), (3, 3), (2, 3)),
    ((2, 33, 6, 4), (3, 3), (3, 3)),
    # small planes, several pictures of some channels at a time
    ((40, 35, 13, 13), (3, 5), (1, 1)),
]


class Forward(ctypes.Structure):
    _fields_ = [
        *[("type", ctypes.c_int), ("channels_last", ctypes.c_bool), ("flip", ctypes.c_bool)],
        *SIZES,
        *FILTER,
        *[("activation", ctypes.c_int), ("negative_slope", ctypes.c_double)],
        *[(name, ctypes.c_void_p) for name in ("x", "weight", "bias", "gate", "residual", "out")],
    ]


class Weight(ctypes.Structure):
    _fields_ = [
        *[("type", ctypes.c_int), ("channels_last", ctypes.c_bool)],
        *SIZES,
        *FILTER,
        *[(name, ctypes.c_void_p) for name in ("x", "grad", "grad_weight", "grad_bias", "workspace")],
    ]


@pytest.fixture(scope="module", params=LEVELS)
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler, flags = compiler_for(request.param)
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "exports.cpp").write_text(EXPORTS)
    library = folder / "kernels.so"
    options = ["-std=c++20", "-O1", "-fPIC", "-shared", "-w", "-DTORCH_TARGET_VERSION=0x020A000000000000", *flags]
    paths = [f"-I{CSRC}", "-isystem", f"{TORCH}/include", f"-L{TORCH}/lib", f"-Wl,-rpath,{TORCH}/lib", "-ltorch_cpu"]
    subprocess.run([compiler, *options, folder / "exports.cpp", *paths, "-o", library], check=True)
    return ctypes.CDLL(str(library))


class Memory:
    """A tensor between numbers that no kernel may read or change: NaN."""

    def __init__(self, value: Tensor, channels_last: bool = False) -> None:
        self.all = torch.full((value.numel() + 66,), float("nan"), dtype=value.dtype)
        inside = self.all[33:-33]
        if channels_last:
            n, c, h, w = value.shape
            self.value = inside.view(n, h, w, c).permute(0, 3, 1, 2)
        else:
            self.value = inside.view(value.shape)
        self.value.copy_(value)

    def whole(self) -> bool:
        return bool(self.all[:33].isnan().all() and self.all[-33:].isnan().all())


def pointer(memory: Memory | None) -> int | None:
    return None if memory is None else memory.value.data_ptr()


def sizes(x: Tensor, size: tuple[int, int], dilation: tuple[int, int]) -> dict[str, int]:
    return dict(zip(("n", "c", "h", "w", "kh", "kw", "dh", "dw"), (*x.shape, *size, *dilation), strict=True))


def run_forward(
    kernels: ctypes.CDLL,
    x: Tensor,
    weight: Tensor,
    dilation: tuple[int, int],
    channels_last: bool,
    flip: bool = False,
    activation: str = "none",
    **others: Tensor | None,
) -> Tensor:
    inputs = {"x": x, "gate": others.get("gate"), "residual": others.get("residual")}
    placed = {name: None if t is None else Memory(t, channels_last) for name, t in inputs.items()}
    bias = others.get("bias")
    out = Memory(torch.full_like(x, float("nan")), channels_last)
    call = Forward(
        type=TYPES.index(x.dtype),
        channels_last=channels_last,
        flip=flip,
        activation=ACTIVATIONS.index(activation),
        negative_slope=0.3,
        weight=weight.data_ptr(),
        bias=None if bias is None else bias.data_ptr(),
        out=pointer(out),
        **{name: pointer(memory) for name, memory in placed.items()},
        **sizes(x, weight.shape[2:], dilation),
    )
    kernels.forward(ctypes.byref(call))
    assert out.whole()
    return out.value


def run_weight(
    kernels: ctypes.CDLL, grad: Tensor, x: Tensor, size: tuple[int, int], dilation: tuple[int, int], channels_last: bool
) -> tuple[Tensor, Tensor]:
    x_memory, grad_memory = Memory(x, channels_last), Memory(grad, channels_last)
    found = Memory(torch.empty((x.shape[1], 1, *size), dtype=x.dtype)), Memory(torch.empty(x.shape[1], dtype=x.dtype))
    call = Weight(
        type=TYPES.index(x.dtype),
        channels_last=channels_last,
        x=pointer(x_memory),
        grad=pointer(grad_memory),
        grad_weight=pointer(found[0]),
        grad_bias=pointer(found[1]),
        **sizes(x, size, dilation),
    )
    kernels.weight(ctypes.byref(call))
    assert found[0].whole() and found[1].whole()
    return found[0].value, found[1].value


def same(size: tuple[int, int], dilation: tuple[int, int]) -> dict[str, tuple[int, int]]:
    return {"padding": (dilation[0] * (size[0] // 2), dilation[1] * (size[1] // 2)), "dilation": dilation}


def check(got: Tensor, expected: Tensor, scale: float = 1.0) -> None:
    error = (got.double() - expected).abs() / (expected.abs() + scale)
    assert error.max() <= ERRORS[got.dtype], f"{error.max():.2e}"


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: str(dtype)[6:])
def test_forward(kernels: ctypes.CDLL, dtype: torch.dtype, channels_last: bool) -> None:
    torch.manual_seed(0)
    for number, (shape, size, dilation) in enumerate(CASES):
        x, gate, residual = (torch.randn(shape, dtype=torch.float64).to(dtype) for _ in range(3))
        weight = (torch.randn((shape[1], 1, *size), dtype=torch.float64) / (size[0] * size[1]) ** 0.5).to(dtype)
        bias = torch.randn(shape[1], dtype=torch.float64).to(dtype)
        activation, flip = ACTIVATIONS[number % len(ACTIVATIONS)], number % 3 == 1
        others = {} if number % 2 else {"gate": gate, "residual": residual, "bias": bias}
        got = run_forward(kernels, x, weight, dilation, channels_last, flip, activation, **others)
        taps = weight.double().flip(2, 3) if flip else weight.double()
        expected = F.conv2d(
            x.double(), taps, None if number % 2 else bias.double(), groups=shape[1], **same(size, dilation)
        )
        expected = activate(expected, activation, 0.3)
        check(got, expected if number % 2 else expected * gate.double() + residual.double())


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: str(dtype)[6:])
def test_weight(kernels: ctypes.CDLL, dtype: torch.dtype, channels_last: bool) -> None:
    torch.manual_seed(0)
    for shape, size, dilation in CASES:
        x, grad = (torch.randn(shape, dtype=torch.float64).to(dtype) for _ in range(2))
        got = run_weight(kernels, grad, x, size, dilation, channels_last)
        expected = torch.nn.grad.conv2d_weight(
            x.double(), (shape[1], 1, *size), grad.double(), groups=shape[1], **same(size, dilation)
        )
        scale = (shape[0] * shape[2] * shape[3]) ** 0.5
        check(got[0], expected, scale)
        check(got[1], grad.double().sum((0, 2, 3)), scale)


def test_gelu_keeps_its_lower_tail(kernels: ctypes.CDLL) -> None:
    """To a few units of the result's last place, down to where results are no normal numbers any more and then 0."""
    borders = torch.arange(-64, 65) / 8.0  # of the pieces that a table has polynomials for
    borders = torch.cat([borders, borders.nextafter(borders + 1), borders.nextafter(borders - 1)])
    ends = torch.tensor([-1e-30, 1e-30, 0.0, -14.5, -40, -1e38, 1e38])
    x = torch.cat([torch.linspace(-13, 6, 4000), borders, ends])
    got = gelu_of(kernels, x)
    wide = x.double()
    expected = 0.5 * wide * torch.special.erfc(wide * -(0.5**0.5))
    # Without fused multiply-adds the rounding of x^2 is multiplied into the tail.
    step = torch.finfo(x.dtype).eps * (8 + wide.square() / 4)
    assert ((got.double() - expected).abs() <= step * expected.abs() + 1e-43).all()
    assert torch.equal(got.signbit(), x.signbit())
    for neighbour in (0.0, -5.0, 10.0, float("nan")):  # which lane has what changes no bit of another one's result
        both = gelu_of(kernels, torch.stack([x, torch.full_like(x, neighbour)], 1).flatten())
        assert torch.equal(both[::2], got)
    assert gelu_of(kernels, torch.tensor([float("nan"), float("inf"), 1.0]))[:2].tolist()[1] == float("inf")
    assert gelu_of(kernels, torch.tensor([1.0, float("nan")])).isnan().tolist() == [False, True]


def gelu_of(kernels: ctypes.CDLL, x: torch.Tensor) -> torch.Tensor:
    return run_forward(kernels, x.view(1, 1, 1, -1), torch.ones(1, 1, 1, 1), (1, 1), False, activation="gelu").flatten()


@pytest.mark.parametrize("activation", ["sigmoid", "silu"])
def test_sigmoid_and_silu_to_their_ends(kernels: ctypes.CDLL, activation: str) -> None:
    ends = torch.tensor([88.3, 88.4, 88.7, 88.8, 90.0, 104.0, 1e38, float("inf")])
    x = torch.cat([torch.linspace(-90, 90, 9001), ends, -ends, torch.tensor([float("nan"), 0.0])])
    got = run_forward(kernels, x.view(1, 1, 1, -1), torch.ones(1, 1, 1, 1), (1, 1), False, activation=activation)
    expected = activate(x.double(), activation, 0.0)
    off, step = (got.flatten().double() - expected).abs(), torch.finfo(torch.float32).eps
    if activation == "silu":  # to a few units of the last place while results are normal numbers
        assert torch.equal(got.flatten().isnan(), expected.isnan())
        off, expected = off[expected.isfinite()], expected[expected.isfinite()]
        assert (off <= 4 * step * expected.abs() + 2e-36).all()
    else:
        infinite, minus, nan = (got.flatten()[place].item() for place in (-11, -3, -2))
        assert (infinite, minus) == (1, 0)
        assert math.isnan(nan)
        keep = ~expected.isnan()
        assert (off[keep] <= 2e-8 + step * expected[keep]).all()


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_infinity_stays_within_reach(kernels: ctypes.CDLL, dtype: torch.dtype, channels_last: bool) -> None:
    """Zeros that fill up vectors, rows and pairs of taps must not meet an infinity."""
    for channels in (32, 3):  # with whole vectors of channels, and without
        x = torch.ones(1, channels, 13, 37)
        x[0, :, 6, 20] = float("inf")
        x[0, :, 3, 36] = -float("inf")
        ones = torch.ones(channels, 1, 5, 5)
        out = run_forward(kernels, x.to(dtype), ones.to(dtype), (1, 2), channels_last)
        expected = F.conv2d(x, ones, groups=channels, **same((5, 5), (1, 2)))
        assert torch.equal(out.float(), expected)
    got, _ = run_weight(kernels, torch.ones_like(x).to(dtype), x.to(dtype), (5, 5), (1, 2), channels_last)
    assert torch.equal(got.isfinite(), tap_by_tap(torch.ones_like(x), x, (5, 5), (1, 2)).isfinite())

    def gradient(grad: Tensor, x: Tensor, size: tuple[int, int], dilation: tuple[int, int]) -> Tensor:
        return run_weight(kernels, grad, x, size, dilation, channels_last)[0]

    check_what_is_not_finite(gradient, dtype)
    # Small planes, and vectors of channels: corners of x and of grad, which the zeros around a picture are next to.
    for shape, dilation in (((3, 40, 13, 13), (1, 1)), ((1, 40, 9, 70), (1, 1)), ((1, 40, 9, 70), (2, 3))):
        x, grad, taps = torch.ones(shape), torch.ones(shape), torch.ones(40, 1, 3, 3)
        x[0, 1, 0, 0] = grad[0, 35, -1, -1] = float("inf")
        x[0, 2, -1, 0] = grad[0, 38, 4, 6] = float("nan")
        out = run_forward(kernels, x.to(dtype), taps.to(dtype), dilation, channels_last)
        expected = F.conv2d(x, taps, groups=40, **same((3, 3), dilation))
        assert torch.equal(out.isnan(), expected.isnan())
        assert torch.equal(out.isinf(), expected.isinf())
        found = gradient(grad.to(dtype), x.to(dtype), (3, 3), dilation)
        assert torch.equal(found.isfinite(), tap_by_tap(grad, x, (3, 3), dilation).isfinite())


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
def test_bits_do_not_depend_on_threads(kernels: ctypes.CDLL, channels_last: bool) -> None:
    torch.manual_seed(0)
    x, grad, weight = torch.randn(2, 3, 70, 90), torch.randn(2, 3, 70, 90), torch.randn(3, 1, 7, 7)
    wide, taps = torch.randn(1, 41, 27, 45), torch.randn(41, 1, 3, 3)
    small = torch.randn(40, 41, 13, 13)

    def both() -> list[Tensor]:
        return [
            run_forward(kernels, x, weight, (1, 1), channels_last),
            run_forward(kernels, wide, taps, (1, 1), channels_last),
            run_forward(kernels, wide.bfloat16(), taps.bfloat16(), (2, 2), channels_last),
            *run_weight(kernels, grad, x, (7, 7), (1, 1), channels_last),
            run_forward(kernels, small, taps, (1, 1), channels_last),
            *run_weight(kernels, small, small.flip(0), (3, 3), (1, 1), channels_last),
            *run_weight(kernels, wide.bfloat16(), wide.flip(1).bfloat16(), (3, 3), (1, 2), channels_last),
        ]

    assert_same_with_threads(both)


def assert_same_with_threads(run: Callable[[], list[Tensor]]) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = run()
        for threads in (2, 5):
            torch.set_num_threads(threads)
            assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))
    finally:
        torch.set_num_threads(before)
