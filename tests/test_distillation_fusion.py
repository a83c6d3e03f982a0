"""distillation_fusion against modules and loops written here, and the identities its kernels will rely on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightsr_kernels import distillation_fusion
from lightsr_kernels.functional import activate

WIDTHS = (3, 1, 4)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def pictures(n: int = 2, size: tuple[int, int] = (6, 5)) -> list[Tensor]:
    return [random(n, width, *size) for width in WIDTHS]


def close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 12)], ids=str)
def test_equals_modules(size: tuple[int, int]) -> None:
    fusion = nn.Conv2d(8, 5, 1).double()
    parts, residual, gains = pictures(2, size), random(2, 5, *size), nn.ParameterList([random(1), random(1)])
    got = distillation_fusion(
        parts, fusion.weight, fusion.bias, gain=gains[0], residual=residual, residual_gain=gains[1]
    )
    close(got, gains[0] * fusion(torch.cat(parts, 1)) + gains[1] * residual)


def test_equals_loops() -> None:
    parts, weight, bias, scale = pictures(2, (2, 3)), random(2, 8, 1, 1), random(2), random(2, 8, 1, 1)
    maps, gain, residual = [random(2, 1, 2, 3) for _ in WIDTHS], random(), random(2, 2, 2, 3)
    got = distillation_fusion(parts, weight, bias, scale=scale, maps=maps, gain=gain, residual=residual)
    owner = [k for k, width in enumerate(WIDTHS) for _ in range(width)]  # the part of every joined channel
    inside = [channel for width in WIDTHS for channel in range(width)]  # its channel there
    for n in range(2):
        for row in range(2):
            for column in range(3):
                values = [
                    (parts[k][n, c, row, column] * maps[k][n, 0, row, column] * scale[n, joined, 0, 0]).item()
                    for joined, (k, c) in enumerate(zip(owner, inside, strict=True))
                ]
                for out in range(2):
                    total = sum(weight[out, joined, 0, 0].item() * value for joined, value in enumerate(values))
                    wanted = gain * (total + bias[out]) + residual[n, out, row, column]
                    close(got[n, out, row, column], wanted)


def test_channel_scale_folds_into_the_input_columns() -> None:
    parts, weight, bias, scale = pictures(), random(5, 8, 1, 1), random(5), random(2, 8, 1, 1)
    got = distillation_fusion(parts, weight, bias, scale=scale)
    for n in range(2):  # each picture has a scale of its own, so a weight of its own
        alone = [part[n : n + 1] for part in parts]
        close(got[n : n + 1], distillation_fusion(alone, weight * scale[n].view(1, 8, 1, 1), bias))


def test_spatial_maps_may_be_applied_on_load() -> None:
    parts, weight, maps = pictures(), random(5, 8, 1, 1), [random(2, 1, 6, 5) for _ in WIDTHS]
    loaded = [part * each for part, each in zip(parts, maps, strict=True)]
    close(distillation_fusion(parts, weight, maps=maps), distillation_fusion(loaded, weight))


def test_gain_folds_into_weight_and_bias() -> None:
    parts, weight, bias, gain, x = pictures(), random(5, 8, 1, 1), random(5), random(1), random(2, 5, 6, 5)
    got = distillation_fusion(parts, weight, bias, gain=gain, residual=x)
    close(got, distillation_fusion(parts, gain * weight, gain * bias, residual=x))


def test_parts_may_be_added_one_by_one() -> None:
    parts, weight, bias = pictures(), random(5, 8, 1, 1), random(5)
    total = bias.view(1, 5, 1, 1).expand(2, 5, 6, 5)
    for part, columns in zip(parts, weight.split(WIDTHS, 1), strict=True):
        total = distillation_fusion([part], columns, residual=total)
    close(distillation_fusion(parts, weight, bias), total)


def test_the_order_of_parts_is_the_order_of_columns() -> None:
    parts, weight = pictures(), random(5, 8, 1, 1)
    columns = weight.split(WIDTHS, 1)
    order = (2, 0, 1)
    got = distillation_fusion([parts[k] for k in order], torch.cat([columns[k] for k in order], 1))
    close(got, distillation_fusion(parts, weight))


def test_tuples_are_taken_for_lists() -> None:
    parts, weight, maps = pictures(), random(5, 8, 1, 1), [random(2, 1, 6, 5) for _ in WIDTHS]
    got = distillation_fusion(tuple(parts), weight, maps=tuple(maps))
    close(got, distillation_fusion(parts, weight, maps=maps))


@pytest.mark.parametrize("slope", [0.25, -0.25])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "gelu", "silu", "sigmoid"])
def test_the_activation_comes_last(activation: str, slope: float) -> None:
    """With gradients, by eager calls, which keep what tells its derivative, and by the operator, which does not."""
    x, weight, residual = (random(*shape).requires_grad_() for shape in ((2, 3, 6, 5), (4, 3, 1, 1), (2, 4, 6, 5)))
    grad = random(2, 4, 6, 5)
    wanted = activate(F.conv2d(x, weight) + residual, activation, slope)
    got = distillation_fusion([x], weight, residual=residual, activation=activation, negative_slope=slope)
    ends = (None, None, [], None, residual, None, activation, slope)
    operator = torch.ops.lightsr.distillation_fusion([x], weight, *ends)
    for out in (got, operator):
        close(out, wanted)
        found = torch.autograd.grad(out, (x, weight, residual), grad)
        expected = torch.autograd.grad(wanted, (x, weight, residual), grad, retain_graph=True)
        for one, other in zip(found, expected, strict=True):
            close(one, other)
