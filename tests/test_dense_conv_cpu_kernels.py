"""The CPU kernels of dense_conv, compiled for each level of SIMD that this machine runs, against float64.

The matrix over all ops runs the level that the build picks; here are the others, called without torch in between, on
memory that ends where the tensor ends, with results that stand in poisoned memory.
"""

from __future__ import annotations

import ctypes
import subprocess
from typing import Any

import pytest
import torch
from simd_levels import CSRC, LEVELS, TORCH, compiler_for
from torch import Tensor

from lightsr_kernels.dense_conv.reference import reference
from lightsr_kernels.functional import ACTIVATIONS

TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
ERRORS = {torch.float32: 3e-6, torch.float64: 1e-14, torch.float16: 6e-4, torch.bfloat16: 4.1e-3}
EXPORTS = """
#include "dense_conv/cpu.cpp"
extern "C" void forward(const lightsr::DenseConv& call) { lightsr::dense_conv_forward_cpu(call); }
"""

# (N, C, H, W), C_out, (KH, KW), pixel_shuffle
CASES = [
    ((1, 1, 1, 1), 1, (1, 1), 1),
    ((2, 3, 9, 7), 5, (3, 3), 1),
    ((1, 2, 2, 5), 3, (7, 7), 1),
    ((1, 3, 6, 131), 64, (3, 3), 1),
    ((2, 5, 9, 60), 9, (7, 5), 3),
    ((1, 40, 5, 130), 10, (7, 7), 1),
    ((1, 20, 5, 700), 20, (1, 3), 2),
    ((1, 64, 11, 50), 61, (1, 1), 1),
    # 3 x 3 over many channels: one tile, runs of several rows and pictures, odd sides, sums in parts
    ((1, 12, 1, 1), 12, (3, 3), 1),
    ((3, 33, 5, 5), 27, (3, 3), 3),
    ((1, 64, 12, 131), 48, (3, 3), 4),
    ((2, 52, 7, 97), 17, (3, 3), 1),
    ((1, 13, 6, 35), 18, (3, 3), 1),
    ((1, 12, 5, 30), 19, (3, 3), 1),
    ((1, 70, 4, 101), 26, (3, 3), 1),
    ((1, 12, 3, 33), 35, (3, 3), 1),
    ((9, 17, 6, 6), 52, (3, 3), 2),
    ((1, 150, 9, 20), 13, (3, 3), 1),
    # enlarged rows by whole vectors of two to four channels, number by number beyond; every other one with a residual
    ((1, 14, 5, 41), 50, (3, 3), 5),
    ((1, 12, 4, 37), 48, (3, 3), 4),
    ((1, 13, 4, 33), 27, (3, 3), 3),
    ((1, 5, 6, 21), 12, (1, 1), 2),
]


class Call(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        *[(name, ctypes.c_bool) for name in ("channels_last", "transpose", "winograd")],
        *[(name, ctypes.c_int64) for name in ("n", "c", "h", "w", "outs")],
        *[(name, ctypes.c_int) for name in ("kh", "kw", "activation")],
        *[("negative_slope", ctypes.c_double), ("shuffle", ctypes.c_int64)],
        *[(name, ctypes.c_void_p) for name in ("x", "weight", "bias", "residual", "out")],
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


def run(
    kernels: ctypes.CDLL,
    channels_last: bool,
    x: Tensor,
    weight: Tensor,  # as the reference takes it
    bias: Tensor | None = None,
    activation: str = "none",
    residual: Tensor | None = None,
    shuffle: int = 1,
    transpose: bool = False,
    winograd: bool = True,
) -> Tensor:
    n, c, h, w = x.shape
    outs, _, kh, kw = weight.shape
    nothing = torch.full((n, outs // shuffle**2, h * shuffle, w * shuffle), float("nan"), dtype=x.dtype)
    out, parameters = Memory(nothing, channels_last), [weight, bias]
    if transpose:
        parameters[0] = weight.transpose(0, 1).flip(2, 3)
    memories = [None if each is None else Memory(each) for each in parameters]
    memories += [None if each is None else Memory(each, channels_last) for each in (x, residual)]
    pointers = [None if each is None else each.value.data_ptr() for each in memories]
    call = Call(
        type=TYPES.index(x.dtype),
        channels_last=channels_last,
        transpose=transpose,
        winograd=winograd,
        **dict(zip("nchw", (n, c, h, w), strict=True)),
        outs=outs,
        kh=kh,
        kw=kw,
        activation=ACTIVATIONS.index(activation),
        negative_slope=0.3,
        shuffle=shuffle,
        **dict(zip(("weight", "bias", "x", "residual"), pointers, strict=True)),
        out=out.value.data_ptr(),
    )
    kernels.forward(ctypes.byref(call))
    assert out.whole()
    return out.value


layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])


def make(shape: tuple[int, ...], outs: int, size: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, ...]:
    x, residual = torch.randn(shape, dtype=torch.float64), torch.randn(shape[0], outs, *shape[2:], dtype=torch.float64)
    weight = torch.randn(outs, shape[1], *size, dtype=torch.float64) / (shape[1] * size[0] * size[1]) ** 0.5
    return tuple(each.to(dtype) for each in (x, weight, torch.randn(outs, dtype=torch.float64), residual))


@layouts
@pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: str(dtype)[6:])
def test_forward(kernels: ctypes.CDLL, dtype: torch.dtype, channels_last: bool) -> None:
    torch.manual_seed(0)
    for number, (shape, outs, size, shuffle) in enumerate(CASES):
        x, weight, bias, residual = make(shape, outs, size, dtype)
        activation = ACTIVATIONS[number % len(ACTIVATIONS)]
        others: tuple[Any, ...] = (bias, activation, residual if number % 2 else None, shuffle)
        exact = [each.double() if isinstance(each, Tensor) else each for each in others]
        expected = reference(x.double(), weight.double(), exact[0], activation, 0.3, exact[2], shuffle)
        for transpose, winograd in ((False, True), (True, True), (False, False)):
            got = run(kernels, channels_last, x, weight, *others, transpose, winograd)
            error = (got.double() - expected).abs() / (expected.abs() + 1)
            assert error.max() <= ERRORS[dtype], (shape, outs, size, f"{error.max():.2e}")


