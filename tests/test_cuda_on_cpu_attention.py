"""The CUDA passes of instance_norm_attention, run on the CPU, each against the same in float64."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cuda_on_cpu.harness import Argument, At, Harness, Launch, Result, why_not
from torch import Tensor

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # in the order of csrc/common/types.h
EACH_TYPE = pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
EACH_LAYOUT = pytest.mark.parametrize("last", [False, True], ids=["nchw", "channels_last"])
Shape = tuple[int, int, int, int]
DOUBLE = torch.float64

# By 16 bytes and not, one channel, one pixel, more channels or pixels than a block takes at once, thin pictures.
SHAPES: tuple[Shape, ...] = (
    (2, 16, 12, 16),
    (1, 3, 7, 9),
    (3, 1, 5, 8),
    (2, 24, 1, 1),
    (1, 1, 1, 1),
    (1, 40, 6, 44),
    (2, 5, 1, 131),
    (1, 2, 70, 2),
    (1, 264, 4, 6),
)


def wide(dtype: torch.dtype) -> torch.dtype:
    return DOUBLE if dtype == DOUBLE else torch.float32


@dataclass
class Case:
    """What passes take, in their dtypes; pictures [N, C, H, W], numbers for planes [N, C], maps [N, 1 or 2, H, W]."""

    x: Tensor
    grad: Tensor
    centre: Tensor | None
    scale: Tensor | None
    shift: Tensor | None
    gate: Tensor | None
    pooled: Tensor | None
    grad_pooled: Tensor | None
    share: Tensor | None
    constant: Tensor | None
    slope: Tensor | None
    weight: Tensor | None  # [2, K, K]
    residual: bool = True

    def double(self) -> Case:
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        wider: dict[str, Any] = {name: each.double() for name, each in given.items() if isinstance(each, Tensor)}
        return replace(self, **wider)

    @property
    def parts(self) -> tuple[Tensor | None, ...]:
        return self.centre, self.scale, self.shift


class Kernels:
    """The entries of entry_instance_norm_attention.cpp as functions of a case."""

    def __init__(self, last: bool = False, offset: int = 0, seed: int = 0) -> None:
        sources = "tests/cuda_on_cpu/entry_instance_norm_attention.cpp", "csrc/instance_norm_attention/cuda.cu"
        self.harness = Harness(*sources)
        self.last, self.offset, self.seed = last, offset, seed

    def picture(self, x: Tensor) -> At:
        return At(x.permute(0, 2, 3, 1) if self.last else x, self.offset * x.element_size())

    def result(self, x: Tensor) -> Result:
        n, c, h, w = x.shape
        return Result((n, h, w, c) if self.last else (n, c, h, w), x.dtype, self.offset * x.element_size())

    def call(self, name: str, x: Tensor, *arguments: Argument) -> list[Tensor]:
        return self.harness.call(name, TYPES.index(x.dtype), self.last, *x.shape, *arguments, seed=self.seed)

    def moments(self, x: Tensor) -> list[Tensor]:
        planes = Result(x.shape[:2], DOUBLE)
        return self.call("moments", x, self.picture(x), planes, planes)

    def channel_pool(self, it: Case) -> Tensor:
        n, _, h, w = it.x.shape
        return self.call("channel_pool", it.x, self.picture(it.x), *it.parts, Result((n, 2, h, w), wide(it.x.dtype)))[0]

    def gated_affine(self, it: Case) -> tuple[Tensor, Tensor]:
        n, _, h, w = it.x.shape
        gated, k = it.pooled is not None, 1 if it.weight is None else it.weight.shape[-1]
        gate = Result((n, 1, h, w), wide(it.x.dtype)) if gated else None
        arguments = (self.picture(it.x), *it.parts, it.pooled, it.weight if gated else None, k, gate, it.residual)
        *found, out = self.call("gated_affine", it.x, *arguments, self.result(it.x))
        out = out.permute(0, 3, 1, 2) if self.last else out
        return out, found[0] if gated else torch.ones(n, 1, h, w)

    def backward(self, it: Case) -> tuple[Argument, ...]:
        return self.picture(it.grad), self.picture(it.x), *it.parts, it.gate, it.pooled, it.grad_pooled

    def gate_gradient(self, it: Case) -> list[Tensor]:
        n, _, h, w = it.x.shape
        maps = Result((n, 1, h, w), wide(it.x.dtype))
        return self.call("gate_gradient", it.x, *self.backward(it), maps, maps)

    def affine_sums(self, it: Case) -> Tensor:
        sums = Result((2, *it.x.shape[:2]), DOUBLE)
        return self.call("affine_sums", it.x, *self.backward(it), it.share, sums)[0]

    def affine_gradient(self, it: Case) -> Tensor:
        rest = it.share, it.residual, it.constant, it.slope, self.result(it.x)
        (found,) = self.call("affine_gradient", it.x, *self.backward(it), *rest)
        return found.permute(0, 3, 1, 2) if self.last else found


@pytest.fixture(scope="module")
def shared() -> Iterator[Kernels]:
    kernels = Kernels()
    yield kernels
    kernels.harness.close()


@pytest.fixture
def kernels(shared: Kernels) -> Kernels:
    shared.last, shared.offset, shared.seed = False, 0, 0
    return shared


def affine(it: Case) -> Tensor:
    """y; bit for bit for what is small and whole."""
    y = it.x.to(wide(it.x.dtype))
    if it.centre is not None:
        y = y - it.centre[..., None, None]
    if it.scale is not None:
        y = y * it.scale[..., None, None]
    return y if it.shift is None else y + it.shift[..., None, None]


def offset_of(it: Case) -> Tensor:
    return it.x if it.centre is None else it.x - it.centre[..., None, None]


def gradient(it: Case) -> Tensor:
    """dy."""
    if it.gate is None:
        return it.grad
    assert it.pooled is not None and it.grad_pooled is not None and it.share is not None
    ties = affine(it) == it.pooled[:, 1:]
    return it.grad * it.gate + it.grad_pooled[:, :1] / it.x.shape[1] + ties * (it.grad_pooled[:, 1:] * it.share)


def case(dtype: torch.dtype, shape: Shape, k: int = 7, whole: bool = False) -> Case:
    """Everything there can be. Whole numbers make y exact: ties of the maximum are plenty, and the same in float64."""
    n, c, h, w = shape

    def numbers(*size: int, to: torch.dtype) -> Tensor:
        return torch.randint(-3, 4, size).to(to) if whole else torch.randn(size).to(to)

    maps = wide(dtype)
    planes = [numbers(n, c, to=maps) for _ in range(5)]
    x, grad = numbers(*shape, to=dtype), numbers(*shape, to=dtype)
    gate, pooled, grad_pooled = (
        torch.rand(n, 1, h, w).to(maps),
        torch.randn(n, 2, h, w).to(maps),
        torch.randn(n, 2, h, w),
    )
    weight = torch.randn(2, k, k).to(dtype) / k
    centre, scale, shift, constant, slope = planes
    it = Case(x, grad, centre, scale, shift, gate, pooled, grad_pooled.to(maps), None, constant, slope, weight)
    top = affine(it).amax(1, keepdim=True)
    pooled[:, 1:] = top
    it.share = 1 / (affine(it) == top).sum(1, keepdim=True).to(maps)
    return it


def variants(it: Case) -> list[Case]:
    """As the four ops call: all of it, no gate, a scale alone, nothing but the gate."""
    no_gate = replace(it, gate=None, pooled=None, grad_pooled=None, share=None)
    plain = replace(it, centre=None, scale=None, shift=None, constant=None, slope=None, residual=False)
    assert it.pooled is not None
    pooled = torch.cat([it.pooled[:, :1], it.x.to(it.pooled.dtype).amax(1, keepdim=True)], 1)
    plain = replace(plain, pooled=pooled, share=1 / (it.x == pooled[:, 1:]).sum(1, keepdim=True).to(pooled.dtype))
    return [it, no_gate, replace(no_gate, centre=None, shift=None, constant=None, slope=None, residual=False), plain]


def close(found: Tensor, expected: Tensor, dtype: torch.dtype, steps: float = 8) -> None:
    """Within some steps of the dtype (float32 at least, as sums are made), relative to the largest."""
    step = torch.finfo(dtype).eps * (1 if found.dtype == dtype and found.dtype.itemsize == 2 else steps)
    if found.dtype != dtype:
        step = torch.finfo(wide(dtype)).eps * steps
    largest = float(expected.abs().max().clamp(min=1))
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=step * largest)


def exact_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    value = x.double()
    mean = value.mean((2, 3), keepdim=True)
    rest = (value - mean).mean((2, 3), keepdim=True)  # what the mean of large numbers lost
    return (mean + rest)[..., 0, 0], (value - mean - rest).square().mean((2, 3))


@EACH_TYPE
@EACH_LAYOUT
@pytest.mark.parametrize("shape", [*SHAPES, (1, 2, 61, 70), (1, 8, 33, 64), (1, 6, 1, 900)], ids=str)
def test_moments(kernels: Kernels, dtype: torch.dtype, last: bool, shape: Shape) -> None:
    kernels.last = last
    for offset, scale in ((0.0, 1.0), (1e4, 1.0), (-3.0, 1e-3)):
        x = (torch.randn(shape, dtype=DOUBLE) * scale + offset).to(dtype)
        x[0, 0] = x[0, 0, 0, 0]  # a constant plane
        if shape[2] * shape[3] > 1:
            x[-1, -1, 0, 0] = 0  # an outlier where sums may begin
        mean, variance = kernels.moments(x)
        true_mean, true_variance = exact_moments(x)
        step = torch.finfo(wide(dtype)).eps
        steps = 512 if dtype == DOUBLE else 32  # nothing wider than float64 adds up batches
        # A part's mean is kept in float64, so far from 0 its last digit counts beside a small deviation.
        deviation, digit = true_variance.sqrt(), 4e-16 * true_mean.abs()
        assert ((mean - true_mean).abs() <= 4 * step * deviation + digit).all()
        assert ((variance - true_variance).abs() <= (steps * step * deviation + 8 * digit) * deviation).all()
        if shape[:2] != (1, 1):
            assert variance[0, 0] == 0 and mean[0, 0] == x[0, 0, 0, 0].double()


@EACH_LAYOUT
def test_moments_of_what_is_not_finite(kernels: Kernels, last: bool) -> None:
    kernels.last = last
    x = torch.randn(1, 6, 40, 60)
    x[0, 1, 3, 5] = x[0, 2, 0, 0] = float("inf")
    x[0, 2, 39, 59], x[0, 3, 20, 9], x[0, 4, 0, 0] = float("inf"), float("nan"), -float("inf")
    x[0, 4, 9, 9] = float("inf")
    mean, variance = kernels.moments(x)
    assert mean[0, 1:3].tolist() == [float("inf")] * 2
    assert mean[0, 3:5].isnan().all() and variance[0, 1:5].isnan().all()
    assert mean[0, ::5].isfinite().all() and variance[0, ::5].isfinite().all()


def factors(
    kernels: Kernels, dtype: torch.dtype, planes: list[Tensor], given: list[Tensor | None], *rest: int
) -> list[Tensor]:
    (n, c), hidden = planes[0].shape, 1 if given[2] is None else given[2].shape[0]
    results = [Result((n, c), wide(dtype)) for _ in range(3)]
    sizes = TYPES.index(dtype), n, c, hidden
    return kernels.harness.call("factors", *sizes, *rest, 1e-3, *planes, *given, *results)


@EACH_TYPE
@pytest.mark.parametrize(("n", "c", "hidden"), [(2, 16, 4), (1, 1, 1), (2, 300, 7), (1, 9, 1030), (1, 4100, 2)])
def test_factors(kernels: Kernels, dtype: torch.dtype, n: int, c: int, hidden: int) -> None:
    mean, variance = torch.randn(n, c, dtype=DOUBLE) * 10, torch.rand(n, c, dtype=DOUBLE)
    variance[0, 0] = 0
    every = [
        torch.randn(size).to(dtype) / size[-1] ** 0.5
        for size in ((c,), (c,), (hidden, c), (hidden,), (c, hidden), (c,))
    ]
    for norm, deviation, left_out in (
        (1, 1, ()),
        (0, 1, (0, 1)),
        (0, 0, (0, 1, 3, 5)),
        (1, 0, (0, 1, 2, 3, 4, 5)),
        (1, 0, (2, 3, 4, 5)),
    ):
        given = [None if i in left_out else each for i, each in enumerate(every)]
        found = factors(kernels, dtype, [mean, variance], list(given), norm, deviation)
        weight, bias, down, down_bias, up, up_bias = [None if each is None else each.double() for each in given]
        gate = torch.ones(n, c, dtype=DOUBLE)
        if down is not None and up is not None:
            statistic = mean + variance.sqrt() if deviation else mean
            gate = F.linear(F.linear(statistic, down, down_bias).relu(), up, up_bias).sigmoid()
        scale, shift, centre = gate, torch.zeros_like(mean), torch.zeros_like(mean)
        if norm:
            centre = mean.to(wide(dtype)).double()
            scale = gate * (1 if weight is None else weight) / (variance + 1e-3).sqrt()
            shift = gate * (0 if bias is None else bias) - scale * (mean - centre)
        steps = 64 if dtype == DOUBLE else 2  # rounded once
        assert torch.equal(found[0].double(), centre)
        close(found[1], scale, wide(dtype), steps)
        close(found[2], shift, wide(dtype), steps)


def test_factors_of_what_is_not_finite(kernels: Kernels) -> None:
    """A mean that is infinite and a deviation that is NaN count as the reference's: the mean, and 0."""
    mean, variance = torch.zeros(1, 3, dtype=DOUBLE), torch.ones(1, 3, dtype=DOUBLE)
    mean[0, 1], variance[0, 1] = float("inf"), float("nan")
    down, up = torch.ones(1, 3), torch.ones(3, 1)
    given = [None, None, down, None, up, None]
    _, scale, _ = factors(kernels, torch.float32, [mean, variance], list(given), 0, 1)
    assert scale.tolist() == [[1.0, 1.0, 1.0]]
    mean[0, 1] = float("nan")
    assert factors(kernels, torch.float32, [mean, variance], list(given), 0, 1)[1].isnan().all()


