"""The CPU kernels of split_distillation and distillation_fusion, compiled for each SIMD level that this machine runs.

The matrix over all ops runs the level that the build picks; here the operators of each level are called in turn, on
sizes beyond a block, against the references in float64.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from simd_levels import LEVELS, compiler_for
from torch import Tensor
from torch.utils._pytree import tree_flatten

import lightsr_kernels
from lightsr_kernels import distillation_fusion, split_distillation
from lightsr_kernels.distillation_fusion import native as fusion
from lightsr_kernels.distillation_fusion.reference import reference as fusion_reference
from lightsr_kernels.split_distillation import backward as shared
from lightsr_kernels.split_distillation import native as split
from lightsr_kernels.split_distillation.reference import reference as split_reference

CSRC = Path(__file__).resolve().parents[1] / "csrc"
TORCH = Path(torch.__file__).parent
TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
each_type = pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: str(dtype)[6:])
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
# The raw operators of one level, under names of their own: torch takes each name once.
NAMES = [f"{op}_{way}" for op in ("split_distillation", "distillation_fusion") for way in ("forward", "gradients")]
NAMES.append("split_distillation_convolved")


@pytest.fixture(scope="module", params=LEVELS)
def level(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The operators of native.py, replaced by those compiled for one level."""
    name = str(request.param)
    compiler, flags = compiler_for(name)
    folder = tmp_path_factory.mktemp("kernels")
    options = ["-std=c++20", "-O1", "-fPIC", "-w", "-DTORCH_TARGET_VERSION=0x020A000000000000", *flags]

    def build(first: Path) -> Path:
        """Compiles a source; with cpu.cpp the operators, which are few lines behind torch's many."""
        op, out = first.parent.name, folder / f"{first.parent.name}_{first.stem}.o"
        files = [first, first.with_name("register.cpp")] if first.stem == "cpu" else [first]
        text = "".join(each.read_text() for each in files).replace('#include "', f'#include "{op}/')
        for each in NAMES:
            text = text.replace(f'"{each}"', f'"{each}_{name}"')
        copy = out.with_suffix(".cpp")
        copy.write_text(text)
        command: list[str | Path] = [compiler, *options, "-c", copy, f"-I{CSRC}", "-isystem", f"{TORCH}/include"]
        subprocess.run([*command, "-o", out], check=True)
        return out

    with ThreadPoolExecutor() as pool:
        folders = [CSRC / op for op in ("split_distillation", "distillation_fusion")]
        objects = list(pool.map(build, [each for op in folders for each in sorted(op.glob("cpu*.cpp"))]))
    library = folder / "kernels.so"
    link = [f"-L{TORCH}/lib", f"-Wl,-rpath,{TORCH}/lib", "-ltorch_cpu"]
    subprocess.run([compiler, "-shared", *objects, *link, "-o", library], check=True)
    definitions: Any = torch.library.Library("lightsr", "FRAGMENT")  # type: ignore[no-untyped-call]
    for each in NAMES:
        schema = str(getattr(torch.ops.lightsr, each).default._schema).removeprefix("lightsr::")
        definitions.define(schema.replace(each, f"{each}_{name}", 1))
    torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    with pytest.MonkeyPatch.context() as patch:
        for module, op in ((split, "split_distillation"), (fusion, "distillation_fusion")):
            patch.setattr(module, "_forward", getattr(torch.ops.lightsr, f"{op}_forward_{name}").default)
            patch.setattr(module, "_backward", getattr(torch.ops.lightsr, f"{op}_gradients_{name}").default)
        convolved = getattr(torch.ops.lightsr, f"split_distillation_convolved_{name}").default
        patch.setattr(split, "_forward_convolved", convolved)
        yield
    definitions._destroy()


Args = list[Any]


