"""pixel_attention against modules and loops written here, and as the step of split_distillation that it is."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lightsr_kernels import pixel_attention, split_distillation


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 12)], ids=str)
def test_equals_modules(size: tuple[int, int]) -> None:
    conv = nn.Conv2d(6, 6, 1).double()
    x = random(2, 6, *size)
    close(pixel_attention(x, conv.weight, conv.bias), x * nn.Sigmoid()(conv(x)))


def test_equals_loops() -> None:
    x, weight, bias = random(1, 3, 2, 2), random(3, 3, 1, 1), random(3)
    got = pixel_attention(x, weight, bias)
    for row in range(2):
        for column in range(2):
            values = x[0, :, row, column].tolist()
            for out in range(3):
                total = bias[out].item() + sum(weight[out, k, 0, 0].item() * values[k] for k in range(3))
                wanted = values[out] / (1 + math.exp(-total))
                close(got[0, out, row, column], torch.tensor(wanted, dtype=torch.float64))


def test_is_the_distilled_path_of_a_step_that_only_gates() -> None:
    x, weight, bias = random(2, 4, 5, 3), random(4, 4, 1, 1), random(4)
    step = split_distillation(x, activation="none", gate_weight=weight, gate_bias=bias, keep=False)
    close(pixel_attention(x, weight, bias), step[0])


def test_a_shut_gate_and_an_open_one() -> None:
    x, weight = random(1, 2, 3, 3), torch.zeros(2, 2, 1, 1, dtype=torch.float64)
    bias = torch.tensor([-1e4, 1e4], dtype=torch.float64)
    got = pixel_attention(x, weight, bias)
    assert not got[:, 0].any()
    assert torch.equal(got[:, 1], x[:, 1])
