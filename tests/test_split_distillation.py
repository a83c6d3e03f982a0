"""split_distillation against modules and loops written here, and the identities its kernels will rely on."""

from __future__ import annotations

import importlib
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lightsr_kernels
from lightsr_kernels import dense_conv, distillation_fusion, split_distillation
from lightsr_kernels.spec import SPECS

SIZES = pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 12)], ids=str)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@SIZES
def test_equals_a_step_of_imdn(size: tuple[int, int]) -> None:
    conv, distil, act = nn.Conv2d(12, 12, 3, padding=1).double(), nn.Conv2d(3, 3, 1).double(), nn.LeakyReLU(0.05)
    x = random(2, 12, *size)
    first, rest = torch.split(act(conv(x) + x), (3, 9), dim=1)
    raw = F.conv2d(x, conv.weight, padding=1)
    got = split_distillation(raw, 3, bias=conv.bias, residual=x, weight=distil.weight, weight_bias=distil.bias)
    close(got[0], act(distil(first)))
    close(got[1], rest)
    ends = {"bias": conv.bias, "residual": x, "weight": distil.weight, "weight_bias": distil.bias}
    for one, other in zip(split_distillation(x, 3, **ends, convolution=conv.weight), got, strict=True):
        close(one, other)


@SIZES
def test_equals_a_step_of_rfdn(size: tuple[int, int]) -> None:
    conv, distil, act = nn.Conv2d(8, 8, 3, padding=1).double(), nn.Conv2d(8, 4, 1).double(), nn.LeakyReLU(0.05)
    x = random(2, 8, *size)
    h = act(conv(x) + x)
    got = split_distillation(conv(x), residual=x, weight=distil.weight, weight_bias=distil.bias)
    close(got[0], act(distil(h)))
    close(got[1], h)


