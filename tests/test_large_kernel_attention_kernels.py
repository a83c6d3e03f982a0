"""The compiled kernels of large_kernel_attention: for CUDA on the harness, for the CPU at every SIMD level."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from cuda_on_cpu.harness import Harness, Result, why_not
from simd_levels import LEVELS, compiler_for
from torch import Tensor

from lightsr_kernels.large_kernel_attention.reference import reference

ROOT = Path(__file__).resolve().parents[1]
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # in the order of csrc/common/types.h
SOURCES = (
    "csrc/large_kernel_attention/cuda.cu",
    "csrc/depthwise_conv/cuda.cu",
    "tests/cuda_on_cpu/entry_large_kernel_attention.cpp",
)


@dataclass(frozen=True)
class Case:
    """A call by its sizes; `parts` names what it has of bias, out and residual."""

    name: str
    shape: tuple[int, int, int, int]
    near: tuple[int, int] = (5, 5)
    far: tuple[int, int] = (7, 7)
    dilation: int = 3
    parts: tuple[str, ...] = ("bias", "out", "residual")

    def arguments(self, dtype: torch.dtype, whole: bool = False) -> list[Tensor | int | None]:
        c = self.shape[1]

        def make(*shape: int, scale: float = 1.0) -> Tensor:
            values = torch.randint(-2, 3, shape) if whole else torch.randn(shape) * scale
            return values.to(dtype)

        def vector(wanted: bool = True) -> Tensor | None:
            return make(c) if wanted and "bias" in self.parts else None

        near, far = make(c, 1, *self.near, scale=0.3), make(c, 1, *self.far, scale=0.2)
        out = "out" in self.parts
        matrix = make(c, c, 1, 1, scale=c**-0.5) if out else None
        residual = make(*self.shape) if "residual" in self.parts else None
        mix = make(c, c, 1, 1, scale=c**-0.5)
        x = make(*self.shape)
        return [x, near, vector(), far, vector(), mix, vector(), self.dilation, matrix, vector(out), residual]


# One pass, but for pictures so small that the halo is most of a tile: several tiles, edges, pictures by fours and one
# by one, all the ways a channel count fills its units.
ONE_PASS = (
    Case("odd-sizes", (2, 3, 9, 7)),
    Case("17-channels", (1, 17, 11, 13), parts=("bias", "residual")),
    Case("64-channels", (1, 64, 6, 40)),
    Case("tiles", (1, 1, 64, 72), parts=("out",)),
    Case("odd-tiles", (1, 2, 62, 67), parts=("bias",)),
    Case("1x1-picture", (2, 5, 1, 1)),
    Case("any-filter", (1, 2, 21, 24), (3, 5), (5, 3), 2, ()),
    Case("any-filter-tiles", (1, 1, 50, 67), (1, 3), (3, 1), 4),
    Case("k1", (1, 3, 5, 6), (1, 1), (1, 1), 10**12, ("residual",)),
)
# Too far a reach for one pass; too many channels for both matrices at once, then for one.
OTHERS = (
    Case("far-reach", (1, 2, 9, 10), (5, 5), (7, 7), 40),
    Case("wide-filters", (1, 2, 6, 7), (31, 3), (3, 31), 1, ("out", "bias")),
    Case("128-channels", (1, 128, 2, 9)),
    Case("300-channels", (1, 300, 2, 4)),
    Case("300-channels-gate-only", (1, 300, 1, 5), (3, 3), (3, 3), 1, ("residual",)),
)


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    why = why_not()
    if why is not None:
        pytest.skip(why)
    program = Harness(*SOURCES, flags=("-DLIGHTSR_DIRECT_ONLY",))
    yield program
    program.close()


def run(harness: Harness, args: list[Tensor | int | None], last: bool, seed: int = 0) -> Tensor:
    """The CUDA launcher's result; pictures go there and come back in the layout that `last` names."""
    x, near, far, dilation = args[0], args[1], args[3], args[7]
    assert isinstance(x, Tensor) and isinstance(near, Tensor) and isinstance(far, Tensor)

    def laid(each: Tensor | int | None) -> Tensor | None:
        assert not isinstance(each, int)
        return each.permute(0, 2, 3, 1).contiguous() if each is not None and each.shape == x.shape and last else each

    n, c, h, w = x.shape
    shape = (n, h, w, c) if last else (n, c, h, w)
    sizes = [n, c, h, w, *near.shape[2:], *far.shape[2:], dilation]
    tensors = [laid(x), *args[1:7], *args[8:10], laid(args[10])]
    [out] = harness.call(
        "large_kernel_attention", DTYPES.index(x.dtype), int(last), *sizes, *tensors, Result(shape, x.dtype), seed=seed
    )
    return out.permute(0, 3, 1, 2) if last else out