def split_calls(whole: bool = False) -> Iterator[Args]:
    """Calls of split_distillation: D below and above the split, sizes beyond a block, every end, every activation."""

    def make(*shape: int) -> Tensor:
        return torch.randint(-2, 3, shape).double() if whole else torch.randn(shape, dtype=torch.float64)

    def matrix(outs: int, ins: int) -> Tensor:
        return make(outs, ins, 1, 1) if whole else make(outs, ins, 1, 1) / ins**0.5

    rounding = [] if whole else ["gelu", "silu", "sigmoid"]
    for act in ("leaky_relu", "relu", "none", *rounding):
        x = make(2, 7, 5, 13)
        yield [x, 3, make(7), make(2, 7, 5, 13), act, 0.5, matrix(5, 3), make(5), act, None, None, True]
    x = make(1, 64, 37, 41)
    yield [x, 16, make(64), x.flip(2), "leaky_relu", 0.5, matrix(16, 16), make(16), "relu", None, None, True]
    yield [make(1, 52, 29, 31), None, None, None, "relu", 0.5, matrix(26, 52), None, "leaky_relu", None, None, True]
    yield [make(3, 5, 3, 331), 4, make(5), None, "leaky_relu", 0.5, None, None, "none", None, None, True]
    yield [make(2, 1, 9, 9), None, make(1), None, "leaky_relu", 0.5, matrix(1, 1), make(1), "none", None, None, True]
    if not whole:
        gate = matrix(19, 19), make(19)
        yield [make(1, 33, 17, 29), 2, make(33), None, "silu", 0.1, matrix(19, 2), make(19), "leaky_relu", *gate, True]
        yield [make(2, 26, 11, 23), None, None, None, "none", 0.1, None, None, "none", matrix(26, 26), make(26), False]
        yield [make(1, 9, 7, 23), 5, make(9), None, "none", 0.1, None, None, "none", matrix(5, 5), None, True]


def convolved_calls(whole: bool = False) -> Iterator[Args]:
    """Calls of split_distillation with a convolution that goes by tiles: a few, rows of them and more, every end."""

    def make(*shape: int) -> Tensor:
        return torch.randint(-1, 2, shape).double() if whole else torch.randn(shape, dtype=torch.float64)

    def filters(outs: int, ins: int, side: int) -> Tensor:
        return make(outs, ins, side, side) / (1 if whole else ins**0.5 * side)

    def call(shape: tuple[int, int, int, int], c: int, split: int | None, outs: int, *given: str, act: str) -> Args:
        n, ins, h, w = shape
        first = split or c
        d = outs or first
        ends = [filters(d, first, 1), make(d)] if outs else [None, None]
        gate = [filters(d, d, 1), make(d)] if "gate" in given else [None, None]
        residual, bias = make(n, c, h, w) if "residual" in given else None, make(c) if "bias" in given else None
        begin = [make(n, ins, h, w), split, bias, residual, act, 0.5]
        return [*begin, *ends, "relu", *gate, "keep" in given, filters(c, ins, 3)]

    yield call((1, 64, 6, 37), 64, 16, 16, "bias", "residual", "keep", act="leaky_relu")
    yield call((1, 20, 3, 211), 52, None, 26, "bias", "residual", "keep", act="leaky_relu")
    yield call((2, 13, 1, 1), 12, 5, 0, "keep", act="none")
    yield call((1, 16, 7, 60), 16, None, 0, "bias", "residual", act="relu")
    yield call((5, 17, 3, 5), 12, 11, 23, "bias", act="leaky_relu")
    if not whole:
        yield call((1, 12, 9, 20), 19, 7, 13, "residual", "keep", "gate", act="gelu")
        yield call((2, 12, 2, 33), 14, None, 0, "bias", "gate", act="silu")