@EACH_TYPE
@EACH_LAYOUT
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_channel_pool(kernels: Kernels, dtype: torch.dtype, last: bool, shape: Shape) -> None:
    kernels.last = last
    whole, other = case(dtype, shape, whole=True), case(dtype, shape)
    for it in (whole, other, variants(other)[2], variants(whole)[3]):
        found, y = kernels.channel_pool(it), affine(it.double())
        close(found[:, :1], y.mean(1, keepdim=True), wide(dtype))
        close(found[:, 1:], y.amax(1, keepdim=True), wide(dtype), 2)
    assert torch.equal(kernels.channel_pool(whole)[:, 1:], affine(whole).amax(1, keepdim=True))


@EACH_TYPE
@EACH_LAYOUT
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gated_affine(kernels: Kernels, dtype: torch.dtype, last: bool, shape: Shape) -> None:
    kernels.last = last
    for it in variants(case(dtype, shape)):
        out, gate = kernels.gated_affine(it)
        exact = it.double()
        expected = torch.ones_like(gate).double()
        if it.pooled is not None:
            assert exact.pooled is not None and exact.weight is not None
            expected = F.conv2d(exact.pooled, exact.weight[None], padding=3).sigmoid()
            close(gate, expected, wide(dtype))
        y = affine(exact) * expected
        close(out, exact.x + y if it.residual else y, dtype)