def double(args: list[Tensor | int | None]) -> list[Tensor | int | None]:
    return [each.double() if isinstance(each, Tensor) else each for each in args]


def expected(args: list[Any]) -> Tensor:
    """The reference's result; it takes a list for the residual."""
    return reference(*args[:-1], [] if args[-1] is None else args[-1:])


def check(harness: Harness, case: Case, dtype: torch.dtype, last: bool) -> None:
    args = case.arguments(dtype)
    exact, eager = expected(double(args)), expected(args)
    error = (run(harness, args, last).double() - exact).abs().max()
    # Eager code may be lucky on a few numbers, and in the wide types the order of a sum decides.
    least = torch.finfo(dtype).eps * exact.abs().max() * (20 if dtype in DTYPES[:2] else 1)
    assert error <= torch.maximum(1.25 * (eager.double() - exact).abs().max(), least)


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ONE_PASS, ids=lambda case: case.name)
def test_cuda_equals_reference(harness: Harness, case: Case, dtype: torch.dtype, last: bool) -> None:
    check(harness, case, dtype, last)


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("case", OTHERS, ids=lambda case: case.name)
def test_cuda_equals_reference_the_other_ways(harness: Harness, case: Case, dtype: torch.dtype, last: bool) -> None:
    check(harness, case, dtype, last)


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "channels_last"])
def test_cuda_is_exact_on_whole_numbers_in_any_order(harness: Harness, last: bool) -> None:
    args = Case("", (1, 18, 7, 10)).arguments(torch.float32, whole=True)
    wanted = expected(double(args)).float()
    for seed in range(3):
        assert torch.equal(run(harness, args, last, seed), wanted)


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "channels_last"])
def test_cuda_keeps_a_nan_within_its_reach(harness: Harness, last: bool) -> None:
    args = Case("", (1, 3, 30, 31)).arguments(torch.float16)
    x = args[0]
    assert isinstance(x, Tensor)
    x[0, 1, 14, 15] = float("nan")
    assert torch.equal(run(harness, args, last).isnan(), expected(double(args)).isnan())


ENTRY = """
#include "csrc/large_kernel_attention/cpu.cpp"

extern "C" void run(const int64_t* sizes, void* const* tensors) {
  lightsr::LargeKernelAttention to{};
  to.type = static_cast<lightsr::Type>(sizes[0]), to.channels_last = sizes[1] != 0;
  to.n = sizes[2], to.c = sizes[3], to.h = sizes[4], to.w = sizes[5];
  to.kh1 = int(sizes[6]), to.kw1 = int(sizes[7]), to.kh2 = int(sizes[8]), to.kw2 = int(sizes[9]);
  to.dilation = sizes[10];
  to.x = tensors[0], to.weight1 = tensors[1], to.bias1 = tensors[2], to.weight2 = tensors[3], to.bias2 = tensors[4];
  to.mix_weight = tensors[5], to.mix_bias = tensors[6], to.out_weight = tensors[7], to.out_bias = tensors[8];
  to.residual = tensors[9], to.out = tensors[10];
  lightsr::large_kernel_attention_forward_cpu(to);
}
"""


