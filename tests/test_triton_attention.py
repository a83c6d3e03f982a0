"""instance_norm_attention, and the ops on its passes, on Triton against the reference; every tile there is."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

import lightsr_kernels
from lightsr_kernels.spec import SPECS, Make, Sample

pytest.importorskip("triton")
from triton import knobs

from lightsr_kernels import triton_common
from lightsr_kernels.instance_norm_attention import triton
from lightsr_kernels.instance_norm_attention.triton_configs import (
    MOMENT_CONFIGS,
    PIXEL_CONFIGS,
    SUM_CONFIGS,
    VALUE_CONFIGS,
    Config,
    choose,
    eligible,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and not knobs.runtime.interpret:
    pytest.skip("no GPU, and TRITON_INTERPRET is not 1", allow_module_level=True)

NAMES = ("instance_norm_attention", "instance_norm", "channel_attention", "spatial_attention")
EACH_OP = pytest.mark.parametrize("name", NAMES)
EACH_LAYOUT = pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"]
)
EACH_DTYPE = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=lambda each: str(each)[6:]
)


def calls(name: str, make: Make, layout: torch.memory_format = torch.contiguous_format) -> list[Sample]:
    """The samples of an op; filters larger than 3x3 take the interpreter seconds and are made smaller."""
    given = [each for each in SPECS[name].samples(make) if each.name != "filter-larger-than-x"]
    samples = [Sample(each.name, tuple(map(smaller, each.args))) for each in given]
    return [Sample(each.name, (each.args[0].contiguous(memory_format=layout), *each.args[1:])) for each in samples]


def smaller(value: Any) -> Any:
    large = isinstance(value, Tensor) and value.shape[:2] == (1, 2) and value.shape[-1] > 3
    return value.detach()[..., :3, :3].requires_grad_(value.requires_grad) if large else value


def backend(name: str) -> Any:
    return import_module(f"lightsr_kernels.{name}.triton")


def exactly(name: str, args: tuple[Any, ...], grad: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The result and the gradients of the reference in float64."""
    args = tuple(each.detach().double().requires_grad_() if isinstance(each, Tensor) else each for each in args)
    out = SPECS[name].reference(*args)
    return out.detach(), list(torch.autograd.grad(out, [a for a in args if isinstance(a, Tensor)], grad.double()))


