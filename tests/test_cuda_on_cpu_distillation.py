"""The CUDA kernels of split_distillation and distillation_fusion, run on the CPU."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest
import torch
from cuda_on_cpu.distillation import TYPES, Fusion, Split
from cuda_on_cpu.harness import Harness, Result, why_not
from torch import Tensor

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
EACH_TYPE = pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
EACH_LAYOUT = pytest.mark.parametrize("last", [False, True], ids=["nchw", "channels_last"])


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    ops = ("split_distillation", "distillation_fusion")
    entries = [f"tests/cuda_on_cpu/entry_{op}.cpp" for op in ops]
    program = Harness(*entries, *(f"csrc/{op}/cuda.cu" for op in ops))
    yield program
    program.close()


def double(args: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if each is None else each.double() for each in args]


def close(found: Tensor, exact: Tensor, eager: Tensor, name: str) -> None:
    """At most 1.25 times eager code's error; that may be lucky on a few numbers, and a sum's order is free."""
    least = torch.finfo(found.dtype).eps * exact.abs().max() * (20 if found.dtype in TYPES[:2] else 1)
    error, allowed = (found.double() - exact).abs().max(), 1.25 * (eager.double() - exact).abs().max()
    assert error <= torch.maximum(allowed, least), f"{name}: {error:.3g} against {allowed:.3g}"


FAST = (
    Split("split", (2, 5, 9, 7), 2, 4),
    Split("split-vectors", (1, 32, 4, 40), 16, 16, margin=8),
    Split("whole", (2, 12, 6, 12), None, 26, offset=1),
    Split("whole-gate", (1, 36, 7, 11), None, 18, ("weight", "gate", "keep", "bias"), "gelu", "silu"),
    Split("gate-only", (2, 24, 3, 24), None, 0, ("gate", "bias"), "none"),
    Split("split-gate", (1, 9, 5, 13), 5, 0, ("gate", "keep", "residual"), "silu", margin=1),
    Split("activation-only", (2, 16, 5, 16), 8, 0, ("bias", "keep", "residual"), margin=4),
    Split("activation-whole", (1, 7, 3, 5), None, 0, ("keep",), "sigmoid"),
    Split("no-rest", (1, 6, 10, 10), 2, 3, ("weight", "gate"), "relu", "none", margin=2),
    Split("1x1-picture", (3, 4, 1, 1), 1, 2),
)
# More tiles than blocks in backward, sums that stay in the workspace, large tiles in forward, and no room at all.
OTHERS = (
    Split("many-pictures", (270, 3, 1, 1), 2, 2, ("bias", "weight", "keep")),
    Split("many-sums", (1, 160, 1, 40), None, 160),
    Split("large-tiles", (88, 5, 1, 300), 2, 3, ("bias", "weight", "keep"), "silu"),
    Split("many-channels-and-pictures", (70, 440, 1, 1), None, 300, ("weight", "keep")),
    Split("many-channels", (1, 700, 2, 3), None, 500, ("weight", "keep", "bias")),
    Split("many-channels-gate", (1, 600, 1, 5), 480, 300, ("weight", "gate", "keep", "residual"), "silu", "gelu"),
)


def check_split(harness: Harness, case: Split, dtype: torch.dtype, last: bool) -> None:
    # Whole numbers where a 16-bit number could fall on the other side of a bend.
    args = case.arguments(
        dtype, dtype in TYPES[2:] and {case.activation, case.second} & {"relu", "leaky_relu"} != set()
    )
    exact, eager = case.expected(double(args)), case.expected(args)
    found = case.forward(harness, args, last)
    for number, each in enumerate(found):
        close(each, exact[number], eager[number], f"result {number}")
    grads = [torch.randn(each.shape).to(dtype) for each in eager]
    exact_grads = case.gradients(double(args), [each.double() for each in grads])
    eager_grads = case.gradients(args, grads)
    for number, each in enumerate(case.backward(harness, args, grads, last)):
        close(each, exact_grads[number], eager_grads[number], f"gradient {number}")


@EACH_LAYOUT
@EACH_TYPE
@pytest.mark.parametrize("case", FAST, ids=lambda case: case.name)
def test_split_equals_reference(harness: Harness, case: Split, dtype: torch.dtype, last: bool) -> None:
    check_split(harness, case, dtype, last)


@pytest.mark.parametrize(("dtype", "last"), [(torch.float32, True), (torch.float16, False)], ids=str)
@pytest.mark.parametrize("case", OTHERS, ids=lambda case: case.name)
def test_split_equals_reference_the_other_ways(harness: Harness, case: Split, dtype: torch.dtype, last: bool) -> None:
    check_split(harness, case, dtype, last)


EVERYTHING = ("bias", "scale", "maps", "gain", "residual", "residual_gain")
FUSIONS = (
    Fusion("parts", (2, 9, 7), (2, 3), 4),
    Fusion("vectors", (1, 8, 12), (16, 32, 24), 16, ("bias", "residual"), margin=8),
    Fusion("maps-vectors", (2, 4, 20), (24, 8), 72, EVERYTHING),
    Fusion("everything", (2, 11, 13), (26, 26, 1), 21, EVERYTHING, margin=1, offset=1),
    Fusion("wide-parts", (1, 7, 10), (70, 33), 130, ("scale", "gain", "residual")),
    Fusion("one-part-no-bias", (3, 3, 5), (5,), 3, ("maps", "residual", "residual_gain")),
    Fusion("16-parts", (1, 5, 4), (1,) * 16, 2, ("bias", "gain")),
    Fusion("1x1-picture", (3, 1, 1), (2, 3), 4, EVERYTHING),
)
# Large tiles, more tiles than blocks, more chunks than runs.
OTHER_FUSIONS = (
    Fusion("large-tiles", (88, 1, 300), (5,), 4, ("scale", "maps", "bias")),
    Fusion("many-pictures", (540, 1, 1), (2,), 1, ("residual",)),
    Fusion("many-chunks", (50, 1, 1), (200,), 130),
)


def check_fusion(harness: Harness, case: Fusion, dtype: torch.dtype, last: bool) -> None:
    args = case.arguments(dtype)
    results = case.expected(double(args)), case.expected(args)
    close(case.forward(harness, args, last), *results, "result")
    grad = torch.randn(results[0].shape).to(dtype)
    pictures, sums = case.backward(harness, args, grad, last)
    wanted = case.gradients(double(args), grad.double()), case.gradients(args, grad)
    for number, (found, exact, eager) in enumerate(zip(pictures, *wanted, strict=True)):
        close(found, exact, eager, f"gradient {number}")
    # In 16 bits only the parts times their maps are rounded; the sums are float32 at least.
    eps = torch.finfo(dtype).eps
    allowed = 20 * (eps if dtype == torch.float64 else 1e-7) if dtype in TYPES[:2] or "maps" not in case.parts else eps
    for number, (found, exact) in enumerate(zip(sums, case.sums(double(args), grad.double()), strict=True)):
        error = (found - exact).abs().max() / exact.abs().max()
        assert error <= allowed, f"sum {number}: {error:.3g}"


@EACH_LAYOUT
@EACH_TYPE
@pytest.mark.parametrize("case", FUSIONS, ids=lambda case: case.name)
def test_fusion_equals_reference(harness: Harness, case: Fusion, dtype: torch.dtype, last: bool) -> None:
    check_fusion(harness, case, dtype, last)


@pytest.mark.parametrize(
    ("case", "dtype", "last"),
    [
        (OTHER_FUSIONS[0], torch.float16, False),
        (OTHER_FUSIONS[0], torch.float16, True),
        (OTHER_FUSIONS[1], torch.float32, False),
        (OTHER_FUSIONS[2], torch.float32, True),
    ],
    ids=["large-tiles", "large-tiles-last", "many-pictures", "many-chunks"],
)
def test_fusion_equals_reference_the_other_ways(harness: Harness, case: Fusion, dtype: torch.dtype, last: bool) -> None:
    check_fusion(harness, case, dtype, last)


SPLIT_ORDERS = (
    Split("", (1, 17, 9, 15), 9, 12, ("bias", "residual", "weight", "gate", "keep"), "silu", "gelu"),
    Split("", (2, 24, 8, 20), None, 40, ("bias", "weight", "keep")),
    Split("", (1, 600, 1, 9), None, 300, ("weight", "gate")),
)
FUSION_ORDERS = (
    Fusion("", (2, 9, 15), (26, 26), 52, EVERYTHING),
    Fusion("", (1, 8, 40), (16,) * 4, 70, ("bias", "residual")),
)


@EACH_LAYOUT
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_order_of_threads_changes_a_bit(harness: Harness, dtype: torch.dtype, last: bool) -> None:
    for case in SPLIT_ORDERS:
        args = case.arguments(dtype)
        grads = [torch.randn(each.shape).to(dtype) for each in case.expected(args)]
        results = [
            [*case.forward(harness, args, last, seed), *case.backward(harness, args, grads, last, seed)]
            for seed in range(2)
        ]
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    for fusion in FUSION_ORDERS:
        args = fusion.arguments(dtype)
        grad = torch.randn(fusion.expected(args).shape).to(dtype)
        results = []
        for seed in range(2):
            pictures, sums = fusion.backward(harness, args, grad, last, seed)
            results.append([fusion.forward(harness, args, last, seed), *pictures, *sums])
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@EACH_LAYOUT
@EACH_TYPE
def test_whole_numbers_are_exact(harness: Harness, dtype: torch.dtype, last: bool) -> None:
    for split in (None, 12):
        case = Split("", (2, 20, 9, 15), split, 24, margin=4)
        args = case.arguments(dtype, True)
        grads = [torch.randint(-2, 3, each.shape).to(dtype) for each in case.expected(args)]
        for found, wanted in zip(case.forward(harness, args, last), case.expected(double(args)), strict=True):
            assert torch.equal(found, wanted.to(dtype))
        # Steps in between are exact where bfloat16 has room for them.
        gradients = case.gradients(double(args), [each.double() for each in grads])
        for found, wanted in zip(case.backward(harness, args, grads, last), gradients, strict=True):
            if dtype != torch.bfloat16:
                assert torch.equal(found, wanted.to(dtype))
    fusion = Fusion("", (2, 9, 15), (20, 7), 70, EVERYTHING)
    args = fusion.arguments(dtype, True)
    grad = torch.randint(-2, 3, fusion.expected(args).shape).to(dtype)
    assert torch.equal(fusion.forward(harness, args, last), fusion.expected(double(args)).to(dtype))
    pictures, sums = fusion.backward(harness, args, grad, last)
    assert all(torch.equal(a, b) for a, b in zip(sums, fusion.sums(double(args), grad.double()), strict=True))
    gradients = fusion.gradients(double(args), grad.double())
    for found, wanted in zip(pictures, gradients, strict=True):
        if dtype != torch.bfloat16:
            assert torch.equal(found, wanted.to(dtype))


@EACH_LAYOUT
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_pixel(harness: Harness, value: float, last: bool) -> None:
    gated = Split("", (1, 10, 9, 13), None, 6, ("weight", "gate", "keep"), "none", "relu")
    for case in (Split("", (1, 10, 9, 13), 4, 6), gated):
        args = case.arguments(torch.float16)
        x = args[0]
        assert x is not None
        x[0, 3, 4, 6] = value
        for found, wanted in zip(case.forward(harness, args, last), case.expected(double(args)), strict=True):
            assert torch.equal(found.isfinite(), wanted.isfinite())
        grads = [torch.randn(each.shape).half() for each in case.expected(args)]
        gradients = case.gradients(double(args), [each.double() for each in grads])
        for found, exact in zip(case.backward(harness, args, grads, last), gradients, strict=True):
            assert torch.equal(found.isfinite(), exact.isfinite())
    fusion = Fusion("", (2, 9, 13), (5, 20), 6, EVERYTHING)
    args = fusion.arguments(torch.float16)
    part = args[7]
    assert part is not None
    part[1, 3, 4, 6] = value
    assert torch.equal(fusion.forward(harness, args, last).isfinite(), fusion.expected(double(args)).isfinite())
    grad = torch.randn(2, 6, 9, 13).half()
    pictures, sums = fusion.backward(harness, args, grad, last)
    for found, exact in zip(pictures, fusion.gradients(double(args), grad.double()), strict=True):
        assert torch.equal(found.isfinite(), exact.isfinite())
    for found, exact in zip(sums, fusion.sums(double(args), grad.double()), strict=True):
        assert torch.equal(found.isfinite(), exact.isfinite())


@EACH_LAYOUT
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_any_gradient_may_be_left_out(harness: Harness, dtype: torch.dtype, last: bool) -> None:
    """One at a time has the bits that all together have."""
    case = Split("", (1, 9, 5, 13), 5, 7, ("bias", "residual", "weight", "gate", "keep"))
    args = case.arguments(dtype)
    grads = [torch.randn(each.shape).to(dtype) for each in case.expected(args)]
    together = case.backward(harness, args, grads, last)
    for i, expected in enumerate(together):
        assert torch.equal(case.backward(harness, args, grads, last, only=i)[0], expected)
    fusion = Fusion("", (2, 5, 13), (5, 20), 6, EVERYTHING)
    values = fusion.arguments(dtype)
    every = fusion.arguments_of_backward(values, torch.randn(2, 6, 5, 13).to(dtype), last)
    all_found = harness.call("distillation_fusion_backward", *every)
    places = [i for i, each in enumerate(every) if isinstance(each, Result)]
    for i, expected in zip(places, all_found, strict=True):
        one = [None if isinstance(each, Result) and at != i else each for at, each in enumerate(every)]
        assert torch.equal(harness.call("distillation_fusion_backward", *one)[0], expected)


def test_every_size_has_a_plan(harness: Harness) -> None:
    draw = random.Random(1)
    for _ in range(300):
        n, c, pixels = (
            draw.choice((1, 2, 64)),
            draw.choice((1, 7, 64, 300, 1024)),
            draw.choice((1, 63, 3600, 2**22 + 1)),
        )
        dtype, last, whole = draw.randrange(4), draw.randrange(2), draw.randrange(2)
        d = draw.choice((1, 16, 50, 1024))
        split = c if whole else draw.randrange(1, c + 1)
        tensor = Result((1,), TYPES[dtype])
        slices = (tensor, 0, c * pixels, c if last else pixels) * 2
        head = (dtype, last, n, c, pixels, split, whole, d, 2, 2, 0.1, *slices, tensor, tensor, tensor, tensor, tensor)
        launches = harness.plan("split_distillation", *head, tensor, tensor)
        launches += harness.plan("split_distillation_backward", *head, *[tensor] * 9)
        fusion = (dtype, last, n, pixels, d, 2, *(c, *slices[:4], tensor) * 2)
        ends = (tensor, tensor, tensor, tensor, *slices[:4], tensor)
        launches += harness.plan("distillation_fusion", *fusion, *ends, tensor)
        launches += harness.plan("distillation_fusion_backward", *fusion, *ends, *[tensor] * 6, 1, *[tensor] * 3)
        assert len(launches) == 9
        for launch in launches:
            assert 1 <= launch.blocks < 2**31
            assert launch.threads % 32 == 0 and launch.threads <= 256
            assert launch.shared <= 163 * 1024