@layouts
@pytest.mark.parametrize(("channels", "outs", "size"), [(13, 12, 3), (13, 17, 3), (13, 12, 5), (4, 9, 3), (20, 30, 1)])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), 3e38], ids=["inf", "nan", "large"])
def test_what_is_no_number_stays_within_reach(
    kernels: ctypes.CDLL, value: float, channels: int, outs: int, size: int, channels_last: bool
) -> None:
    torch.manual_seed(0)
    x, weight, bias, _ = make((2, channels, 11, 37), outs, (size, size), torch.float32)
    for n, c, i, j in ((0, 1, 6, 20), (0, 2, 3, 36), (1, 0, 0, 0)):
        x[n, c, i, j] = value
    shuffle = 2 if outs % 4 == 0 else 1
    expected = reference(x, weight, bias, "none", 0.0, None, shuffle)
    got = run(kernels, channels_last, x, weight, bias, shuffle=shuffle)
    assert torch.equal(got.isnan(), expected.isnan())
    assert torch.equal(got.isinf(), expected.isinf())
    far = expected.abs() < 1e6  # from a large number, which what is near it is rounded beside
    torch.testing.assert_close(got[far], expected[far], rtol=1e-5, atol=1e-5)
    near = expected.isfinite() & ~far
    torch.testing.assert_close(got[near], expected[near], rtol=1e-3, atol=1e-6 * 3e38)


@layouts
@pytest.mark.parametrize("size", [3, 5], ids=["winograd", "direct"])
def test_a_number_reaches_its_own_pixels_alone(kernels: ctypes.CDLL, size: int, channels_last: bool) -> None:
    """To the bit: so tiles of a picture that begin at even pixels are computed as the whole picture is."""
    torch.manual_seed(0)
    x, weight, bias, _ = make((1, 16, 17, 41), 26, (size, size), torch.float32)
    before, reach = run(kernels, channels_last, x, weight, bias), size // 2
    for i, j in ((8, 20), (9, 21), (0, 0), (16, 40), (5, 6)):
        changed = x.clone()
        changed[:, :, i, j] += 1
        differs = (run(kernels, channels_last, changed, weight, bias) != before).any(1)[0]
        wanted = torch.zeros_like(differs)
        wanted[max(i - reach, 0) : i + reach + 1, max(j - reach, 0) : j + reach + 1] = True
        assert torch.equal(differs, wanted), (i, j)


@layouts
def test_a_crop_at_even_pixels_has_the_same_bits(kernels: ctypes.CDLL, channels_last: bool) -> None:
    torch.manual_seed(0)
    for shape, outs, size in (
        ((1, 20, 30, 210), 17, 3),
        ((1, 20, 30, 210), 24, 3),
        ((1, 6, 30, 210), 24, 3),
        ((1, 20, 30, 210), 5, 5),
    ):
        x, weight, bias, _ = make(shape, outs, (size, size), torch.float32)
        whole, edge = run(kernels, channels_last, x, weight, bias), size // 2
        for i, j, h, w in ((4, 2, 9, 33), (10, 94, 20, 70), (2, 200, 3, 10)):
            crop = run(kernels, channels_last, x[:, :, i : i + h, j : j + w], weight, bias)
            inner = slice(edge, h - edge), slice(edge, w - edge)
            assert torch.equal(crop[:, :, *inner], whole[:, :, i : i + h, j : j + w][:, :, *inner])


@layouts
def test_bits_do_not_depend_on_threads_or_pictures(kernels: ctypes.CDLL, channels_last: bool) -> None:
    torch.manual_seed(0)
    before = torch.get_num_threads()
    for shape, outs, size in (((3, 20, 21, 40), 17, 3), ((3, 6, 21, 40), 24, 3), ((3, 64, 21, 40), 24, 1)):
        x, weight, bias, _ = make(shape, outs, (size, size), torch.float32)
        try:
            torch.set_num_threads(1)
            first = run(kernels, channels_last, x, weight, bias)
            for threads in (2, 5):
                torch.set_num_threads(threads)
                assert torch.equal(run(kernels, channels_last, x, weight, bias), first)
        finally:
            torch.set_num_threads(before)
        assert torch.equal(run(kernels, channels_last, x[1:2], weight, bias), first[1:2])
