"""gated_pointwise against modules of torch.nn, against matrices and loops, and with its gate's entry merged."""

from __future__ import annotations

from math import prod

import pytest
import torch
from torch import Tensor, nn

from lightsr_kernels.gated_pointwise import gated_pointwise
from lightsr_kernels.gated_pointwise.samples import shapes
from lightsr_kernels.spec import Make

SHAPES = pytest.mark.parametrize(
    ("shape", "e", "p"),
    [((1, 4, 15, 15), 6, 3), ((2, 3, 23, 17), 9, 2), ((1, 1, 16, 31), 2, 1), ((1, 52, 20, 33), 156, 16)],
    ids=str,
)


def weights_of(make: Make, c: int, e: int, p: int) -> dict[str, Tensor]:
    weights = {}
    for name, shape in shapes(c, e, p).items():
        inputs = prod(shape[1:])
        # Large enough that relu6 is cut at 6 somewhere and the gate is far from 1/2.
        weights[name] = make(*shape, scale=2 / inputs**0.5)
    return weights


class SpatialAttention(nn.Module):
    """ESA as its papers draw it, without activations."""

    def __init__(self, e: int, p: int) -> None:
        super().__init__()
        self.entry = nn.Conv2d(e, p, 1)
        self.stride = nn.Conv2d(p, p, 3, stride=2)
        self.pool = nn.Conv2d(p, p, 3, padding=1)
        self.skip = nn.Conv2d(p, p, 1)
        self.exit = nn.Conv2d(p, e, 1)
        self.max = nn.MaxPool2d(7, stride=3)

    def forward(self, x: Tensor) -> Tensor:
        entry = self.entry(x)
        wide = nn.Upsample(x.shape[2:], mode="bilinear")(self.pool(self.max(self.stride(entry))))
        return x * nn.Sigmoid()(self.exit(wide + self.skip(entry)))


