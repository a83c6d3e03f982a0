"""instance_norm_attention against modules of torch.nn, by the identities a fused kernel needs, and in extremes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lightsr_kernels.dispatch import call, why_not
from lightsr_kernels.instance_norm_attention import instance_norm_attention
from lightsr_kernels.spec import SPECS, Make

NAMES = ("norm_weight", "norm_bias", "down_weight", "down_bias", "up_weight", "up_bias", "spatial_weight")


def weights_of(make: Make, c: int, r: int, k: int) -> dict[str, Tensor]:
    shapes = ((c,), (c,), (r, c, 1, 1), (r,), (c, r, 1, 1), (c,), (1, 2, k, k))
    weights = {name: make(*shape) for name, shape in zip(NAMES, shapes, strict=True)}
    return weights | {"down_bias": weights["down_bias"] + 2}  # hidden units above relu's 0, most of them


class Unit(nn.Module):
    """The same unit as a user would write it."""

    def __init__(self, c: int, r: int, k: int, eps: float, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(c, eps=eps, affine=True, dtype=torch.float64)
        self.squeeze = nn.Sequential(nn.Linear(c, r), nn.ReLU(), nn.Linear(r, c), nn.Sigmoid()).double()
        self.spatial = nn.Conv2d(2, 1, k, padding=k // 2, bias=False, dtype=torch.float64)
        values = (
            *(weights[name] for name in ("norm_weight", "norm_bias")),
            *(weights[name].flatten(1) if "weight" in name else weights[name] for name in NAMES[2:6]),
            weights["spatial_weight"],
        )
        with torch.no_grad():
            for parameter, value in zip(self.parameters(), values, strict=True):
                parameter.copy_(value)

    def forward(self, x: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(x.flatten(2), dim=2, correction=0)
        # Where a plane is a single pixel torch's instance norm refuses, so it is normalised by hand.
        normal = self.norm(x) if x.shape[2] * x.shape[3] > 1 else self.norm.bias[:, None, None].expand_as(x)
        y = self.squeeze(mean + deviation)[:, :, None, None] * normal
        maps = torch.stack([y.sum(1) / y.shape[1], y.max(1).values], 1)
        return x + y * self.spatial(maps).sigmoid()


@pytest.mark.parametrize(
    ("shape", "r", "k", "eps"),
    [
        ((2, 6, 9, 7), 2, 7, 1e-5),
        ((1, 5, 1, 11), 1, 3, 1e-5),
        ((3, 1, 4, 5), 2, 5, 1e-2),
        ((1, 8, 3, 2), 3, 9, 1e-5),
        ((2, 4, 1, 1), 2, 7, 1e-5),
    ],
    ids=str,
)
def test_equals_modules(shape: tuple[int, ...], r: int, k: int, eps: float) -> None:
    make = Make(torch.float64)
    x, weights = make(*shape, offset=0.5), weights_of(make, shape[1], r, k)
    expected = Unit(shape[1], r, k, eps, weights)(x)
    torch.testing.assert_close(instance_norm_attention(x, **weights, eps=eps), expected, rtol=1e-12, atol=1e-12)


def test_is_a_scale_and_shift_and_two_passes_over_the_maps() -> None:
    """Given the sums of each plane and of its squares, y is a_c x + b_c: x is read for the map, then for the result."""
    make = Make(torch.float64)
    x, w = make(2, 6, 13, 11), weights_of(make, 6, 3, 7)
    pixels = x.shape[2] * x.shape[3]
    mean = x.sum((2, 3)) / pixels
    variance = (x * x).sum((2, 3)) / pixels - mean**2

    hidden = ((mean + variance.sqrt()) @ w["down_weight"][:, :, 0, 0].T + w["down_bias"]).clamp(min=0)
    gate = 1 / (1 + torch.exp(-(hidden @ w["up_weight"][:, :, 0, 0].T + w["up_bias"])))
    a = gate * w["norm_weight"] / (variance + 1e-5).sqrt()
    b = gate * w["norm_bias"] - a * mean

    maps = torch.zeros(2, 2, 13 + 6, 11 + 6, dtype=torch.float64)
    for row in range(13):  # pass A writes two channels
        for column in range(11):
            y = a * x[:, :, row, column] + b
            maps[:, :, row + 3, column + 3] = torch.stack([y.mean(1), y.amax(1)], 1)
    out = torch.empty_like(x)
    for row in range(13):  # pass B reads x again, and the maps around the pixel
        for column in range(11):
            around = maps[:, :, row : row + 7, column : column + 7]
            spatial = 1 / (1 + torch.exp(-(around * w["spatial_weight"]).sum((1, 2, 3))))
            pixel = x[:, :, row, column]
            out[:, :, row, column] = pixel + (a * pixel + b) * spatial[:, None]
    torch.testing.assert_close(instance_norm_attention(x, **w), out, rtol=1e-12, atol=1e-12)


def test_channel_gate_reads_the_picture_before_the_norm() -> None:
    """Pooled after an instance norm every picture gives one gate; the op tells x from 3x + 5, which the norm cannot."""
    make = Make(torch.float64)
    x, w = make(1, 4, 12, 10), weights_of(make, 4, 2, 7)
    other = 3 * x + 5
    norm = nn.InstanceNorm2d(4, eps=1e-14, affine=True, dtype=torch.float64)
    with torch.no_grad():
        norm.weight.copy_(w["norm_weight"])
        norm.bias.copy_(w["norm_bias"])
    pooled = norm(torch.cat([x, other, x.exp()])).mean((2, 3))
    torch.testing.assert_close(pooled, w["norm_bias"].expand(3, 4), rtol=0, atol=1e-12)
    torch.testing.assert_close(norm(x), norm(other), rtol=0, atol=1e-12)

    added = instance_norm_attention(x, **w, eps=1e-14) - x
    added_to_other = instance_norm_attention(other, **w, eps=1e-14) - other
    assert (added - added_to_other).abs().max() > 0.05


def gentle(w: dict[str, Tensor], largest: float) -> dict[str, Tensor]:
    """Weights whose channel gate stays away from 0 and 1 for statistics this large, so that y is not lost."""
    return w | {"down_weight": w["down_weight"] / largest, "norm_weight": torch.ones_like(w["norm_weight"])}


def test_large_mean_keeps_the_deviation() -> None:
    """Mean 1e4, deviation 1: E[x^2] - E[x]^2 in float32 would be off by several, the result here by one unit of x."""
    make = Make(torch.float32, seed=1)
    x = make(2, 3, 40, 50, offset=1e4)
    w = gentle(weights_of(make, 3, 2, 7), 1e4)
    naive = (x * x).mean((2, 3)) - x.mean((2, 3)) ** 2
    assert (naive - 1).abs().max() > 0.5

    expected = instance_norm_attention(x.double(), **{name: value.double() for name, value in w.items()})
    unit = 2.0 ** (math.floor(math.log2(1e4)) - 23)
    assert (instance_norm_attention(x, **w).double() - expected).abs().max() < unit


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bit_statistics_are_taken_in_float32(dtype: torch.dtype) -> None:
    """Sums and squares of these planes are beyond float16; y is as large as x; one rounding of the result remains."""
    make = Make(dtype, seed=2)
    x = make(1, 3, 64, 64, scale=400.0, offset=300.0)
    w = gentle(weights_of(make, 3, 2, 7), 300.0)
    w["norm_weight"] *= 1000
    out = instance_norm_attention(x, **w)
    expected = instance_norm_attention(x.double(), **{name: value.double() for name, value in w.items()})
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, rtol=0.51 * torch.finfo(dtype).eps, atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 2**-8)], ids=str
)
@pytest.mark.parametrize("shape", [(2, 3, 6, 5), (2, 3, 1, 1)], ids=str)
def test_constant_planes(shape: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    """Variance 0: the norm gives its bias, and every gradient is finite."""
    make = Make(dtype)
    w = {name: value.requires_grad_() for name, value in weights_of(make, 3, 2, 7).items()}
    x = torch.full(shape, 0.75, dtype=dtype, requires_grad=True)
    out = instance_norm_attention(x, **w)
    out.float().square().sum().backward()
    for tensor in (x, *w.values()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()

    hidden = (0.75 * w["down_weight"].double().sum((1, 2, 3)) + w["down_bias"]).clamp(min=0)
    gate = (w["up_weight"].double()[:, :, 0, 0] @ hidden + w["up_bias"]).sigmoid()
    y = (gate * w["norm_bias"])[None, :, None, None].expand(shape)
    maps = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)
    spatial = torch.conv2d(maps, w["spatial_weight"].double(), padding=3).sigmoid()
    torch.testing.assert_close(out.double(), x + y * spatial, rtol=tolerance, atol=tolerance)


def test_gradient_of_the_deviation_of_a_constant_plane_is_zero() -> None:
    """With the norm's factor 0, x counts as itself and in the channel gate, where m alone of m + s has a gradient."""
    make = Make(torch.float64)
    w = weights_of(make, 2, 2, 1) | {"norm_weight": torch.zeros(2, dtype=torch.float64)}
    x = torch.full((1, 2, 3, 4), 0.5, dtype=torch.float64, requires_grad=True)
    (through_op,) = torch.autograd.grad(instance_norm_attention(x, **w).sum(), x)

    mean = x.mean((2, 3))
    hidden = (mean @ w["down_weight"][:, :, 0, 0].T + w["down_bias"]).clamp(min=0)
    y = (hidden @ w["up_weight"][:, :, 0, 0].T + w["up_bias"]).sigmoid() * w["norm_bias"]
    first, second = w["spatial_weight"].flatten()
    expected = x + (y * (first * y.mean(1) + second * y.amax(1)).sigmoid())[:, :, None, None]
    torch.testing.assert_close(through_op, torch.autograd.grad(expected.sum(), x)[0], rtol=1e-12, atol=1e-12)


