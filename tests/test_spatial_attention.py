"""spatial_attention against CBAM's module, at the border by hand, and where several channels are the maximum."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightsr_kernels import spatial_attention
from lightsr_kernels.spec import Make


class SpatialGate(nn.Module):
    """The spatial half of CBAM as it is usually written, its pooled maps in the order of this op."""

    def __init__(self, k: int, weight: Tensor) -> None:
        super().__init__()
        self.filter = nn.Conv2d(2, 1, k, padding=(k - 1) // 2, bias=False, dtype=torch.float64)
        with torch.no_grad():
            self.filter.weight.copy_(weight)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.stack([x.sum(1) / x.shape[1], x.max(1).values], 1)
        return x * torch.sigmoid(self.filter(pooled))


@pytest.mark.parametrize(
    ("shape", "k"),
    [((2, 6, 9, 7), 7), ((1, 5, 1, 11), 3), ((3, 1, 4, 5), 5), ((1, 8, 3, 2), 9), ((2, 4, 1, 1), 7)],
    ids=str,
)
def test_equals_the_module(shape: tuple[int, ...], k: int) -> None:
    make = Make(torch.float64)
    x, weight = make(*shape, offset=0.5), make(1, 2, k, k)
    torch.testing.assert_close(spatial_attention(x, weight), SpatialGate(k, weight)(x), rtol=1e-12, atol=1e-12)


def test_the_map_is_zero_outside_the_picture() -> None:
    """Channels far below zero: a border of their mean or maximum instead of 0 would close the gate."""
    x = torch.full((1, 2, 3, 4), -50.0, dtype=torch.float64)
    weight = torch.zeros(1, 2, 3, 3, dtype=torch.float64)
    weight[0, 0, 0, 0], weight[0, 1, 0, 0] = 1.0, -1.0  # the mean up and to the left less the maximum there: 0
    weight[0, 0, 2, 2] = 1.0  # the mean down and to the right
    closed = torch.sigmoid(torch.tensor(-50.0, dtype=torch.float64))
    wanted = torch.full((3, 4), -25.0, dtype=torch.float64)
    wanted[:2, :3] = -50 * closed
    torch.testing.assert_close(spatial_attention(x, weight)[0, 1], wanted, rtol=1e-12, atol=0)


def test_channels_share_the_gradient_of_their_maximum() -> None:
    weight = torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(1, 2, 1, 1)
    x = torch.tensor([3.0, 1.0, 3.0], dtype=torch.float64).reshape(1, 3, 1, 1).requires_grad_()
    (grad,) = torch.autograd.grad(spatial_attention(x, weight).sum(), x)
    gate = torch.tensor(3.0, dtype=torch.float64).sigmoid()
    through = 7 * gate * (1 - gate) / 2  # the sum of the channels, times the gate's slope, for each of two
    wanted = gate + through * torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(grad.flatten(), wanted, rtol=1e-12, atol=0)