@EACH_OP
@EACH_DTYPE
@EACH_LAYOUT
def test_forward_and_backward(name: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    for sample in calls(name, Make(dtype, DEVICE), layout):
        x = sample.args[0]
        if x.numel() == 0:
            continue
        grad = torch.randn_like(x)
        # Where a plane has one value, numbers of 1 / sqrt(eps) cancel.
        cancelled = 100 if sample.name == "1x1-picture" else 1
        wanted, by_argument = exactly(name, sample.args, grad)
        plain = SPECS[name].reference(*sample.args)
        got, kept = backend(name).forward_keeping(*sample.args)
        assert got.dtype == dtype
        assert got.stride() == x.stride()
        allowed = 1.25 * (plain.double() - wanted).norm()
        if dtype in (torch.float32, torch.float64):  # where eager may be right to the last bit by luck
            allowed = 0.1 * tolerance * wanted.norm()
        assert (got.double() - wanted).norm() <= allowed, sample.name
        for each in (kept, None) if sample.name in ("one-channel-k1", "contrast", "plain") else (kept,):
            found = backend(name).backward([grad], [True] * len(by_argument), *sample.args, kept=each)
            for one, other in zip(found, by_argument, strict=True):
                assert one.dtype == dtype
                assert (one.double() - other).norm() <= tolerance * (other.norm() + cancelled * grad.norm()), (
                    sample.name
                )


@EACH_OP
def test_the_operator_takes_it_by_name(name: str) -> None:
    sample = calls(name, Make(torch.float64, DEVICE, requires_grad=True), torch.channels_last)[0]
    inputs = [each for each in sample.args if isinstance(each, Tensor)]
    results = []
    for backend_name in ("triton", "reference"):
        with lightsr_kernels.backend(backend_name):
            out = SPECS[name].op(*sample.args)
            results.append([out.detach(), *torch.autograd.grad(out.square().sum(), inputs)])
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@EACH_OP
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_pixel_that_is_no_number_spreads_as_in_the_reference(name: str, value: float) -> None:
    for sample in calls(name, Make(device=DEVICE)):
        x = sample.args[0]
        if x.numel():
            for place in ((0, 0), (x.shape[2] // 2, x.shape[3] // 2)):
                args = (x.clone(), *sample.args[1:])
                args[0][-1, 0, place[0], place[1]] = value
                got, wanted = backend(name).forward(*args), SPECS[name].reference(*args)
                torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5, equal_nan=True)


@EACH_OP
def test_no_pictures(name: str) -> None:
    empty = [each for each in calls(name, Make(device=DEVICE)) if each.args[0].numel() == 0]
    assert empty
    for sample in empty:
        assert backend(name).forward(*sample.args).shape == sample.args[0].shape


@EACH_LAYOUT
def test_wide_offsets_and_several_launches(layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Make(device=DEVICE)
    x, grad = (make(2, 5, 7, 9).contiguous(memory_format=layout) for _ in range(2))
    weights = make(5), make(5), make(2, 5, 1, 1), make(2), make(5, 2, 1, 1), make(5), make(1, 2, 3, 3)

    def run() -> list[Tensor]:
        return [triton.forward(x, *weights, 1e-5), *triton.backward([grad], [True] * 8, x, *weights, 1e-5)]

    narrow = run()
    monkeypatch.setattr(triton_common, "NARROW", 0)
    monkeypatch.setattr(triton, "MOST_PROGRAMS", 2)
    assert all(torch.equal(one, other) for one, other in zip(run(), narrow, strict=True))


def test_offsets_are_wide_from_where_narrow_ones_would_overflow() -> None:
    large = torch.empty(17, 64, 1080, 1920, device="meta")
    assert triton._wide(large)
    assert not triton._wide(large[:15])
    thin = torch.empty(1, 1, 1, 2**30 + 2**29, device="meta")  # its two maps have twice as many numbers
    assert triton._wide(thin)
    assert triton._wide(thin[..., : 2**28], reach=31 * 2**28)


@EACH_LAYOUT
def test_twenty_runs_give_the_same_bits(layout: torch.memory_format) -> None:
    make = Make(device=DEVICE)
    x, grad = (make(1, 3, 5, 30).contiguous(memory_format=layout) for _ in range(2))
    affine = (make(1, 3), make(1, 3), make(1, 3))
    runs = [[*triton.moments(x), triton.affine_sums(grad, x, affine, None, None, None, None)] for _ in range(20)]
    assert all(torch.equal(one, other) for run in runs for one, other in zip(run, runs[0], strict=True))


def of_layout(configs: tuple[Config, ...]) -> Callable[..., Any]:
    names = [f"{'channels-last' if c.channels_last else 'contiguous'}-{c.channels}x{c.pixels}" for c in configs]
    return pytest.mark.parametrize("config", configs, ids=names)


def pictures(config: Config, count: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Pictures of two kinds of tile a side, the last ones partly beyond the edge."""
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    make, width = Make(dtype, DEVICE), config.pixels // 4 + 1
    return [make(2, config.channels + 1, 5, width).contiguous(memory_format=layout) for _ in range(count)]


def maps_of(x: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor, Tensor]:
    """An affine, y, its pooled maps, and a gate."""
    make = Make(x.dtype, DEVICE, seed=1)
    affine = make(*x.shape[:2]), make(*x.shape[:2]), make(*x.shape[:2])
    centre, scale, shift = (each[:, :, None, None] for each in affine)
    y = torch.addcmul(shift, scale, x - centre).contiguous()
    pooled = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)
    return affine, y, pooled, make(x.shape[0], 1, *x.shape[2:]).sigmoid()


@of_layout(MOMENT_CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_every_tile_takes_moments(config: Config, dtype: torch.dtype) -> None:
    (x,) = pictures(config, 1, dtype)
    x += 1e4  # of which E[x^2] - E[x]^2 in float32 would leave nothing
    mean, variance = triton.moments(x, config)
    wanted, planes = x.double().mean((2, 3)), x.double().flatten(2)
    tolerance = 1e-11 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(mean, wanted, rtol=1e-15 if dtype == torch.float64 else 1e-10, atol=0)
    torch.testing.assert_close(variance, planes.var(2, correction=0), rtol=tolerance, atol=0)


@of_layout(MOMENT_CONFIGS)
def test_every_tile_finds_constant_planes(config: Config) -> None:
    (x,) = pictures(config, 1, torch.float32)
    x[:] = torch.randn_like(x[:, :, :1, :1])
    mean, variance = triton.moments(x, config)
    assert torch.equal(mean, x[:, :, 0, 0].double())
    assert not variance.any()


@of_layout(SUM_CONFIGS)
def test_every_tile_sums_gradients(config: Config) -> None:
    x, grad = pictures(config, 2)
    affine, y, pooled, gate = maps_of(x)
    grad_pooled, share = torch.randn_like(pooled), torch.rand_like(gate)
    for maps in ((gate, pooled, grad_pooled, share), (None,) * 4):
        dy = grad
        if maps[0] is not None:
            dy = grad * gate + grad_pooled[:, :1] / x.shape[1] + (y == pooled[:, 1:]) * grad_pooled[:, 1:] * share
        centred = x - affine[0][:, :, None, None]
        wanted = torch.stack([dy.sum((2, 3)), (dy * centred).sum((2, 3))])
        got = triton.affine_sums(grad, x, affine, *maps, config=config)
        torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-11)


@of_layout(PIXEL_CONFIGS)
def test_every_tile_pools_channels(config: Config) -> None:
    x, grad = pictures(config, 2)
    x[:, 1, 0] = x[:, 0, 0] = 7  # a maximum that two channels share
    for affine in (maps_of(x)[0], (None, None, None)):
        y = maps_of(x)[1] if affine[0] is not None else x
        got = triton.channel_pool(x, affine, config)
        assert got.is_contiguous()
        assert torch.equal(got[:, 1], y.amax(1))
        torch.testing.assert_close(got[:, 0], y.mean(1), rtol=1e-12, atol=1e-12)
        gate = maps_of(x)[3]
        grad_logit, share = triton.gate_gradient(grad, x, affine, gate, got, config)
        wanted = gate * (1 - gate) * (grad * y).sum(1, keepdim=True)
        torch.testing.assert_close(grad_logit, wanted, rtol=1e-11, atol=1e-11)
        assert torch.equal(share, 1 / (y == y.amax(1, keepdim=True)).sum(1, keepdim=True).double())
    assert (share[:, :, 0] == 0.5).all()


@of_layout(VALUE_CONFIGS)
def test_every_tile_writes_values(config: Config) -> None:
    x, grad = pictures(config, 2)
    affine, y, pooled, _ = maps_of(x)
    weight = Make(torch.float64, DEVICE)(1, 2, 3, 3)
    got, gate = triton.gated_affine(x, affine, pooled, weight, True, config)
    assert gate is not None
    torch.testing.assert_close(gate, torch.conv2d(pooled, weight, padding=1).sigmoid(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got, x + y * gate, rtol=1e-12, atol=1e-12)
    assert got.stride() == x.stride()
    scaled, nothing = triton.gated_affine(x, (None, affine[1], None), None, None, False, config)
    assert nothing is None
    assert torch.equal(scaled, x * affine[1][:, :, None, None])

    grad_pooled, share, constant, slope = torch.randn_like(pooled), gate + 1, affine[2], affine[0] + 1
    dy = grad * gate + grad_pooled[:, :1] / x.shape[1] + (y == pooled[:, 1:]) * grad_pooled[:, 1:] * share
    centre, scale, constants, slopes = (each[:, :, None, None] for each in (*affine[:2], constant, slope))
    wanted = dy * scale + constants + slopes * (x - centre)
    given = grad, x, affine, gate, pooled, grad_pooled, share
    torch.testing.assert_close(triton.affine_gradient(*given, False, constant, slope, config), wanted)
    torch.testing.assert_close(triton.affine_gradient(*given, True, constant, slope, config), wanted + grad)
    plain = triton.affine_gradient(grad, x, (None, affine[1], None), None, None, None, None, False, None, None, config)
    assert torch.equal(plain, grad * scale)


@pytest.mark.parametrize("channels", [1, 63, 130])
@pytest.mark.parametrize("hidden", [1, 17])
def test_factors_of_many_channels(channels: int, hidden: int) -> None:
    make = Make(torch.float64, DEVICE)
    mean, variance = make(2, channels, offset=1e4), make(2, channels).square()
    down, up = make(hidden, channels, 1, 1, scale=1e-5), make(channels, hidden, 1, 1)
    given = make(channels), make(channels), down, make(hidden), up, make(channels)
    logit = (mean + variance.sqrt()) @ down[:, :, 0, 0].T + given[3]
    gate = (logit.relu() @ up[:, :, 0, 0].T + given[5]).sigmoid()
    rate = (variance + 1e-5).rsqrt()
    centre, scale, shift = triton.factors(mean, variance, *given, 1e-5, "mean+std", True, torch.float32)
    assert torch.equal(centre, mean.float())
    torch.testing.assert_close(scale, (gate * given[0] * rate).float())
    wanted = gate * given[1] - gate * given[0] * rate * (mean - mean.float())
    torch.testing.assert_close(shift, wanted.float(), rtol=1e-5, atol=1e-6)
    bare = triton.factors(mean, variance, None, None, down, None, up, None, 1.0, "mean", False, torch.float64)
    alone = ((mean @ down[:, :, 0, 0].T).relu() @ up[:, :, 0, 0].T).sigmoid()
    torch.testing.assert_close(bare[1], alone, rtol=1e-12, atol=1e-12)
    assert not bare[0].any() and not bare[2].any()


def test_there_is_a_tile_for_every_call() -> None:
    for configs in (MOMENT_CONFIGS, SUM_CONFIGS, PIXEL_CONFIGS, VALUE_CONFIGS):
        for dtype in (torch.float64, torch.bfloat16):
            for shape in ((1, 1, 1, 1), (1, 64, 180, 320), (16, 3, 9, 7), (1, 700, 2, 2)):
                for layout in (torch.contiguous_format, torch.channels_last):
                    x = torch.empty(shape, dtype=dtype, device="meta").contiguous(memory_format=layout)
                    config = choose(configs, x)
                    assert config in eligible(configs, x)
                    assert config.channels_last == (not x.is_contiguous())
