"""gated_feed_forward against modules of torch.nn and against a loop over pixels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lightsr_kernels.gated_feed_forward import gated_feed_forward
from lightsr_kernels.spec import Make

SHAPES = pytest.mark.parametrize(
    ("shape", "m"), [((2, 3, 9, 7), 3), ((1, 4, 1, 6), 2), ((2, 1, 5, 4), 3), ((3, 2, 1, 1), 5)], ids=str
)


def weights_of(make: Make, c: int, m: int) -> dict[str, Tensor]:
    return {
        "norm_weight": make(c),
        "norm_bias": make(c),
        "in_weight": make(2 * m, c, 1, 1),
        "depthwise_weight": make(2 * m, 1, 3, 3),
        "out_weight": make(c, m, 1, 1),
    }


class FeedForward(nn.Module):
    """The same block as a user would write it, with tokens for the pointwise parts."""

    def __init__(self, c: int, m: int, eps: float, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(c, eps=eps)
        self.into = nn.Linear(c, 2 * m, bias=False)
        self.depthwise = nn.Conv2d(2 * m, 2 * m, 3, padding=1, groups=2 * m, bias=False)
        self.out = nn.Linear(m, c, bias=False)
        self.double()
        with torch.no_grad():
            for parameter, value in zip(self.parameters(), weights.values(), strict=True):
                parameter.copy_(value.reshape(parameter.shape))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.depthwise(self.into(self.norm(x.movedim(1, -1))).movedim(-1, 1))
        m = hidden.shape[1] // 2
        return x + self.out((nn.GELU()(hidden[:, :m]) * hidden[:, m:]).movedim(1, -1)).movedim(-1, 1)


@SHAPES
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_equals_modules(shape: tuple[int, int, int, int], m: int, eps: float) -> None:
    make = Make(torch.float64)
    x, weights = make(*shape), weights_of(make, shape[1], m)
    expected = FeedForward(shape[1], m, eps, weights)(x)
    torch.testing.assert_close(gated_feed_forward(x, **weights, eps=eps), expected, rtol=1e-12, atol=1e-12)


@SHAPES
def test_equals_a_loop_over_pixels(shape: tuple[int, int, int, int], m: int) -> None:
    """Outside the picture the depthwise filter reads 0, not what the norm's offset would make of a black pixel."""
    make = Make(torch.float64)
    n, c, h, w = shape
    x, weights = make(*shape), weights_of(make, c, m)
    into, out_weight = weights["in_weight"][:, :, 0, 0], weights["out_weight"][:, :, 0, 0]

    def hidden(picture: int, row: int, column: int) -> Tensor:
        pixel = x[picture, :, row, column]
        variance = (pixel - pixel.mean()).square().mean()
        normal = (pixel - pixel.mean()) / math.sqrt(variance + 1e-6)
        return into @ (normal * weights["norm_weight"] + weights["norm_bias"])

    out = x.clone()
    for picture in range(n):
        for row in range(h):
            for column in range(w):
                total = torch.zeros(2 * m, dtype=torch.float64)
                for i in range(max(row - 1, 0), min(row + 2, h)):
                    for j in range(max(column - 1, 0), min(column + 2, w)):
                        tap = weights["depthwise_weight"][:, 0, i - row + 1, j - column + 1]
                        total += tap * hidden(picture, i, j)
                a, b = total[:m], total[m:]
                gelu = a * 0.5 * (1 + torch.erf(a / math.sqrt(2)))
                out[picture, :, row, column] += out_weight @ (gelu * b)
    torch.testing.assert_close(gated_feed_forward(x, **weights), out, rtol=1e-12, atol=1e-12)


def test_a_pixel_reaches_one_pixel_around_it() -> None:
    make = Make(torch.float64)
    x, weights = make(1, 3, 9, 8), weights_of(make, 3, 4)
    other = x.clone()
    other[0, 1, 4, 2] += 1
    changed = (gated_feed_forward(x, **weights) - gated_feed_forward(other, **weights)).abs().amax(1)[0] > 0
    expected = torch.zeros(9, 8, dtype=torch.bool)
    expected[3:6, 1:4] = True
    assert torch.equal(changed, expected)


def test_the_first_half_is_the_gate() -> None:
    """With the filters of either half 0 nothing is added; with the halves swapped something else is."""
    make = Make(torch.float64)
    x, weights = make(1, 3, 5, 5), weights_of(make, 3, 4)
    for half in (slice(0, 4), slice(4, 8)):
        silent = weights["in_weight"].clone()
        silent[half] = 0
        assert torch.equal(gated_feed_forward(x, **weights | {"in_weight": silent}), x)
    swapped = {name: weights[name].roll(4, 0) for name in ("in_weight", "depthwise_weight")}
    assert not torch.allclose(gated_feed_forward(x, **weights), gated_feed_forward(x, **weights | swapped))