def fusion_calls(whole: bool = False) -> Iterator[Args]:
    """Calls of distillation_fusion: one part and more than a kernel takes, wide results, every factor, activations."""

    def make(*shape: int) -> Tensor:
        return torch.randint(-2, 3, shape).double() if whole else torch.randn(shape, dtype=torch.float64)

    def call(n: int, h: int, w: int, widths: list[int], outs: int, *given: str, activation: str = "none") -> Args:
        weight = make(outs, sum(widths), 1, 1) / (1 if whole else sum(widths) ** 0.5)
        return [
            [make(n, width, h, w) for width in widths],
            weight,
            make(outs) if "bias" in given else None,
            make(n, sum(widths), 1, 1) if "scale" in given else None,
            [make(n, 1, h, w) for _ in widths] if "maps" in given else [],
            make(1) if "gain" in given else None,
            make(n, outs, h, w) if "residual" in given else None,
            make(1) if "residual gain" in given else None,
            activation,
            0.5,
        ]

    yield call(1, 31, 37, [26] * 4, 52, "bias", "scale", "maps", "residual")
    yield call(2, 19, 23, [16] * 4, 64, "bias", "gain", "residual", "residual gain")
    yield call(1, 13, 17, [64] * 6, 64)
    yield call(3, 7, 61, [1, 5, 2], 7, "bias", "scale", "gain")
    yield call(2, 1, 1, [3], 2, "maps", "scale")
    yield call(2, 5, 9, [1, 2] * 10, 3, "bias", "scale", "maps", "gain", "residual", "residual gain")
    yield call(1, 5, 9, [2] * 17, 3)
    for activation in ("relu", "leaky_relu", *([] if whole else ["gelu", "silu", "sigmoid"])):
        yield call(2, 7, 13, [5, 2], 7, "bias", "residual", activation=activation)


def change(args: Args, how: Callable[[Tensor], Tensor]) -> Args:
    def each(value: Any) -> Any:
        if isinstance(value, list):
            return [each(one) for one in value]
        return how(value) if isinstance(value, Tensor) else value

    return [each(value) for value in args]


def tensors(args: Args) -> list[Tensor]:
    return [each for each in tree_flatten(args)[0] if isinstance(each, Tensor)]


def outputs(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, tuple) else [result]


def run(module: Any, args: Args) -> list[Tensor]:
    """The results of a kernel, and the gradients of every tensor; each result is its own incoming gradient."""
    found = outputs(module.forward(*args))
    return [*found, *module.backward(found, [True] * len(tensors(args)), *args)]


def expected(reference: Callable[..., Any], args: Args) -> list[Tensor]:
    args = change(args, lambda each: each.detach().clone().requires_grad_())
    found = outputs(reference(*args))
    used = [each for each in found if each.numel()]
    grads = [each.detach() for each in used]
    return [*found, *torch.autograd.grad(used, tensors(args), grads)]


def laid_out(args: Args, dtype: torch.dtype, layout: torch.memory_format) -> Args:
    def place(value: Tensor) -> Tensor:
        value = value.to(dtype)
        return value.contiguous(memory_format=layout) if value.dim() == 4 else value

    return change(args, place)


OPS = [
    (split, split_reference, split_calls),
    (split, split_reference, convolved_calls),
    (fusion, fusion_reference, fusion_calls),
]
each_op = pytest.mark.parametrize(("module", "reference", "calls"), OPS, ids=["split", "convolved", "fusion"])


