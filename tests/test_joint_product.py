"""Products with fewer multiplications than terms (csrc/common/joint_product.h), and gated_pointwise by them.

Which processors get them is the header's choice; here they are switched on, at each SIMD level that this machine runs.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Iterator
from math import prod

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from simd_levels import CSRC, LEVELS, compiler_for, operators
from torch import Tensor

import lightsr_kernels
from lightsr_kernels.dispatch import call
from lightsr_kernels.gated_pointwise import native
from lightsr_kernels.gated_pointwise.samples import shapes
from lightsr_kernels.spec import SPECS

Numbers = NDArray[np.float32]
SPEC = SPECS["gated_pointwise"]
NAMES = ("entry", "coarse", "exit", "inner", "coarse_gradients", "outer")
SWITCH = "-DLIGHTSR_JOINT_PRODUCTS"
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)

# out[m, n] = rows[m, depth] columns[depth, n], in a tile after the other as its callers have them.
SOURCE = """
#include <vector>
#include "common/joint_product.h"

extern "C" void multiply(const float* rows, const float* columns, long m, long depth, long n, float* out) {
  using namespace lightsr;
  constexpr long size = Vec<float>::size;
  const long wide = (n + size - 1) / size * size;
  std::vector<float> of_rows(m + joint_rows), of_columns(wide), a((m + joint_rows) * depth), b((depth + 1) * wide);
  std::copy_n(rows, m * depth, a.data());
  for (long k = 0; k < depth; ++k) std::copy_n(columns + k * n, n, b.data() + k * wide);
  for (long k = 0; k < joined(depth); k += joint_terms) {
    for (long r = 0; r < m; ++r) of_rows[r] -= a[r * depth + k] * a[r * depth + k + 1];
    for (long c = 0; c < n; ++c) of_columns[c] -= b[k * wide + c] * b[(k + 1) * wide + c];
  }
  const JointProduct<float> product{{a.data(), depth, 1, b.data(), wide, depth}, of_rows.data(), of_columns.data()};
  for (long column = 0; column < wide; column += product_vectors * size) {
    const long vectors = std::min<long>(product_vectors, (wide - column) / size), step = vectors * size;
    for (long row = 0; row < m; row += joint_rows) {
      float tile[joint_rows * product_vectors * size];
      Ahead ahead;
      multiply_tile(product, row, column, m - row <= joint_rows / 2, vectors, tile, step, ahead);
      for (long r = row; r < std::min<long>(m, row + joint_rows); ++r)
        for (long c = column; c < std::min(n, column + step); ++c) out[r * n + c] = tile[(r - row) * step + c - column];
    }
  }
}
"""


@pytest.fixture(scope="module", params=LEVELS)
def level(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def multiply(level: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Numbers, Numbers], Numbers]:
    compiler, flags = compiler_for(level)
    folder = tmp_path_factory.mktemp("product")
    (folder / "product.cpp").write_text(SOURCE)
    options = ["-std=c++20", "-O1", "-fPIC", "-shared", "-w", *flags, f"-I{CSRC}"]
    subprocess.run([compiler, *options, folder / "product.cpp", "-o", folder / "product.so"], check=True)
    function = ctypes.CDLL(str(folder / "product.so")).multiply

    def run(rows: Numbers, columns: Numbers) -> Numbers:
        out = np.full((rows.shape[0], columns.shape[1]), np.nan, np.float32)
        sizes = [ctypes.c_long(each) for each in (*rows.shape, columns.shape[1])]
        function(*(each.ctypes.data_as(ctypes.c_void_p) for each in (rows, columns)), *sizes, out.ctypes)
        return out

    return run


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 6, 52, 53])
def test_whole_numbers_are_exact(depth: int, multiply: Callable[[Numbers, Numbers], Numbers]) -> None:
    random = np.random.default_rng(depth)
    for m in (1, 3, 4, 6, 7, 13):
        for n in (1, 15, 16, 17, 48, 50, 99):
            rows, columns = (random.integers(-9, 10, shape).astype(np.float32) for shape in ((m, depth), (depth, n)))
            assert np.array_equal(multiply(rows, columns), rows @ columns)


def test_numbers_of_one_size_round_little_more_than_in_a_plain_product(
    multiply: Callable[[Numbers, Numbers], Numbers],
) -> None:
    random = np.random.default_rng(0)
    rows, columns = (random.standard_normal(shape).astype(np.float32) for shape in ((156, 52), (52, 2000)))
    exact, plain = rows.astype(np.float64) @ columns, np.zeros((156, 2000), np.float32)
    for k in range(52):
        plain = (plain + rows[:, k : k + 1].astype(np.float64) * columns[k]).astype(np.float32)
    wrong, allowed = (np.linalg.norm(each - exact) for each in (multiply(rows, columns), plain))
    assert wrong <= 1.4 * allowed


@pytest.fixture(scope="module")
def plainly(level: str, tmp_path_factory: pytest.TempPathFactory) -> list[Tensor]:
    """Results without joint products, in each layout."""
    with (
        operators(level, tmp_path_factory.mktemp("plain"), SPEC.name, native, NAMES, f"{SWITCH}=0"),
        lightsr_kernels.backend("cpu"),
        torch.no_grad(),
    ):
        x, *weights = arguments(1, 52, 40, 70, 156, 16)
        return [call(SPEC, x.contiguous(memory_format=layout), *weights, 1e-5) for layout in LAYOUTS.values()]


@pytest.fixture(scope="module")
def joint(level: str, plainly: list[Tensor], tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with (
        operators(level, tmp_path_factory.mktemp("joint"), SPEC.name, native, NAMES, f"{SWITCH}=1"),
        lightsr_kernels.backend("cpu"),
    ):
        yield


def arguments(n: int, c: int, h: int, w: int, e: int, p: int) -> list[Tensor]:
    torch.manual_seed(0)
    scale = {name: prod(shape[1:]) ** -0.5 for name, shape in shapes(c, e, p).items()}
    return [torch.randn(n, c, h, w), *(scale[name] * torch.randn(shape) for name, shape in shapes(c, e, p).items())]


def errors(args: list[Tensor], layout: torch.memory_format) -> tuple[float, float]:
    """The error of the CPU kernels and that of eager PyTorch in float32."""
    args = [args[0].contiguous(memory_format=layout), *args[1:]]
    with torch.no_grad(), lightsr_kernels.backend("reference"):
        exact, eager = call(SPEC, *(each.double() for each in args), 1e-5), call(SPEC, *args, 1e-5)
    with torch.no_grad():
        found = call(SPEC, *args, 1e-5)
    return float((found - exact).norm()), float((eager - exact).norm())


def test_the_switch_changes_last_digits_alone(plainly: list[Tensor], joint: None) -> None:
    x, *weights = arguments(1, 52, 40, 70, 156, 16)
    for layout, plain in zip(LAYOUTS.values(), plainly, strict=True):
        with torch.no_grad():
            found = call(SPEC, x.contiguous(memory_format=layout), *weights, 1e-5)
        assert not torch.equal(found, plain)
        torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)


@each_layout
@pytest.mark.parametrize(
    "size", [(1, 52, 40, 70, 156, 16), (2, 19, 33, 41, 33, 17), (1, 1, 15, 16, 1, 1), (1, 2, 15, 400, 7, 3)], ids=str
)
def test_errs_as_eager(size: tuple[int, ...], layout: torch.memory_format, joint: None) -> None:
    wrong, allowed = errors(arguments(*size), layout)
    assert wrong <= 1.25 * allowed


@each_layout
@pytest.mark.parametrize(
    "change",
    [
        "channels of many sizes",
        "means far from zero",
        "a norm of many sizes",
        "filters of many sizes",
        "no filter for some channels",
        "even pixels",
    ],
)
def test_sizes_that_differ(change: str, layout: torch.memory_format, joint: None) -> None:
    """What is joined is brought to one size; without, these err by factors of tens and more."""
    names = list(shapes(52, 156, 16))
    args = dict(zip(["x", *names], arguments(1, 52, 40, 70, 156, 16), strict=True))
    spread = torch.logspace(-2, 2, 52)[torch.randperm(52)]
    if change == "channels of many sizes":
        args["x"] = args["x"] * spread.view(-1, 1, 1)
    elif change == "means far from zero":
        args["x"] = args["x"] + 100
    elif change == "a norm of many sizes":
        args["norm_weight"] = args["norm_weight"] * spread
    elif change == "filters of many sizes":
        for name in ("weight_a", "weight_b", "weight_c", "bias_a", "bias_b", "bias_c"):
            sizes = torch.logspace(-2, 2, 156)[torch.randperm(156)]
            args[name] = args[name] * sizes.view(-1, *[1] * (args[name].dim() - 1))
    elif change == "no filter for some channels":
        for name in ("weight_a", "weight_b", "weight_c"):
            args[name][:, ::3] = 0
            args[name][:20, 1::3] = 0
    else:
        args["x"][:, :, :, :35] = 1
    wrong, allowed = errors(list(args.values()), layout)
    assert wrong <= 1.25 * allowed


@each_layout
def test_the_number_of_threads_changes_no_bit(layout: torch.memory_format, joint: None) -> None:
    args, threads, found = arguments(2, 20, 40, 70, 40, 8), torch.get_num_threads(), []
    args[0] = args[0].contiguous(memory_format=layout)
    try:
        for many in (1, 2, 3):
            torch.set_num_threads(many)
            with torch.no_grad():
                found.append(call(SPEC, *args, 1e-5))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@each_layout
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_pixel_that_is_no_number_is_where_the_reference_has_it(
    value: float, layout: torch.memory_format, joint: None
) -> None:
    args = arguments(2, 6, 30, 34, 12, 4)
    args[0] = args[0].contiguous(memory_format=layout)
    args[0][1, 2, 11, 13] = args[0][1, 2, -1, -1] = value  # the last pixel is one that scales are taken from
    with torch.no_grad():
        found = call(SPEC, *args, 1e-5)
        with lightsr_kernels.backend("reference"):
            wanted = call(SPEC, *args, 1e-5)
    assert wanted[1].isnan().any() and not wanted[0].isnan().any()
    assert torch.equal(found.isnan(), wanted.isnan())


@each_layout
@pytest.mark.parametrize("factor", [1e-30, 1e-12, 1e-6, 1e6, 1e12, 1e20, 1e37])
def test_enormous_and_vanishing_parameters(factor: float, layout: torch.memory_format, joint: None) -> None:
    args = dict(zip(["x", *shapes(8, 12, 4)], arguments(1, 8, 20, 20, 12, 4), strict=True))
    args["out_bias"] = torch.zeros(8)  # or it would be all there is of a small result
    for name in ("weight_a", "bias_a", "weight_c", "bias_c"):
        args[name] = args[name] * factor
    wrong, allowed = errors(list(args.values()), layout)
    assert 0 < wrong <= 1.5 * allowed


@each_layout
def test_filters_of_zeros(layout: torch.memory_format, joint: None) -> None:
    args = dict(zip(["x", *shapes(8, 12, 4)], arguments(1, 8, 20, 20, 12, 4), strict=True))
    args["weight_a"].zero_()
    args["weight_b"][::2].zero_()
    wrong, allowed = errors(list(args.values()), layout)
    assert wrong <= 1.25 * allowed
