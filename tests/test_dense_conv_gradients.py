"""The gradients of dense_conv: the CPU's kernel for filters and bias, and all of them through the op, against float64.

The kernel is compiled for each level of SIMD that this machine runs and called without torch in between, on memory that
ends where the tensor ends, with results that stand in poisoned memory.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from simd_levels import LEVELS, compiler_for
from torch import Tensor

import lightsr_kernels
from lightsr_kernels import dense_conv
from lightsr_kernels.dispatch import why_not
from lightsr_kernels.functional import ACTIVATIONS, activate
from lightsr_kernels.spec import SPECS

CSRC = Path(__file__).resolve().parents[1] / "csrc"
TORCH = Path(torch.__file__).parent
TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
ERRORS = {torch.float32: 1e-5, torch.float64: 1e-13, torch.float16: 6e-4, torch.bfloat16: 4.1e-3}
LAYOUTS = [torch.contiguous_format, torch.channels_last]
EXPORTS = """
#include "dense_conv/cpu_weight.cpp"
extern "C" __attribute__((visibility("default"))) void weight(const lightsr::DenseConvWeight& call) {
  lightsr::dense_conv_backward_weight_cpu(call);
}
"""

# N, C, C_out, H, W, KH, KW
CASES = [
    (1, 1, 1, 1, 1, 3, 3),
    (3, 12, 12, 1, 1, 3, 3),
    (2, 3, 5, 9, 7, 3, 3),
    (1, 5, 4, 3, 2, 7, 7),
    (1, 20, 33, 17, 65, 1, 7),
    (1, 32, 9, 40, 3, 7, 1),
    (2, 40, 23, 10, 11, 1, 1),
    (1, 3, 64, 20, 40, 5, 3),
    # 3 x 3 between many channels, vectors along those of x and along the filters
    (1, 17, 52, 13, 21, 3, 3),
    (2, 52, 17, 8, 70, 3, 3),
    (1, 12, 12, 2, 2, 3, 3),
    (2, 33, 31, 31, 18, 3, 3),
    (1, 64, 64, 50, 67, 3, 3),
]


class Call(ctypes.Structure):
    _fields_ = [
        *[("type", ctypes.c_int), ("channels_last", ctypes.c_bool)],
        *[(name, ctypes.c_int64) for name in ("n", "ins", "outs", "h", "w")],
        *[("kh", ctypes.c_int), ("kw", ctypes.c_int)],
        *[(name, ctypes.c_void_p) for name in ("x", "grad", "grad_weight", "grad_bias")],
    ]


@pytest.fixture(scope="module", params=LEVELS)
def kernel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler, flags = compiler_for(request.param)
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "exports.cpp").write_text(EXPORTS)
    options = ["-std=c++20", "-O1", "-fPIC", "-shared", "-w", "-DTORCH_TARGET_VERSION=0x020A000000000000", *flags]
    options.append("-fvisibility=hidden")  # as in a build; else the levels would share their tables of functions
    paths = [f"-I{CSRC}", "-isystem", f"{TORCH}/include", f"-L{TORCH}/lib", f"-Wl,-rpath,{TORCH}/lib", "-ltorch_cpu"]
    library = folder / "kernel.so"
    subprocess.run([compiler, *options, folder / "exports.cpp", *paths, "-o", library], check=True)
    return ctypes.CDLL(str(library))


class Memory:
    """A tensor between numbers that no kernel may read or change: NaN."""

    def __init__(self, value: Tensor, layout: torch.memory_format = torch.contiguous_format) -> None:
        self.all = torch.full((value.numel() + 66,), float("nan"), dtype=value.dtype)
        shape = value.contiguous(memory_format=layout)
        self.value = self.all[33:-33].as_strided(shape.shape, shape.stride(), 33).copy_(value)

    def whole(self) -> bool:
        return bool(self.all[:33].isnan().all() and self.all[-33:].isnan().all())


def run_kernel(
    kernel: ctypes.CDLL,
    x: Tensor,  # [N, C, H, W]
    grad: Tensor,  # [N, C_out, H, W]
    size: tuple[int, int],
    layout: torch.memory_format,
    bias: bool = True,
) -> tuple[Tensor, ...]:
    n, ins, h, w = x.shape
    outs = grad.shape[1]
    placed = [Memory(each, layout) for each in (x, grad)]
    shapes = [(outs, ins, *size), (outs,)] if bias else [(outs, ins, *size)]
    found = [Memory(torch.full(shape, float("nan"), dtype=x.dtype)) for shape in shapes]
    pointers = [each.value.data_ptr() for each in (*placed, *found)]
    last = layout == torch.channels_last
    call = Call(TYPES.index(x.dtype), last, n, ins, outs, h, w, *size, *pointers, *([] if bias else [None]))
    kernel.weight(ctypes.byref(call))
    assert all(each.whole() for each in found)
    return tuple(each.value for each in found)


def by_definition(x: Tensor, grad: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    (kh, kw), (h, w) = size, x.shape[2:]
    around = F.pad(x.double(), (kw // 2, kw // 2, kh // 2, kh // 2))
    taps = [
        torch.einsum("nohw,nihw->oi", grad.double(), around[:, :, a : a + h, b : b + w])
        for a in range(kh)
        for b in range(kw)
    ]
    return torch.stack(taps, -1).unflatten(-1, size), grad.double().sum((0, 2, 3))


def values(shape: tuple[int, ...], dtype: torch.dtype, whole: bool = False) -> Tensor:
    return (torch.randint(-3, 4, shape) if whole else torch.randn(shape)).to(dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel(kernel: ctypes.CDLL, case: tuple[int, ...], dtype: torch.dtype) -> None:
    n, ins, outs, h, w, *size = case
    for whole in (False, True):
        x, grad = values((n, ins, h, w), dtype, whole), values((n, outs, h, w), dtype, whole)
        wanted = by_definition(x, grad, (size[0], size[1]))
        for layout in LAYOUTS:
            for got, right in zip(run_kernel(kernel, x, grad, (size[0], size[1]), layout), wanted, strict=True):
                if whole:
                    assert torch.equal(got, right.to(dtype))
                else:
                    assert (got - right).abs().max() <= ERRORS[dtype] * right.abs().max()


def test_the_bias_may_be_left_out(kernel: ctypes.CDLL) -> None:
    for channels in (3, 20):
        x, grad = values((1, channels, 9, 9), torch.float32), values((1, channels, 9, 9), torch.float32)
        for layout in LAYOUTS:
            alone, both = (run_kernel(kernel, x, grad, (3, 3), layout, bias) for bias in (False, True))
            assert torch.equal(alone[0], both[0])


def test_the_number_of_threads_changes_no_bit(kernel: ctypes.CDLL) -> None:
    threads = torch.get_num_threads()
    try:
        for n, ins, outs, h, w, *size in (
            (3, 20, 33, 40, 70, 3, 3),
            (3, 20, 33, 40, 70, 3, 1),
            (2, 3, 5, 90, 70, 3, 3),
        ):
            x, grad = values((n, ins, h, w), torch.float32), values((n, outs, h, w), torch.float32)
            runs = []
            for many in (1, 2, 3):
                torch.set_num_threads(many)
                runs.append(run_kernel(kernel, x, grad, (size[0], size[1]), torch.channels_last))
            assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("value", [float("inf"), float("nan")], ids=str)
def test_a_number_that_is_not_finite_reaches_the_taps_that_see_it(kernel: ctypes.CDLL, value: float) -> None:
    x, grad = values((1, 16, 9, 10), torch.float32), values((1, 16, 9, 10), torch.float32)
    for row, column in ((0, 0), (4, 5), (8, 9)):
        spoilt = x.clone()
        spoilt[0, 3, row, column] = value
        wanted = by_definition(spoilt, grad, (3, 3))[0]
        assert not wanted.isfinite().all()
        got = run_kernel(kernel, spoilt, grad, (3, 3), torch.contiguous_format)[0]
        assert torch.equal(got.isnan(), wanted.isnan())
        assert torch.equal(got.isinf(), wanted.isinf())
        right = wanted.isfinite()
        torch.testing.assert_close(got[right].double(), wanted[right], rtol=0, atol=1e-4)


def cases_of_the_op() -> Iterator[tuple[dict[str, object], tuple[int, ...]]]:
    for activation in ACTIVATIONS:
        for slope in (0.1, -0.5) if activation == "leaky_relu" else (0.1,):
            for shuffle in (1, 2):
                yield (
                    {"activation": activation, "negative_slope": slope, "pixel_shuffle": shuffle},
                    (2, 13, 16, 7, 9, 3, 3),
                )
    yield {}, (1, 3, 4, 6, 5, 5, 1)
    yield {}, (0, 3, 4, 6, 5, 3, 3)
    yield {"activation": "relu"}, (2, 0, 4, 6, 5, 3, 3)


cpu_alone = pytest.mark.skipif(
    why_not("cpu", SPECS["dense_conv"], "cpu") is not None, reason="needs the compiled kernels"
)


@cpu_alone
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(("options", "sizes"), list(cases_of_the_op()), ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_gradient_through_the_op(
    options: dict[str, object], sizes: tuple[int, ...], layout: torch.memory_format, dtype: torch.dtype
) -> None:
    n, ins, outs, h, w, kh, kw = sizes
    shapes = [(n, ins, h, w), (outs, ins, kh, kw), (outs,), (n, outs, h, w)]
    plain = [values(shape, torch.float64) for shape in shapes]
    factor = options.get("pixel_shuffle", 1)
    weights = F.pixel_shuffle(values(shapes[3], torch.float64), factor)  # type: ignore[arg-type]

    def gradients(arguments: list[Tensor], function: object) -> tuple[Tensor, ...]:
        inputs = [each.detach().requires_grad_() for each in arguments]
        out = function(*inputs)  # type: ignore[operator]
        return torch.autograd.grad((out * weights).sum(), inputs)

    def formula(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        z = torch.zeros_like(residual)
        around = F.pad(x, (kw // 2, kw // 2, kh // 2, kh // 2))
        for a in range(kh):
            for b in range(kw):
                z = z + torch.einsum("nihw,oi->nohw", around[:, :, a : a + h, b : b + w], weight[:, :, a, b])
        z = z + bias.view(-1, 1, 1) + residual
        slope = options.get("negative_slope", 0.01)
        z = activate(z, str(options.get("activation", "none")), slope)  # type: ignore[arg-type]
        return F.pixel_shuffle(z, factor)  # type: ignore[arg-type]

    given = [each.to(dtype) for each in plain]
    given[0] = given[0].contiguous(memory_format=layout)

    def through_the_op(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        with lightsr_kernels.backend("cpu"):
            return dense_conv(x, weight, bias, residual=residual, **options)  # type: ignore[arg-type]

    wanted, got = gradients(plain, formula), gradients(given, through_the_op)
    for one, right in zip(got, wanted, strict=True):
        largest = float(right.abs().max()) if right.numel() else 0.0
        torch.testing.assert_close(one.double(), right, rtol=0, atol=ERRORS[dtype] * max(largest, 1))


@cpu_alone
def test_what_is_kept_changes_little() -> None:
    """Eager calls keep what tells the derivative, the operator computes it again."""
    x, weight, residual = values((2, 6, 9, 8), torch.float32), values((6, 6, 3, 3), torch.float32), None
    for activation in ACTIVATIONS[1:]:
        found = []
        for operator in (False, True):
            inputs = [each.clone().requires_grad_() for each in (x, weight)]
            if operator:
                out = torch.ops.lightsr.dense_conv(*inputs, None, activation, 0.1, residual, 1)
            else:
                out = dense_conv(*inputs, activation=activation, negative_slope=0.1)
            found.append(torch.autograd.grad(out.square().sum(), inputs))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


@cpu_alone
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_bias_alone_has_the_same_bits_with_any_number_of_threads(layout: torch.memory_format) -> None:
    """Of one filter the bias's gradient is one sum over all pixels, which torch would cut by threads."""
    threads = torch.get_num_threads()
    x, grad = (
        values((4, 3, 100, 90), torch.float32).contiguous(memory_format=layout),
        values((4, 1, 100, 90), torch.float32),
    )
    found: list[Tensor] = []
    try:
        for many in (1, 2, 3):
            torch.set_num_threads(many)
            bias = torch.zeros(1, requires_grad=True)
            with lightsr_kernels.backend("cpu"):
                out = dense_conv(x, torch.ones(1, 3, 3, 3), bias)
            found += torch.autograd.grad(out, bias, grad)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    torch.testing.assert_close(found[0].double(), grad.double().sum().view(1), rtol=0, atol=1e-4)
