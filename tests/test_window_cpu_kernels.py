"""The CPU kernels of window_attention, attention_maps and gated_feed_forward beyond the matrix of all ops.

Compiled for each level of SIMD that this machine runs, and called without torch in between, on memory that ends where
the tensor ends, with results that stand in poisoned memory; then through the ops: pictures of many tasks, threads, and
what a pixel that is no number spreads to.
"""

from __future__ import annotations

import ctypes
import subprocess
from typing import Any

import pytest
import torch
from simd_levels import LEVELS, compiler_for
from test_depthwise_cpu_kernels import CSRC, TORCH, TYPES, Memory, assert_same_with_threads
from torch import Tensor

import lightsr_kernels
from lightsr_kernels.dispatch import call, why_not
from lightsr_kernels.functional import layout_of
from lightsr_kernels.spec import SPECS, Make

OPS = ("window_attention", "attention_maps", "gated_feed_forward")
# Of the largest value: a rounding of the result, and in bfloat16 of products' factors too.
ERRORS = {torch.float32: 4e-6, torch.float64: 1e-13, torch.float16: 1e-3, torch.bfloat16: 2e-2}
EXPORTS = "".join(f'#include "{op}/arguments.h"\n' for op in OPS) + "".join(
    f'extern "C" void {op}(const lightsr::{"".join(word.title() for word in op.split("_"))}& call) '
    f"{{ lightsr::{op}_cpu(call); }}\n"
    for op in OPS
)
BEGIN = [("type", ctypes.c_int), ("channels_last", ctypes.c_bool), *[(name, ctypes.c_int64) for name in "nchw"]]
SETS = [("window", ctypes.c_int64), ("grid", ctypes.c_bool), ("eps", ctypes.c_double)]
WEIGHTS = {
    "window_attention": ("x", "maps", "norm_weight", "norm_bias", "value_weight", "out_weight", "out"),
    "attention_maps": ("x", "norm_weight", "norm_bias", "query_key_weight", "position", "out"),
    "gated_feed_forward": ("x", "norm_weight", "norm_bias", "in_weight", "depthwise_weight", "out_weight", "out"),
}


def structure(op: str) -> Any:
    middle = [("hidden", ctypes.c_int64), ("eps", ctypes.c_double)] if op == "gated_feed_forward" else SETS
    pointers = [(name, ctypes.c_void_p) for name in WEIGHTS[op]]
    return type(op, (ctypes.Structure,), {"_fields_": [*BEGIN, *middle, *pointers]})


# (N, C, H, W), window, hidden channels
SIZES = [
    ((1, 1, 1, 1), 1, 1),
    ((2, 3, 9, 6), 3, 2),
    ((1, 48, 16, 40), 8, 48),
    ((2, 17, 15, 35), 5, 33),
    ((1, 16, 14, 70), 7, 20),
    ((1, 33, 8, 136), 8, 7),
    ((1, 5, 60, 4), 2, 3),
    ((1, 4, 16, 33), 1, 16),
]


def arguments(op: str, shape: tuple[int, ...], window: int, hidden: int, grid: bool, dtype: torch.dtype) -> list[Any]:
    n, c, h, w = shape
    make, eps = Make(dtype), 1e-5
    x, norm = make(*shape, offset=0.5), (make(c, offset=1.0), make(c, scale=0.5))
    if op == "gated_feed_forward":
        into, depthwise = make(2 * hidden, c, 1, 1, scale=c**-0.5), make(2 * hidden, 1, 3, 3, scale=0.3)
        return [x, *norm, into, depthwise, make(c, hidden, 1, 1, scale=hidden**-0.5), eps]
    sets, tokens = n * (h // window) * (w // window), window**2
    if op == "attention_maps":
        return [x, *norm, make(2 * c, c, scale=c**-0.5), make((2 * window - 1) ** 2), window, grid, eps]
    square = make(c, c, scale=c**-0.5), make(c, c, scale=c**-0.5)
    return [x, make(sets, tokens, tokens, scale=1 / window), *norm, *square, window, grid, eps]


def lay_out(args: list[Any], layout: torch.memory_format) -> list[Any]:
    return [args[0].contiguous(memory_format=layout), *args[1:]]


@pytest.fixture(scope="module", params=LEVELS)
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler, flags = compiler_for(request.param)
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "exports.cpp").write_text(EXPORTS)
    library = folder / "kernels.so"
    options = ["-std=c++20", "-O1", "-fPIC", "-shared", "-w", "-DTORCH_TARGET_VERSION=0x020A000000000000", *flags]
    paths = [f"-I{CSRC}", "-isystem", f"{TORCH}/include", f"-L{TORCH}/lib", f"-Wl,-rpath,{TORCH}/lib", "-ltorch_cpu"]
    sources = [folder / "exports.cpp", *(CSRC / op / "cpu.cpp" for op in OPS)]
    subprocess.run([compiler, *options, *sources, *paths, "-o", library], check=True)
    return ctypes.CDLL(str(library))