@each_op
@each_layout
@each_type
def test_results_and_gradients(
    level: None, module: Any, reference: Any, calls: Any, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    for number, args in enumerate(calls()):
        given = laid_out(args, dtype, layout)
        wide = change(given, Tensor.double)
        got, exact = run(module, given), expected(reference, wide)
        plain = expected(reference, given) if dtype.itemsize == 2 else exact
        assert len(got) == len(exact)
        for i, (mine, eager, wanted) in enumerate(zip(got, plain, exact, strict=True)):
            assert mine.dtype == dtype
            assert mine.shape == wanted.shape
            error, scale = (mine.double() - wanted).norm(), wanted.norm()
            allowed = {torch.float32: 4e-6, torch.float64: 1e-13}.get(dtype, 0) * scale
            if dtype.itemsize == 2:  # single numbers may be luckier in eager code
                rounding = torch.finfo(dtype).eps * scale
                allowed = max(1.25 * (eager.double() - wanted).norm(), 0.75 * rounding)
            assert error <= allowed, (number, i, error / scale, allowed / scale)


@each_op
@each_layout
@each_type
def test_whole_numbers_are_exact(
    level: None, module: Any, reference: Any, calls: Any, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    for args in calls(whole=True):
        given = laid_out(args, dtype, layout)
        found, wanted = outputs(module.forward(*given)), outputs(reference(*change(args, Tensor.double)))
        for mine, exact in zip(found, wanted, strict=True):
            assert torch.equal(mine, exact.to(dtype))


@each_op
@each_layout
def test_bits_do_not_depend_on_threads(
    level: None, module: Any, reference: Any, calls: Any, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    before = torch.get_num_threads()
    all_args = [laid_out(args, torch.float32, layout) for args in calls()]
    try:
        torch.set_num_threads(1)
        first = [run(module, args) for args in all_args]
        for threads in (2, 3):
            torch.set_num_threads(threads)
            for args, wanted in zip(all_args, first, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(run(module, args), wanted, strict=True))
    finally:
        torch.set_num_threads(before)


@each_op
@each_layout
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_not_finite_as_the_reference(
    level: None, module: Any, reference: Any, calls: Any, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    """What is not finite spreads as in plain PyTorch, and what fills up vectors, pairs and tiles meets none of it."""
    torch.manual_seed(0)
    for value in (float("inf"), -float("inf"), float("nan")):
        for args in calls():
            given = laid_out(args, dtype, layout)
            picture = tensors(given)[0]
            picture[-1, -1, -1, -1] = picture[0, 0, 0, 0] = value
            wanted = outputs(reference(*change(given, Tensor.double)))
            for mine, exact in zip(outputs(module.forward(*given)), wanted, strict=True):
                assert torch.equal(mine.isnan(), exact.isnan())
                assert torch.equal(mine.isinf(), exact.isinf())


def wider(value: Tensor, layout: torch.memory_format) -> Tensor:
    """The same picture as a range of channels of a wider one, poisoned around it."""
    n, c, h, w = value.shape
    around = torch.full((n, c + 7, h, w), float("nan"), dtype=value.dtype).contiguous(memory_format=layout)
    around[:, 4 : 4 + c] = value
    return around[:, 4 : 4 + c]


@each_layout
def test_ranges_of_channels_are_not_copied(layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    copies: list[Tensor] = []
    before = shared.dense_in

    def copying(value: Tensor, layout: torch.memory_format) -> Tensor:
        copies.append(value)
        return before(value, layout)

    x, residual = (torch.randn(2, 12, 9, 7).contiguous(memory_format=layout) for _ in range(2))
    parts = [torch.randn(2, c, 9, 7).contiguous(memory_format=layout) for c in (12, 3, 1)]
    weight, wide = torch.randn(5, 4, 1, 1), torch.randn(12, 16, 1, 1)
    ends = ("leaky_relu", 0.1, weight, None, "relu", None, None, True)
    with lightsr_kernels.backend("cpu"):
        split_distillation(x, 4, weight=weight)  # the kernels are there
        dense = (
            split.forward(x, 4, None, residual, *ends),
            fusion.forward(parts, wide, None, None, [], None, residual, None),
        )
        monkeypatch.setattr(shared, "dense_in", copying)
        pieces = [parts[0], *[wider(each, layout) for each in parts[1:]]]
        if layout == torch.contiguous_format:  # the first picture says which layout the result has
            pieces[0] = wider(pieces[0], layout)
            x = wider(x, layout)
        other = wider(residual, layout)
        got = split.forward(x, 4, None, other, *ends), fusion.forward(pieces, wide, None, None, [], None, other, None)
    assert not copies
    assert torch.equal(got[0][0], dense[0][0])
    assert torch.equal(got[0][1], dense[0][1])
    assert torch.equal(got[1], dense[1])
    strided = torch.randn(2, 12, 9, 14)[..., ::2]
    with lightsr_kernels.backend("cpu"):
        distillation_fusion([strided], torch.randn(2, 12, 1, 1))
    assert len(copies) == 1
