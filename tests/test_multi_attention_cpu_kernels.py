"""The CPU kernels of multi_attention, compiled for each SIMD level that this machine runs.

The matrix over all ops runs the level that the build picks; here the operators of each level are called in turn, on
sizes beyond a block, a chunk of rows and a band, against the reference in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from simd_levels import LEVELS, operators
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

import lightsr_kernels
from lightsr_kernels import multi_attention
from lightsr_kernels.multi_attention import native
from lightsr_kernels.multi_attention.reference import reference

NAMES = ("forward", "products", "logits", "pixels")
TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
each_type = pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: str(dtype)[6:])
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@pytest.fixture(scope="module", params=LEVELS)
def level(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with operators(str(request.param), tmp_path_factory.mktemp("kernels"), "multi_attention", native, NAMES):
        yield


@pytest.fixture(autouse=True)
def cpu(level: None) -> Iterator[None]:
    torch.manual_seed(0)
    with lightsr_kernels.backend("cpu"):
        yield


def call(
    widths: list[int],
    size: tuple[int, int, int],
    *,
    out: int | None = None,
    sides: tuple[int, ...] = (7,),
    residual: bool = False,
    dtype: torch.dtype = torch.float64,
    layout: torch.memory_format = torch.contiguous_format,
) -> tuple[Any, ...]:
    """Arguments in the order of the schema."""

    def make(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, dtype=torch.float64) * scale).to(dtype)

    def picture(channels: int) -> Tensor:
        n, h, w = size
        return make(n, channels, h, w).contiguous(memory_format=layout)

    layers = (
        [make(c, c, 1, 1, scale=c**-0.5) for c in widths],
        [make(c) for c in widths],
        [make(1, 2, sides[k % len(sides)], sides[k % len(sides)], scale=0.2) for k in range(len(widths))],
        [make(3, c, 1, 1) for c in widths],
        [make(3) + 1 for _ in widths],
        [make(c, 3, 1, 1) for c in widths],
        [make(c) for c in widths],
    )
    ends = (
        None if out is None else make(out, sum(widths), 1, 1, scale=sum(widths) ** -0.5),
        None if out is None else make(out),
        picture(sum(widths) if out is None else out) if residual else None,
    )
    return ([picture(c) for c in widths], *layers, *ends)


# Widths that are no multiple of a vector and more than a tile, rows longer than a block and bands of many rows, a
# filter larger than the picture, filters that differ.
CALLS: dict[str, dict[str, Any]] = {
    "mafdn": {"widths": [26] * 4, "size": (2, 40, 41), "out": 52, "residual": True},
    "wide-rows": {"widths": [5, 3], "size": (1, 9, 1111), "out": 7, "residual": True},
    "tall": {"widths": [50], "size": (1, 301, 30), "out": 17},
    "side-by-side": {"widths": [17, 33, 1], "size": (2, 33, 18), "residual": True, "sides": (5, 1, 9)},
    "large-filter": {"widths": [4], "size": (2, 6, 3), "out": 2, "sides": (31,)},
    "many-parts": {"widths": [2] * 19, "size": (1, 8, 12), "out": 5, "sides": (3, 7)},
}
each_call = pytest.mark.parametrize("options", CALLS.values(), ids=CALLS)


def tensors(args: tuple[Any, ...]) -> list[Tensor]:
    return [each for each in tree_flatten(args)[0] if isinstance(each, Tensor)]


def gradients(args: tuple[Any, ...], grad: Tensor, function: Any) -> list[Tensor]:
    for each in tensors(args):
        each.requires_grad_()
    return list(torch.autograd.grad(function(*args), tensors(args), grad))


def run(*args: Any) -> Tensor:
    return multi_attention(*args[:8], out_weight=args[8], out_bias=args[9], residual=args[10])


def wide(args: Any) -> Any:
    return tree_map(lambda each: each.detach().double() if isinstance(each, Tensor) else each, args)


def error(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted).abs().max() / wanted.abs().max())


@each_call
@each_layout
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=lambda dtype: str(dtype)[6:])
def test_result_and_gradients(options: dict[str, Any], layout: torch.memory_format, dtype: torch.dtype) -> None:
    args = call(**options, dtype=dtype, layout=layout)
    wanted = reference(*wide(args))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    out = run(*args)
    assert error(out, wanted) < tolerance
    assert out.is_contiguous(memory_format=layout)
    grad = torch.randn_like(out)
    found = gradients(args, grad, run)
    for got, want, each in zip(found, gradients(wide(args), grad.double(), reference), tensors(args), strict=True):
        assert error(got, want) < tolerance, list(each.shape)
        assert got.stride() == each.stride()


@each_layout
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", ["mafdn", "side-by-side"])
def test_low_precision(name: str, layout: torch.memory_format, dtype: torch.dtype) -> None:
    """At most 1.25 times what PyTorch errs in the same dtype."""
    args = call(**CALLS[name], dtype=dtype, layout=layout)
    wanted, eager = reference(*wide(args)), reference(*args)
    assert error(run(*args), wanted) <= 1.25 * error(eager, wanted)
    grad = torch.randn_like(eager)
    found, usual = gradients(args, grad, run), gradients(args, grad, reference)
    for got, want, other in zip(found, gradients(wide(args), grad.double(), reference), usual, strict=True):
        assert error(got, want) <= 1.25 * error(other, want) + 1e-6


@each_type
@each_layout
def test_threads_change_no_bit(dtype: torch.dtype, layout: torch.memory_format) -> None:
    args = call([26, 7], (1, 120, 64), out=20, residual=True, dtype=dtype, layout=layout)
    grad = torch.randn_like(args[10])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = [run(*args).detach(), *gradients(args, grad, run)]
        torch.set_num_threads(3)
        together = [run(*args).detach(), *gradients(args, grad, run)]
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)


@each_layout
def test_ranges_of_channels_are_taken_as_they_are(layout: torch.memory_format) -> None:
    args = call([6, 10], (2, 20, 30), out=8, layout=layout)
    joined = torch.cat(args[0], 1).contiguous(memory_format=layout)
    parts = [args[0][0], joined[:, 6:]]  # the first says which layout
    assert torch.equal(run(parts, *args[1:]), run(*args))


@each_layout
def test_equal_maxima_share_the_gradient(layout: torch.memory_format) -> None:
    args = call([4], (2, 5, 20), layout=layout)
    args[0][0][:, 1:3] = args[0][0][:, :1].abs() + 3  # two channels and their weights are alike
    args[1][0][1], args[2][0][1] = args[1][0][2], args[2][0][2]
    grad = torch.randn(2, 4, 5, 20, dtype=torch.float64)
    for got, want in zip(gradients(args, grad, run), gradients(wide(args), grad, reference), strict=True):
        assert error(got, want) < 1e-12


@each_layout
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=lambda dtype: str(dtype)[6:])
def test_what_is_not_finite(value: float, layout: torch.memory_format, dtype: torch.dtype) -> None:
    args = call([20, 3], (2, 12, 40), dtype=dtype, layout=layout)
    args[0][0][0, 4, 5, 6] = value
    torch.testing.assert_close(run(*args), reference(*args), equal_nan=True, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kept", [True, False])
def test_each_gradient_alone(kept: bool) -> None:
    """The bits of all gradients at once, whether forward has kept something for them or not."""
    args = call([5, 3], (2, 9, 7), out=4, residual=True)
    out, left = native.forward_keeping(*args)
    assert left
    grad, count = torch.randn_like(out), len(tensors(args))
    options: dict[str, Any] = {"kept": left} if kept else {}
    together = native.backward([grad], [True] * count, *args, **options)
    assert len(together) == count
    for i, wanted in enumerate(together):
        (alone,) = native.backward([grad], [i == k for k in range(count)], *args, **options)
        assert torch.equal(alone, wanted)