def run(kernels: ctypes.CDLL, op: str, args: list[Any], channels_last: bool) -> Tensor:
    x, *others = args
    n, c, h, w = x.shape
    out, inputs = x, [each for each in others if isinstance(each, Tensor)]
    sizes: dict[str, Any] = {
        "type": TYPES.index(x.dtype),
        "channels_last": channels_last,
        "n": n,
        "c": c,
        "h": h,
        "w": w,
    }
    if op == "gated_feed_forward":
        sizes |= {"hidden": others[2].shape[0] // 2, "eps": others[-1]}
    else:
        sizes |= dict(zip(("window", "grid", "eps"), others[-3:], strict=True))
        sets, tokens = n * (h // sizes["window"]) * (w // sizes["window"]), sizes["window"] ** 2
    if op == "attention_maps":
        out = x.new_empty((sets, tokens, tokens))
    placed = [Memory(x, channels_last), *(Memory(each.contiguous()) for each in inputs)]
    result = Memory(torch.full_like(out, float("nan")), channels_last and out.dim() == 4)
    pointers = [each.value.data_ptr() for each in (*placed, result)]
    getattr(kernels, op)(ctypes.byref(structure(op)(**sizes, **dict(zip(WEIGHTS[op], pointers, strict=True)))))
    assert result.whole()
    return result.value


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: str(dtype)[6:])
def test_every_level(kernels: ctypes.CDLL, dtype: torch.dtype, channels_last: bool, op: str) -> None:
    for number, (shape, window, hidden) in enumerate(SIZES):
        args = arguments(op, shape, window, hidden, number % 2 == 0, dtype)
        exact = SPECS[op].reference(*(each.double() if isinstance(each, Tensor) else each for each in args))
        error = (run(kernels, op, args, channels_last).double() - exact).abs().max()
        assert error <= ERRORS[dtype] * exact.abs().max(), f"{shape}: {error:.2e}"


here = pytest.mark.skipif(why_not("cpu", SPECS[OPS[0]], "cpu") is not None, reason="no CPU kernels here")
each_op = pytest.mark.parametrize("op", OPS)
each_grid = pytest.mark.parametrize("grid", [False, True], ids=["windows", "grid"])
each_layout = pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"]
)


def on(backend: str, op: str, args: list[Any]) -> Tensor:
    with lightsr_kernels.backend(backend), torch.no_grad():
        result: Tensor = call(SPECS[op], *args)
    return result


@here
@each_op
@each_grid
@each_layout
@pytest.mark.parametrize(
    "size", [((2, 20, 16, 264), 8, 24), ((1, 6, 120, 130), 5, 6), ((3, 2, 48, 12), 12, 2)], ids=str
)
def test_pictures_of_many_tasks(size: Any, layout: torch.memory_format, grid: bool, op: str) -> None:
    shape, window, hidden = size
    args = lay_out(arguments(op, shape, window, hidden, grid, torch.float64), layout)
    got = on("cpu", op, args)
    torch.testing.assert_close(got, on("reference", op, args), rtol=1e-11, atol=1e-11)
    assert got.dim() == 3 or layout_of(got) == layout


@here
@each_op
@each_layout
def test_tiles_of_wide_rows_in_bfloat16(layout: torch.memory_format, op: str) -> None:
    """A cache line has twice as many numbers, and tiles end where lines do."""
    args = lay_out(arguments(op, (1, 6, 16, 216), 8, 6, False, torch.bfloat16), layout)
    exact = on("reference", op, [each.double() if isinstance(each, Tensor) else each for each in args])
    ours, eager = ((on(backend, op, args) - exact).abs().max() for backend in ("cpu", "reference"))
    assert ours <= 1.25 * eager


@here
@each_op
@each_grid
@each_layout
def test_the_number_of_threads_changes_no_bit(layout: torch.memory_format, grid: bool, op: str) -> None:
    given = [
        lay_out(arguments(op, (1, 20, 48, 160), 8, 20, grid, dtype), layout)
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert_same_with_threads(lambda: [on("cpu", op, args) for args in given])


@here
@each_op
@each_grid
@each_layout
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_pixel_that_is_no_number_stays_within_reach(
    dtype: torch.dtype, layout: torch.memory_format, grid: bool, op: str
) -> None:
    """In its set, or among its neighbours: padding, other sets of a run and other tiles stay clear of it."""
    for c, window, hidden in ((17, 5, 7), (16, 8, 16)):
        args = lay_out(arguments(op, (2, c, 5 * window, 24 * window), window, hidden, grid, dtype), layout)
        args[0][1, c - 1, window + 1, 3 * window] = torch.nan
        exact = [each.double() if isinstance(each, Tensor) else each for each in args]
        wanted, got = on("reference", op, exact), on("cpu", op, args)
        assert wanted.isnan().any() and not wanted.isnan().all()
        assert torch.equal(got.isnan(), wanted.isnan())


@here
@each_op
@each_layout
def test_gradients_in_float32(layout: torch.memory_format, op: str) -> None:
    """Those of every argument, beside the reference's in float64."""
    args = lay_out(arguments(op, (2, 20, 24, 40), 8, 12, True, torch.float32), layout)
    exact = [each.double() if isinstance(each, Tensor) else each for each in args]
    found = []
    for backend, given in (("cpu", args), ("reference", exact)):
        inputs = [each.requires_grad_() for each in given if isinstance(each, Tensor)]
        with lightsr_kernels.backend(backend):
            out = call(SPECS[op], *given)
        seed = torch.cos(torch.arange(out.numel(), dtype=torch.float64)).view(out.shape).to(out.dtype)
        found.append(torch.autograd.grad(out, inputs, seed))
    for one, other, like in zip(*found, (each for each in args if isinstance(each, Tensor)), strict=True):
        assert (one.double() - other).norm() <= 1e-5 * other.norm()
        assert one.dim() < 4 or layout_of(one) == layout_of(like)