@pytest.fixture(scope="module", params=LEVELS)
def level(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The CPU kernel built for one instruction set of this processor's."""
    compiler, flags = compiler_for(request.param)
    folder, torch_folder = tmp_path_factory.mktemp("level"), Path(torch.__file__).parent
    (folder / "entry.cpp").write_text(ENTRY)
    words = [compiler, "-std=c++20", "-O1", "-fPIC", "-shared", *flags, f"-I{ROOT}", f"-I{torch_folder / 'include'}"]
    words += ["-DTORCH_TARGET_VERSION=0x020a000000000000", str(folder / "entry.cpp"), "-o", str(folder / "entry.so")]
    words += [f"-L{torch_folder / 'lib'}", "-ltorch_cpu", f"-Wl,-rpath,{torch_folder / 'lib'}"]
    subprocess.run(words, check=True, capture_output=True)
    return ctypes.CDLL(str(folder / "entry.so"))


CPU_CASES = (
    Case("17-channels", (2, 17, 26, 37)),
    Case("64-channels", (1, 64, 13, 70), parts=("bias", "residual")),
    Case("any-filter", (1, 5, 40, 9), (1, 7), (9, 3), 2, ("out",)),
    Case("1x1-picture", (1, 3, 1, 1)),
    Case("pieces", (1, 64, 130, 100), parts=("bias", "out")),
)


def run_on_cpu(level: ctypes.CDLL, args: list[Tensor | int | None], last: bool) -> Tensor:
    x, near, far, dilation = args[0], args[1], args[3], args[7]
    assert isinstance(x, Tensor) and isinstance(near, Tensor) and isinstance(far, Tensor) and isinstance(dilation, int)
    layout = torch.channels_last if last else torch.contiguous_format
    tensors = [args[0], *args[1:7], *args[8:11], torch.full_like(x, float("nan"))]
    laid = [
        each.contiguous(memory_format=layout) if isinstance(each, Tensor) and each.shape == x.shape else each
        for each in tensors
    ]
    sizes = [DTYPES.index(x.dtype), int(last), *x.shape, *near.shape[2:], *far.shape[2:], dilation]
    pointers = [each.data_ptr() if isinstance(each, Tensor) else None for each in laid]
    level.run((ctypes.c_int64 * len(sizes))(*sizes), (ctypes.c_void_p * len(pointers))(*pointers))
    out = laid[-1]
    assert isinstance(out, Tensor)
    return out


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("case", CPU_CASES, ids=lambda case: case.name)
def test_every_simd_level_equals_reference(level: ctypes.CDLL, case: Case, last: bool) -> None:
    for dtype in DTYPES:
        args = case.arguments(dtype)
        exact = expected(double(args))
        # Sums are float32 or wider and are rounded once: half a unit in the last place and what a sum's order does.
        allowed = torch.finfo(dtype).eps * (exact.abs() + (20 if dtype in DTYPES[:2] else 0.1) * exact.abs().max())
        assert ((run_on_cpu(level, args, last).double() - exact).abs() <= allowed).all(), dtype


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "channels_last"])
def test_results_do_not_depend_on_the_number_of_threads(level: ctypes.CDLL, last: bool) -> None:
    threads = torch.get_num_threads()
    try:
        # The lower two have bands of fewer rows than a tile for some of these numbers, in some of the phases.
        for shape in ((1, 3, 190, 50), (1, 1, 18, 40), (1, 1, 34, 40)):
            args, results = Case("", shape).arguments(torch.float32), []
            for count in (1, 2, 3, 5):
                torch.set_num_threads(count)
                results.append(run_on_cpu(level, args, last))
            assert all(torch.equal(each, results[0]) for each in results), shape
    finally:
        torch.set_num_threads(threads)
