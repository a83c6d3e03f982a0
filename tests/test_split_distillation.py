"""split_distillation against modules and loops written here, and the identities its kernels will rely on."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightsr_kernels import distillation_fusion, split_distillation

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