def test_gradient_stays_finite_next_to_constant() -> None:
    """A deviation of 1e-20, whose square float32 still holds as a denormal or loses."""
    make = Make(torch.float32)
    w = weights_of(make, 3, 2, 3)
    for size in (1e-18, 1e-20, 1e-22, 1e-30):
        x = make(1, 3, 4, 4, scale=size).requires_grad_()
        instance_norm_attention(x, **w).sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all(), size


# Of a few channels and of one; planes and pictures that fit a cache and such that do not; one pixel.
SHAPES = ((2, 3, 9, 7), (1, 1, 40, 50), (5, 2, 1, 2), (1, 2, 300, 310), (6, 4, 70, 80), (3, 2, 1, 1))
OPTIONS = {
    "instance_norm": [("norm_weight", "norm_bias"), 1e-5],
    "channel_attention": [("down_weight", "down_bias", "up_weight", "up_bias"), "mean+std"],
    "channel_attention by the mean": [("down_weight", "down_bias", "up_weight", "up_bias"), "mean"],
    "channel_attention without biases": [("down_weight", None, "up_weight", None), "mean+std"],
    "instance_norm_attention": [NAMES, 1e-5],
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", OPTIONS)
def test_gradients_in_one_call_are_those_of_the_passes(
    kind: str, shape: tuple[int, ...], layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = pytest.importorskip("lightsr_kernels.instance_norm_attention.native")
    spec, (names, option) = SPECS[kind.partition(" ")[0]], OPTIONS[kind]
    make = Make(torch.float64)
    weights = weights_of(make, shape[1], 3, 3)
    x, grad = make(*shape, offset=3.0).contiguous(memory_format=layout), make(*shape)
    tensors, calls = {"x": x} | {name: weights[name] for name in names if name}, []

    def gradients(wanted: list[str]) -> tuple[Tensor, ...]:
        inputs = {name: each.detach().requires_grad_(name in wanted) for name, each in tensors.items()}
        out = call(spec, *(inputs.get(name) for name in ("x", *names)), option)
        return torch.autograd.grad(out, [inputs[name] for name in wanted], grad)

    whole = native.backward_together
    for wanted in (list(tensors), ["x"], *([name] for name in tensors if name not in ("x", "spatial_weight"))):
        with monkeypatch.context() as patch:
            patch.setattr(native, "backward_together", lambda *args: calls.append(args) or whole(*args))
            together = gradients(wanted)
        with monkeypatch.context() as patch:
            patch.setattr(native, "backward_together", lambda *_: None)
            apart = gradients(wanted)
        for got, expected in zip(together, apart, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11 * float(expected.abs().max() + 1))
    if why_not("cpu", spec, "cpu") is None:
        assert calls