class Star(nn.Module):
    """The pointwise part of HASN's block; parameters in the order of the op's arguments."""

    def __init__(self, c: int, e: int, p: int, eps: float, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(c, eps=eps)
        self.a, self.b, self.c = (nn.Conv2d(c, e, 1) for _ in range(3))
        self.attention = SpatialAttention(e, p)
        self.out = nn.Conv2d(e, c, 1)
        self.double()
        with torch.no_grad():
            for parameter, value in zip(self.parameters(), weights.values(), strict=True):
                assert parameter.shape == value.shape
                parameter.copy_(value)

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        return self.out(nn.ReLU6()(self.a(n)) * self.b(n) + self.attention(self.c(n)))


@SHAPES
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_equals_modules(shape: tuple[int, int, int, int], e: int, p: int, eps: float) -> None:
    make = Make(torch.float64)
    x, weights = make(*shape), weights_of(make, shape[1], e, p)
    expected = Star(shape[1], e, p, eps, weights)(x)
    torch.testing.assert_close(gated_pointwise(x, **weights, eps=eps), expected, rtol=1e-12, atol=1e-12)


def matrix(side: int, coarse: int) -> Tensor:  # [side, coarse]
    """Bilinear upsampling along one axis: half-pixel centres, held at the ends."""
    rows = torch.zeros(side, coarse, dtype=torch.float64)
    for place in range(side):
        position = max((place + 0.5) * coarse / side - 0.5, 0.0)
        low = min(int(position), coarse - 1)
        high = min(low + 1, coarse - 1)
        rows[place, low] += 1 - (position - low)
        rows[place, high] += position - low
    return rows


def dense(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 1x1 convolution as a matrix product."""
    return torch.einsum("oc,nchw->nohw", weight.flatten(1), x) + bias[:, None, None]


def convolution(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """A 3x3 convolution of what is there, tap by tap."""
    h, w = ((side - 3) // stride + 1 for side in x.shape[2:])
    total = bias[:, None, None].expand(len(x), -1, h, w).clone()
    for i in range(3):
        for j in range(3):
            tap = x[:, :, i : i + (h - 1) * stride + 1 : stride, j : j + (w - 1) * stride + 1 : stride]
            total += torch.einsum("oc,nchw->nohw", weight[:, :, i, j], tap)
    return total


def by_hand(x: Tensor, w: dict[str, Tensor], p: Tensor | None = None) -> Tensor:
    """Matrices and loops; `p`, the gate's first map, may come from elsewhere."""
    normal = normalised(x, w)
    a, b, c = (dense(normal, w[f"weight_{path}"], w[f"bias_{path}"]) for path in "abc")
    if p is None:
        p = dense(c, w["entry_weight"], w["entry_bias"])
    q = convolution(p, w["stride_weight"], w["stride_bias"], 2)
    rows, columns = ((side - 7) // 3 + 1 for side in q.shape[2:])
    pooled = torch.zeros(*q.shape[:2], rows + 2, columns + 2, dtype=torch.float64)  # with the zeros around it
    for i in range(rows):
        for j in range(columns):
            pooled[:, :, i + 1, j + 1] = q[:, :, 3 * i : 3 * i + 7, 3 * j : 3 * j + 7].amax((2, 3))
    q = convolution(pooled, w["pool_weight"], w["pool_bias"], 1)
    q = matrix(x.shape[2], rows) @ q @ matrix(x.shape[3], columns).T
    gate = 1 / (1 + torch.exp(-dense(q + dense(p, w["skip_weight"], w["skip_bias"]), w["exit_weight"], w["exit_bias"])))
    return dense(a.clamp(0, 6) * b + c * gate, w["out_weight"], w["out_bias"])


def normalised(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    normal = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    return normal * w["norm_weight"][:, None, None] + w["norm_bias"][:, None, None]


@SHAPES
def test_equals_matrices_and_loops(shape: tuple[int, int, int, int], e: int, p: int) -> None:
    make = Make(torch.float64)
    x, weights = make(*shape), weights_of(make, shape[1], e, p)
    torch.testing.assert_close(gated_pointwise(x, **weights), by_hand(x, weights), rtol=1e-12, atol=1e-12)


@SHAPES
def test_gate_entry_is_one_filter_of_the_norm(shape: tuple[int, int, int, int], e: int, p: int) -> None:
    """W_entry W_c, from C channels to P: the E channels of the third path need not exist for the gate."""
    make = Make(torch.float64)
    x, w = make(*shape), weights_of(make, shape[1], e, p)
    merged_weight = w["entry_weight"][:, :, 0, 0] @ w["weight_c"][:, :, 0, 0]
    merged_bias = w["entry_weight"][:, :, 0, 0] @ w["bias_c"] + w["entry_bias"]
    normal = normalised(x, w)
    merged = dense(normal, merged_weight, merged_bias)
    in_turn = dense(dense(normal, w["weight_c"], w["bias_c"]), w["entry_weight"], w["entry_bias"])
    torch.testing.assert_close(merged, in_turn, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gated_pointwise(x, **w), by_hand(x, w, merged), rtol=1e-12, atol=1e-12)


def test_relu6_is_cut_at_both_ends() -> None:
    make = Make(torch.float64)
    x, w = make(1, 4, 15, 16), weights_of(make, 4, 6, 2)
    a = dense(normalised(x, w), w["weight_a"], w["bias_a"])
    assert a.min() < 0
    assert a.max() > 6
    lower = gated_pointwise(x, **w | {"bias_a": w["bias_a"] - 1000})  # the star is 0 everywhere
    assert torch.equal(lower, gated_pointwise(x, **w | {"bias_a": w["bias_a"] - 2000}))
    upper = gated_pointwise(x, **w | {"bias_a": w["bias_a"] + 1000})  # and 6 b everywhere
    star = dense(
        6 * dense(normalised(x, w), w["weight_b"], w["bias_b"]), w["out_weight"], torch.zeros_like(w["out_bias"])
    )
    torch.testing.assert_close(upper - lower, star, rtol=1e-12, atol=1e-12)


def test_smallest_picture() -> None:
    """15 pixels a side leave the pool one window; 14 leave it none."""
    make = Make()
    w = weights_of(make, 2, 3, 2)
    assert gated_pointwise(make(1, 2, 15, 15), **w).shape == (1, 2, 15, 15)
    for size in ((14, 15), (15, 14), (1, 1)):
        with pytest.raises(ValueError, match="at least 15"):
            gated_pointwise(make(1, 2, *size), **w)