@pytest.mark.parametrize("k", [1, 3, 5, 9, 31, 91, 161])
@EACH_LAYOUT
def test_every_size_of_filter(kernels: Kernels, last: bool, k: int) -> None:
    """161 is read from where the maps lie."""
    kernels.last = last
    it = case(torch.float32, (1, 4, 19, 33), k)
    assert it.pooled is not None and it.weight is not None
    expected = F.conv2d(it.pooled.double(), it.weight.double()[None], padding=k // 2).sigmoid()
    close(kernels.gated_affine(it)[1], expected, torch.float32)


@EACH_TYPE
@EACH_LAYOUT
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_backward(kernels: Kernels, dtype: torch.dtype, last: bool, shape: Shape) -> None:
    kernels.last = last
    for number, it in enumerate(variants(case(dtype, shape, whole=True))):
        exact, dy = it.double(), gradient(it.double())
        sums = torch.stack([dy, dy * offset_of(exact)])
        bound = sums.abs().sum((3, 4)) * 4 * torch.finfo(wide(dtype)).eps + 1e-300
        assert ((kernels.affine_sums(it) - sums.sum((3, 4))).abs() <= bound).all()
        expected = dy if exact.scale is None else dy * exact.scale[..., None, None]
        if exact.constant is not None and exact.slope is not None:
            expected = expected + exact.constant[..., None, None] + exact.slope[..., None, None] * offset_of(exact)
        close(kernels.affine_gradient(it), expected + exact.grad if it.residual else expected, dtype)
        if number in (0, 3):
            assert exact.gate is not None and it.share is not None
            logit, share = kernels.gate_gradient(it)
            products = exact.gate * (1 - exact.gate) * exact.grad * affine(exact)
            close(logit, products.sum(1, keepdim=True), wide(dtype))
            assert torch.equal(share, it.share)


@EACH_TYPE
@EACH_LAYOUT
def test_the_maximum_is_found_again(kernels: Kernels, dtype: torch.dtype, last: bool) -> None:
    """y of every pass has the bits of channel_pool's, whatever is rounded on the way."""
    kernels.last = last
    for shape in ((1, 16, 8, 40), (1, 7, 9, 11)):
        it = case(dtype, shape)
        pooled = kernels.channel_pool(it)
        it = replace(it, pooled=pooled, grad_pooled=torch.zeros_like(pooled), gate=torch.zeros_like(pooled[:, :1]))
        share = kernels.gate_gradient(it)[1]
        assert torch.equal(share, torch.ones_like(share))
        assert it.grad_pooled is not None
        it.grad_pooled[:, 1] = 1
        it = replace(it, share=share, constant=None, slope=None, residual=False)
        assert kernels.affine_sums(it)[0].sum() == shape[2] * shape[3]
        scale = None if it.scale is None else it.scale.abs() + 0.25  # nowhere 0
        it = replace(it, scale=scale)
        it = replace(it, pooled=kernels.channel_pool(it))
        assert torch.equal((kernels.affine_gradient(it) != 0).sum(1), torch.ones(1, *shape[2:], dtype=torch.int64))


@EACH_LAYOUT
def test_what_is_not_finite_stays_where_it_belongs(kernels: Kernels, last: bool) -> None:
    kernels.last = last
    it = case(torch.float32, (1, 12, 20, 24))
    plain = variants(it)[3]
    bad = plain.x.clone()
    bad[0, 3, 5, 7], bad[0, 9, 11, 1], bad[0, 0, 0, 0] = float("nan"), float("inf"), -float("inf")
    pooled = kernels.channel_pool(replace(plain, x=bad))
    assert pooled[0, :, 5, 7].isnan().all() and pooled[0, :, 11, 1].tolist() == [float("inf")] * 2
    assert (
        pooled[0, 0, 0, 0] == -float("inf") and pooled[0, 1, 0, 0].isfinite() and pooled.isfinite().sum() == 2 * 480 - 5
    )
    for value in (float("nan"), float("inf")):
        field = torch.zeros(20, 24, dtype=torch.bool)
        field[7:14, 0:6] = True
        maps = plain.pooled
        assert maps is not None
        maps = maps.clone()
        maps[0, 0, 10, 2] = value
        gate = kernels.gated_affine(replace(plain, pooled=maps))[1]
        expected = F.conv2d(maps, it.weight[None], padding=3).sigmoid() if it.weight is not None else gate
        assert torch.equal(gate.isnan(), expected.isnan())
        close(gate.nan_to_num(), expected.nan_to_num().double(), torch.float32)
        assert value == float("inf") or torch.equal(gate[0, 0].isnan(), field)


@EACH_LAYOUT
def test_without_a_slope_an_infinite_number_makes_no_nan(kernels: Kernels, last: bool) -> None:
    kernels.last = last
    it = variants(case(torch.float32, (1, 12, 20, 24)))[0]
    it = replace(it, gate=None, pooled=None, grad_pooled=None, share=None, slope=None)
    it.x[0, 3, 5, 7], it.x[0, 9, 11, 1] = float("inf"), -float("inf")
    assert kernels.affine_gradient(it).isfinite().all()


def every_pass(kernels: Kernels, it: Case) -> list[Tensor]:
    return [
        *kernels.moments(it.x),
        kernels.channel_pool(it),
        *kernels.gated_affine(it),
        *kernels.gate_gradient(it),
        kernels.affine_sums(it),
        kernels.affine_gradient(it),
    ]


@EACH_TYPE
@EACH_LAYOUT
def test_the_order_of_threads_and_blocks_changes_no_bit(kernels: Kernels, dtype: torch.dtype, last: bool) -> None:
    kernels.last = last
    it = case(dtype, (2, 16, 17, 72))
    found = []
    for kernels.seed in range(3):
        found.append(every_pass(kernels, it))
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@EACH_TYPE
@EACH_LAYOUT
def test_tensors_may_begin_anywhere(kernels: Kernels, dtype: torch.dtype, last: bool) -> None:
    kernels.last = last
    it = case(dtype, (1, 8, 4, 24), whole=True)
    expected = every_pass(kernels, it)
    for kernels.offset in (1, 3):
        for found, true in zip(every_pass(kernels, it), expected, strict=True):
            close(found, true.double(), dtype)


PASSES = ("moments", "channel_pool", "gated_affine", "gate_gradient", "affine_sums", "affine_gradient")


def launches(kernels: Kernels, name: str, dtype: torch.dtype, last: bool, shape: Shape, k: int = 7) -> list[Launch]:
    any_ = Result(shape, dtype)
    backward = [any_] * 8
    arguments: dict[str, list[Argument]] = {
        "moments": [any_] * 3,
        "channel_pool": [any_] * 5,
        "gated_affine": [*([any_] * 6), k, any_, 1, any_],
        "gate_gradient": [*backward, any_, any_],
        "affine_sums": [*backward, any_, any_],
        "affine_gradient": [*backward, any_, 1, any_, any_, any_],
    }
    found = kernels.harness.plan(name, TYPES.index(dtype), last, *shape, *arguments[name])
    for launch in found:
        assert 1 <= launch.blocks < 2**31
        assert launch.threads % 32 == 0 and launch.threads <= 256
        assert launch.shared <= 99 * 1024
    return found


@EACH_TYPE
@EACH_LAYOUT
@pytest.mark.parametrize("name", PASSES)
def test_one_picture_fills_a_device(kernels: Kernels, name: str, dtype: torch.dtype, last: bool) -> None:
    """Whatever reads the picture; what adds up the parts of planes is one block a plane."""
    for shape in ((1, 64, 180, 320), (16, 64, 64, 64), (1, 48, 360, 640), (1, 64, 179, 321)):
        first, *second = launches(kernels, name, dtype, last, shape)
        assert first.blocks >= 220
        assert [launch.blocks for launch in second] == [shape[0] * shape[1]] * (name in ("moments", "affine_sums"))


def test_every_size_has_a_plan(kernels: Kernels) -> None:
    draw = random.Random(1)
    lengths = (1, 2, 7, 8, 31, 48, 64, 65, 180, 640, 4096, 100_003)
    for _ in range(200):
        shape = (draw.choice(lengths), draw.choice(lengths), draw.choice(lengths), draw.choice(lengths))
        name, dtype, last = draw.choice(PASSES), draw.choice(TYPES), draw.random() < 0.5
        if shape[0] * shape[1] * shape[2] * shape[3] < 2**36:
            launches(kernels, name, dtype, last, shape, draw.choice((1, 3, 7, 31, 63)))