ACTIVATIONS = {
    "none": lambda v: v,
    "relu": lambda v: max(v, 0.0),
    "leaky_relu": lambda v: v if v > 0 else 0.2 * v,
    "gelu": lambda v: 0.5 * v * (1 + math.erf(v / math.sqrt(2))),
    "silu": lambda v: v / (1 + math.exp(-v)),
    "sigmoid": lambda v: 1 / (1 + math.exp(-v)),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("split", [None, 2])
def test_equals_loops(activation: str, split: int | None) -> None:
    x, bias, residual = random(1, 3, 2, 3), random(3), random(1, 3, 2, 3)
    c = split or 3
    weight, weight_bias, gate, gate_bias = random(2, c, 1, 1), random(2), random(2, 2, 1, 1), random(2)
    act, logistic = ACTIVATIONS[activation], ACTIVATIONS["sigmoid"]
    distilled, remaining = split_distillation(
        x,
        split,
        bias=bias,
        residual=residual,
        activation=activation,
        negative_slope=0.2,
        weight=weight,
        weight_bias=weight_bias,
        distilled_activation=activation,
        gate_weight=gate,
        gate_bias=gate_bias,
    )
    for row in range(2):
        for column in range(3):
            h = [act((x + residual)[0, k, row, column].item() + bias[k].item()) for k in range(3)]
            z = [act(sum(weight[d, k, 0, 0].item() * h[k] for k in range(c)) + weight_bias[d].item()) for d in (0, 1)]
            sums = [sum(gate[d, k, 0, 0].item() * z[k] for k in (0, 1)) + gate_bias[d].item() for d in (0, 1)]
            wanted = [z[d] * logistic(sums[d]) for d in (0, 1)]
            close(distilled[0, :, row, column], torch.tensor(wanted, dtype=torch.float64))
            rest = h if split is None else h[split:]
            close(remaining[0, :, row, column], torch.tensor(rest, dtype=torch.float64))


def test_a_part_nobody_reads_is_empty() -> None:
    x = random(2, 5, 4, 3)
    kept, dropped = split_distillation(x, 2), split_distillation(x, 2, keep=False)
    close(dropped[0], kept[0])
    assert dropped[1].shape == (2, 0, 4, 3)


def test_a_pixel_stays_where_it_is() -> None:
    x, weight = random(1, 4, 5, 6), random(3, 4, 1, 1)
    touched = x.clone()
    touched[0, 1, 2, 3] = torch.nan
    for after in split_distillation(touched, weight=weight):
        spoilt = after.isnan().any(1)[0]
        assert spoilt[2, 3]
        assert spoilt.sum() == 1


def test_the_distilling_1x1_may_write_into_its_place_in_the_concatenation() -> None:
    """A chain of steps and the fusion that ends it, against the concatenation made piece by piece."""
    x, fusion = random(1, 8, 6, 5), random(8, 8, 1, 1)
    convs = [random(w, w, 3, 3) for w in (8, 6, 4)]
    distils = [random(2, 2, 1, 1) for _ in convs]
    parts, rest, joined, h = [], x, torch.empty_like(x), x
    for k, (conv, distil) in enumerate(zip(convs, distils, strict=True)):
        part, rest = split_distillation(F.conv2d(rest, conv, padding=1), 2, residual=rest, weight=distil)
        parts.append(part)
        h = F.leaky_relu(F.conv2d(h, conv, padding=1) + h, 0.05)
        joined[:, 2 * k : 2 * k + 2] = F.leaky_relu(F.conv2d(h[:, :2], distil), 0.05)
        h = h[:, 2:]
    joined[:, 6:] = h
    close(distillation_fusion([*parts, rest], fusion, residual=x), F.conv2d(joined, fusion) + x)


def step(dtype: torch.dtype, layout: torch.memory_format, side: int = 3) -> tuple[Tensor, dict[str, Any]]:
    """What a step of 24 channels reads, and everything else of it."""
    made = [torch.randn(shape).to(dtype) for shape in ((2, 20, 11, 70), (24, 20, side, side), (2, 24, 11, 70))]
    x, convolution, residual = (each.contiguous(memory_format=layout) for each in made)
    weight = torch.randn(10, 7, 1, 1).to(dtype)
    return x, {"split": 7, "residual": residual, "weight": weight, "convolution": convolution / (20 * side**2) ** 0.5}


def in_two_calls(x: Tensor, convolution: Tensor, **others: Any) -> tuple[Tensor, Tensor]:
    return split_distillation(dense_conv(x, convolution), **others)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("side", [3, 5])
def test_one_call_has_the_bits_of_two(layout: torch.memory_format, side: int) -> None:
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        x, others = step(dtype, layout, side)
        for got, wanted in zip(split_distillation(x, **others), in_two_calls(x, **others), strict=True):
            assert torch.equal(got, wanted)
            assert got.stride() == wanted.stride()


def test_a_crop_at_even_pixels_has_the_same_bits() -> None:
    """So tiles of a picture give what the whole picture gives."""
    torch.manual_seed(0)
    x, others = step(torch.float32, torch.contiguous_format)
    whole = split_distillation(x, **others)
    piece = (..., slice(2, 9), slice(10, 55))
    crop = split_distillation(x[piece], **others | {"residual": others["residual"][piece]})
    for part, all_of_it in zip(crop, whole, strict=True):
        assert torch.equal(part[..., 1:-1, 1:-1], all_of_it[piece][..., 1:-1, 1:-1])


@pytest.mark.parametrize("way", ["eager", "compiled", "operator"])
def test_gradients_are_those_of_two_calls(way: str) -> None:
    torch.manual_seed(0)
    x, others = step(torch.float64, torch.contiguous_format)
    leaves = [x, *(each for each in others.values() if isinstance(each, Tensor))]
    for leaf in leaves:
        leaf.requires_grad_()

    def operator(x: Tensor, split: int, residual: Tensor, weight: Tensor, convolution: Tensor) -> Any:
        ends = (weight, None, "leaky_relu", None, None, True, convolution)
        return torch.ops.lightsr.split_distillation(x, split, None, residual, "leaky_relu", 0.05, *ends)

    def function(x: Tensor) -> Any:
        return operator(x, **others) if way == "operator" else split_distillation(x, **others)

    run = torch.compile(function, backend="aot_eager", fullgraph=True) if way == "compiled" else function
    got, wanted = (
        torch.autograd.grad(sum(each.square().sum() for each in call(x)), leaves)
        for call in (run, lambda x: in_two_calls(x, **others))
    )
    for one, other in zip(got, wanted, strict=True):
        close(one, other)


def test_what_lies_between_is_kept_for_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not convolved a second time on the way back; and convolved within the one pass where there is none."""
    if lightsr_kernels.explain("dense_conv").backend != "cpu":
        pytest.skip("no CPU kernels here")
    native = importlib.import_module("lightsr_kernels.dense_conv.native")
    calls, run = [], native._forward
    monkeypatch.setattr(native, "_forward", lambda *args: (calls.append(args), run(*args)))
    x, others = step(torch.float32, torch.contiguous_format)
    others["convolution"].requires_grad_()
    for activation, wanted in (("leaky_relu", 0), ("gelu", 1)):  # whose derivative results do not tell
        calls.clear()
        out = split_distillation(x, **others | {"activation": activation})
        assert len(calls) == wanted
        sum(each.sum() for each in out).backward()
        assert len(calls) == wanted
    with torch.no_grad():
        split_distillation(x, **others | {"activation": "gelu"})
    assert len(calls) == 1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"activation": "none"},
        {"activation": "relu"},
        {"activation": "sigmoid"},
        {"activation": "gelu"},
        {"negative_slope": -0.5},
        {"keep": False},
        {"split": None, "weight": None, "keep": False},
        {"split": None, "weight": None},
        {"split": None, "wide": True},
        {"split": None, "wide": True, "keep": False},
        {"weight": None, "gated": 7},
        {"gated": 10, "bias": True},
        {"bias": True, "residual": None},
    ],
    ids=str,
)
def test_what_is_kept_gives_the_gradients(
    variant: dict[str, Any], dtype: torch.dtype, layout: torch.memory_format
) -> None:
    """Of a network's step, by whatever its kernels keep, as exact as two calls of which nothing is shortened."""
    torch.manual_seed(0)
    x, others = step(torch.float64, layout)
    others |= {key: value for key, value in variant.items() if key in ("activation", "negative_slope", "keep", "split")}
    others |= {key: None for key, value in variant.items() if value is None}
    if variant.get("wide"):
        others["weight"] = random(10, 24, 1, 1)
    if variant.get("bias"):
        others["bias"] = random(24)
    if "gated" in variant:
        others["gate_weight"] = random(variant["gated"], variant["gated"], 1, 1) / 4
    weights = [random(*each.shape) for each in split_distillation(x, **others)]

    def found(kind: torch.dtype, name: str) -> list[Tensor]:
        cast = {
            key: each.to(dtype).to(kind).detach().requires_grad_() if isinstance(each, Tensor) else each
            for key, each in (("x", x), *others.items())
        }
        with lightsr_kernels.backend(name):
            out = split_distillation(**cast)
        loss = sum((each.to(torch.float64) * by).sum() for each, by in zip(out, weights, strict=True))
        leaves = [each for each in cast.values() if isinstance(each, Tensor)]
        return [each.double() for each in torch.autograd.grad(loss, leaves)]

    exact = found(torch.float64, "reference")
    eager = found(dtype, "reference")
    for got, plain, wanted in zip(found(dtype, "auto"), eager, exact, strict=True):
        # Not the largest error: in 16 bits single values near zero fall on either side of the activation's kink.
        off, most = (float((each - wanted).norm() / wanted.norm()) for each in (got, plain))
        assert off <= max(1.25 * most, 0 if dtype == torch.bfloat16 else 40 * torch.finfo(dtype).eps)  # Winograd's


def test_refusals_name_the_op_where_gradients_are_wanted_too() -> None:
    x, convolution = random(1, 4, 5, 6), random(3, 5, 3, 3).requires_grad_()
    with pytest.raises(ValueError, match=r"^split_distillation: convolution must have shape \[3, 4, 3, 3\]"):
        split_distillation(x, convolution=convolution)
    with pytest.raises(TypeError, match=r"^split_distillation: x must be a torch.Tensor, got NoneType"):
        split_distillation(None, convolution=convolution)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["gradients", "autocast"])
def test_a_backend_without_the_convolution_leaves_it_to_torch(way: str) -> None:
    pytest.importorskip("triton")
    torch.manual_seed(0)
    x, others = random(1, 4, 5, 6), {"convolution": random(3, 4, 3, 3), "weight": random(2, 3, 1, 1)}
    leaves = [each.float().requires_grad_(way == "gradients") for each in (x, *others.values())]

    def run(name: str) -> list[Tensor]:
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast")
        with lightsr_kernels.backend(name), autocast:
            found = split_distillation(leaves[0], convolution=leaves[1], weight=leaves[2])
        if way == "autocast":
            return [each.float() for each in found]
        return list(torch.autograd.grad(sum(each.square().sum() for each in found), leaves))

    tolerance = 2e-2 if way == "autocast" else 1e-4
    for one, other in zip(run("triton"), run("reference"), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_the_libraries_hang_on_the_backend() -> None:
    """dense_conv has no CUDA kernels, and so nothing to compile there."""
    spec = SPECS["split_distillation"]
    assert spec.libraries("cpu") == ("split_distillation", "dense_conv")
    assert spec.libraries("cuda") == ("split_distillation",)
