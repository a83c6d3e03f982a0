"""channel_attention against the modules people write, for both statistics, and where a deviation is 0."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightsr_kernels import channel_attention
from lightsr_kernels.spec import Make


def parameters(make: Make, c: int, r: int) -> dict[str, Tensor]:
    return {
        "down_weight": make(r, c, 1, 1),
        "down_bias": make(r, offset=2.0),  # hidden units above relu's 0, most of them
        "up_weight": make(c, r, 1, 1),
        "up_bias": make(c),
    }


class SqueezeExcitation(nn.Module):
    """The block as it is usually written."""

    def __init__(self, c: int, r: int, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.layers = nn.Sequential(nn.Conv2d(c, r, 1), nn.ReLU(), nn.Conv2d(r, c, 1), nn.Sigmoid()).double()
        with torch.no_grad():
            for parameter, value in zip(self.parameters(), weights.values(), strict=True):
                parameter.copy_(value)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.layers(self.pool(x))


@pytest.mark.parametrize("shape", [(2, 6, 9, 7), (1, 5, 1, 11), (2, 4, 1, 1)], ids=str)
def test_mean_is_squeeze_and_excitation(shape: tuple[int, ...]) -> None:
    make = Make(torch.float64)
    x, weights = make(*shape, offset=0.5), parameters(make, shape[1], 3)
    expected = SqueezeExcitation(shape[1], 3, weights)(x)
    torch.testing.assert_close(channel_attention(x, **weights, statistic="mean"), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 6, 9, 7), (1, 5, 1, 11), (2, 4, 1, 1)], ids=str)
def test_contrast_is_mean_and_deviation_by_hand(shape: tuple[int, ...]) -> None:
    make = Make(torch.float64)
    x, weights = make(*shape, offset=0.5), parameters(make, shape[1], 2)
    pixels = shape[2] * shape[3]
    mean = x.sum((2, 3), keepdim=True) / pixels
    deviation = ((x - mean).pow(2).sum((2, 3), keepdim=True) / pixels).pow(0.5)
    layers = SqueezeExcitation(shape[1], 2, weights).layers
    expected = x * layers(mean + deviation)
    torch.testing.assert_close(channel_attention(x, **weights), expected, rtol=1e-12, atol=1e-12)


def test_without_biases_they_are_zero() -> None:
    make = Make(torch.float64)
    x, weights = make(2, 4, 5, 6, offset=1.0), parameters(make, 4, 2)
    zero = weights | {"down_bias": torch.zeros(2).double(), "up_bias": torch.zeros(4).double()}
    assert torch.equal(
        channel_attention(x, weights["down_weight"], None, weights["up_weight"], None), channel_attention(x, **zero)
    )


@pytest.mark.parametrize("shape", [(2, 3, 6, 5), (2, 3, 1, 1)], ids=str)
def test_gradient_of_the_deviation_of_a_constant_plane_is_zero(shape: tuple[int, ...]) -> None:
    """What remains is the gradient of the op with the mean alone."""
    weights = parameters(Make(torch.float64), 3, 2)
    x = torch.full(shape, 0.5, dtype=torch.float64, requires_grad=True)
    grads = [
        torch.autograd.grad(channel_attention(x, **weights, statistic=each).square().sum(), x)[0]
        for each in ("mean+std", "mean")
    ]
    assert grads[0].isfinite().all()
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


def test_16_bit_statistics_are_taken_in_float32() -> None:
    make = Make(torch.float16, seed=2)
    x = make(1, 3, 64, 64, scale=400.0, offset=300.0)  # sums and squares are beyond float16
    weights = parameters(make, 3, 2)
    weights["down_weight"] /= 300
    wanted = channel_attention(x.double(), **{name: value.double() for name, value in weights.items()})
    got = channel_attention(x, **weights).double()
    torch.testing.assert_close(got, wanted, rtol=0.51 * torch.finfo(torch.float16).eps, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("of_parameters", [torch.float64, torch.float32])
def test_under_autocast_parameters_may_be_wider_or_narrower(dtype: torch.dtype, of_parameters: torch.dtype) -> None:
    x = Make(dtype)(2, 4, 5, 6, offset=1.0)
    weights = {name: value.requires_grad_() for name, value in parameters(Make(of_parameters), 4, 2).items()}
    with torch.autocast("cpu", torch.bfloat16):
        got = channel_attention(x, **weights)
    expected = channel_attention(x.double(), **{name: value.double() for name, value in weights.items()})
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected, rtol=1e-2, atol=1e-3)
    found, wanted = (torch.autograd.grad(each.sum(), list(weights.values())) for each in (got, expected))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
