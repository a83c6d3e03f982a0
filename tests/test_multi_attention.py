"""multi_attention against modules and loops written here, and the identities its kernels will rely on."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightsr_kernels import distillation_fusion, multi_attention, split_distillation


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


class Pixel(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x).sigmoid()


class Spatial(nn.Module):
    def __init__(self, side: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, side, padding=side // 2, bias=False)

    def map(self, x: Tensor) -> Tensor:
        return self.conv(torch.stack([x.mean(1), x.max(1).values], 1)).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.map(x)


class Channel(nn.Module):
    def __init__(self, c: int, hidden: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(c, hidden, 1), nn.Conv2d(hidden, c, 1)

    def scale(self, x: Tensor) -> Tensor:
        return self.up(self.down(F.adaptive_avg_pool2d(x, 1)).relu()).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale(x)


def layers(*widths: int, side: int = 7) -> list[tuple[Pixel, Spatial, Channel]]:
    return [(Pixel(c).double(), Spatial(side).double(), Channel(c, 2).double()) for c in widths]


def lists(nets: list[tuple[Pixel, Spatial, Channel]]) -> tuple[list[Tensor], ...]:
    """The modules' parameters as the op takes them."""
    rows = [
        (p.conv.weight, p.conv.bias, s.conv.weight, c.down.weight, c.down.bias, c.up.weight, c.up.bias)
        for p, s, c in nets
    ]
    return tuple(list(column) for column in zip(*rows, strict=True))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 12)], ids=str)
@pytest.mark.parametrize("side", [3, 7])
def test_equals_modules(size: tuple[int, int], side: int) -> None:
    nets, fusion = layers(4, 6, 1, side=side), nn.Conv2d(11, 5, 1).double()
    parts, residual = [random(2, c, *size) for c in (4, 6, 1)], random(2, 5, *size)
    attended = [c(s(p(part))) for (p, s, c), part in zip(nets, parts, strict=True)]
    wanted = fusion(torch.cat(attended, 1)) + residual
    close(multi_attention(parts, *lists(nets)), torch.cat(attended, 1))
    got = multi_attention(parts, *lists(nets), out_weight=fusion.weight, out_bias=fusion.bias, residual=residual)
    close(got, wanted)


def logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_equals_loops() -> None:
    x, h, w = random(1, 2, 3, 4), 3, 4
    pixel, pixel_bias, spatial = random(2, 2, 1, 1), random(2), random(1, 2, 3, 3)
    down, down_bias, up, up_bias = random(1, 2, 1, 1), random(1) + 1, random(2, 1, 1, 1), random(2)
    z = [[[0.0] * w for _ in range(h)] for _ in range(2)]
    for i in range(h):
        for j in range(w):
            for c in range(2):
                total = sum(pixel[c, k, 0, 0].item() * x[0, k, i, j].item() for k in range(2))
                z[c][i][j] = x[0, c, i, j].item() * logistic(total + pixel_bias[c].item())
    weighted = [[[0.0] * w for _ in range(h)] for _ in range(2)]
    for i in range(h):
        for j in range(w):
            total = 0.0
            for a in range(3):
                for b in range(3):
                    y, u = i + a - 1, j + b - 1
                    if 0 <= y < h and 0 <= u < w:
                        pair = (z[0][y][u] + z[1][y][u]) / 2, max(z[0][y][u], z[1][y][u])
                        total += spatial[0, 0, a, b].item() * pair[0] + spatial[0, 1, a, b].item() * pair[1]
            for c in range(2):
                weighted[c][i][j] = z[c][i][j] * logistic(total)
    means = [sum(map(sum, weighted[c])) / (h * w) for c in range(2)]
    hidden = max(0.0, sum(down[0, c, 0, 0].item() * means[c] for c in range(2)) + down_bias[0].item())
    scales = [logistic(up[c, 0, 0, 0].item() * hidden + up_bias[c].item()) for c in range(2)]
    wanted = torch.tensor([[[v * scales[c] for v in row] for row in weighted[c]] for c in range(2)], dtype=x.dtype)
    got = multi_attention([x], [pixel], [pixel_bias], [spatial], [down], [down_bias], [up], [up_bias])
    close(got[0], wanted)


def test_scale_and_maps_fold_into_the_fusion() -> None:
    """The channel scale goes into the fusion's columns and the spatial map is applied on load, part by part."""
    nets, weight, bias = layers(4, 6), random(5, 10, 1, 1), random(5)
    parts, residual = [random(2, c, 9, 8) for c in (4, 6)], random(2, 5, 9, 8)
    lit, maps, scales = [], [], []
    for (p, s, c), part in zip(nets, parts, strict=True):
        z = split_distillation(part, activation="none", gate_weight=p.conv.weight, gate_bias=p.conv.bias)[0]
        lit.append(z)
        maps.append(s.map(z))
        scales.append(c.scale(z * maps[-1]))
    wanted = multi_attention(parts, *lists(nets), out_weight=weight, out_bias=bias, residual=residual)
    got = distillation_fusion(lit, weight, bias, scale=torch.cat(scales, 1), maps=maps, residual=residual)
    close(got, wanted)


def test_pictures_do_not_see_each_other() -> None:
    nets, parts = layers(4, 6), [random(3, c, 9, 8) for c in (4, 6)]
    got = multi_attention(parts, *lists(nets))
    for n in range(3):
        close(got[n : n + 1], multi_attention([part[n : n + 1] for part in parts], *lists(nets)))


def test_parts_do_not_see_each_other() -> None:
    nets, parts = layers(4, 6), [random(1, c, 9, 8) for c in (4, 6)]
    alone = [multi_attention([part], *lists([net])) for net, part in zip(nets, parts, strict=True)]
    close(multi_attention(parts, *lists(nets)), torch.cat(alone, 1))
