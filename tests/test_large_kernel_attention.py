"""large_kernel_attention against modules and loops written here, and the identities its kernels will rely on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightsr_kernels import large_kernel_attention

DOUBLE = torch.float64


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE)


def filters(c: int, near: int = 5, far: int = 7) -> tuple[Tensor, ...]:
    """weight1, bias1, weight2, bias2, mix_weight, mix_bias."""
    return random(c, 1, near, near), random(c), random(c, 1, far, far), random(c), random(c, c, 1, 1), random(c)


class Attention(nn.Module):
    """VAN's module, with the projection and the shortcut that stand around it there."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.near = nn.Conv2d(c, c, 5, padding=2, groups=c)
        self.far = nn.Conv2d(c, c, 7, padding=9, dilation=3, groups=c)
        self.mix = nn.Conv2d(c, c, 1)
        self.out = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        return self.out(x * self.mix(self.far(self.near(x)))) + shortcut


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (23, 1), (7, 12), (24, 25)], ids=str)
def test_equals_modules(size: tuple[int, int]) -> None:
    net = Attention(6).double()
    x, shortcut = random(2, 6, *size), random(2, 6, *size)
    got = large_kernel_attention(
        x,
        net.near.weight,
        net.near.bias,
        net.far.weight,
        net.far.bias,
        net.mix.weight,
        net.mix.bias,
        out_weight=net.out.weight,
        out_bias=net.out.bias,
        residual=shortcut,
    )
    torch.testing.assert_close(got, net(x, shortcut), rtol=1e-12, atol=1e-12)


def sums(x: list[list[float]], weight: list[list[float]], bias: float, dilation: int) -> list[list[float]]:
    """One channel's convolution, tap by tap; what lies outside the picture counts as zero."""
    h, w, kh, kw = len(x), len(x[0]), len(weight), len(weight[0])
    out = [[bias] * w for _ in range(h)]
    for row in range(h):
        for column in range(w):
            for i in range(kh):
                for j in range(kw):
                    y, z = row + dilation * (i - kh // 2), column + dilation * (j - kw // 2)
                    if 0 <= y < h and 0 <= z < w:
                        out[row][column] += weight[i][j] * x[y][z]
    return out


def test_equals_loops() -> None:
    x = random(1, 2, 5, 6)
    weight1, weight2, mix = random(2, 1, 3, 5), random(2, 1, 5, 3), random(2, 2, 1, 1)
    bias1, bias2, mix_bias = random(2), random(2), random(2)
    t = []
    for k in range(2):
        near = sums(x[0, k].tolist(), weight1[k, 0].tolist(), bias1[k].item(), 1)
        t.append(sums(near, weight2[k, 0].tolist(), bias2[k].item(), 2))
    wanted = torch.empty_like(x)
    for k in range(2):
        for row in range(5):
            for column in range(6):
                mixed = mix[k, 0] * t[0][row][column] + mix[k, 1] * t[1][row][column] + mix_bias[k]
                wanted[0, k, row, column] = x[0, k, row, column] * mixed.item()
    got = large_kernel_attention(x, weight1, bias1, weight2, bias2, mix, mix_bias, dilation=2)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_what_lies_between_the_convolutions_is_zero_outside_the_picture() -> None:
    x, weights = random(1, 3, 8, 10), filters(3)
    weight1, bias1, weight2, bias2, mix, mix_bias = weights
    reach = 9  # of the far filter, beyond the picture
    wide = F.conv2d(F.pad(x, [reach + 2] * 4), weight1, bias1, groups=3)  # the near result, beyond the picture too
    zeroed = F.pad(wide[:, :, reach:-reach, reach:-reach], [reach] * 4)

    def finish(near: Tensor) -> Tensor:
        return x * F.conv2d(F.conv2d(near, weight2, bias2, dilation=3, groups=3), mix, mix_bias)

    got = large_kernel_attention(x, *weights)
    torch.testing.assert_close(got, finish(zeroed), rtol=1e-12, atol=1e-12)
    assert (got - finish(wide)).abs().max() > 0.1


def test_a_pixel_is_seen_eleven_pixels_away_and_no_further() -> None:
    x, weights = random(1, 2, 27, 27), filters(2)
    touched = x.clone()
    touched[0, 0, 13, 13] += 1
    changed = (large_kernel_attention(touched, *weights) != large_kernel_attention(x, *weights)).any(1)[0]
    assert changed[2:25, 2:25].all()
    changed[2:25, 2:25] = False
    assert not changed.any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("widths", [(10,), (3, 7), (1, 4, 2, 3), (1,) * 10], ids=str)
def test_a_residual_in_parts_is_its_concatenation(
    widths: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format
) -> None:
    """To the bit, with gradients; parts may be channels of a wider picture."""
    x, near, far, mix = random(2, 10, 40, 21), random(10, 1, 5, 5), random(10, 1, 7, 7), random(10, 10, 1, 1)
    x, near, far, mix = (each.to(dtype) for each in (x, near, far, mix))
    x = x.contiguous(memory_format=layout)
    wide = random(2, 14, 40, 21).to(dtype).contiguous(memory_format=layout)
    one = wide[:, 2:12].contiguous(memory_format=layout).requires_grad_()
    parts = [each.requires_grad_() for each in wide.detach()[:, 2:12].split(widths, 1)]
    wanted = large_kernel_attention(x, near, None, far, None, mix, None, out_weight=mix, residual=one)
    got = large_kernel_attention(x, near, None, far, None, mix, None, out_weight=mix, residual=parts)
    assert got.stride() == wanted.stride()
    assert torch.equal(got, wanted)
    grad = torch.randn_like(got)
    found = torch.autograd.grad(got, parts, grad)
    assert torch.equal(torch.cat(found, 1), torch.autograd.grad(wanted, one, grad)[0])
    with torch.no_grad():
        alone = large_kernel_attention(x, near, None, far, None, mix, None, out_weight=mix, residual=tuple(parts))
    assert torch.equal(alone, got)


@pytest.mark.parametrize("groups", [2, 4])
def test_channel_shuffle_folds_into_the_1x1_before_it(groups: int) -> None:
    x, weight, bias, weights = random(2, 8, 6, 5), random(8, 8, 1, 1), random(8), filters(8)
    shuffle = torch.arange(8).view(groups, -1).t().flatten()
    plain = F.channel_shuffle(F.gelu(F.conv2d(x, weight, bias)), groups)
    folded = F.gelu(F.conv2d(x, weight[shuffle], bias[shuffle]))
    got, wanted = large_kernel_attention(folded, *weights), large_kernel_attention(plain, *weights)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_channel_shuffle_folds_into_the_1x1_after_it() -> None:
    x, weights, out, bias = random(2, 8, 6, 5), filters(8), random(8, 8, 1, 1), random(8)
    back = torch.arange(8).view(2, -1).t().flatten().argsort()
    wanted = F.conv2d(F.channel_shuffle(large_kernel_attention(x, *weights), 2), out, bias)
    got = large_kernel_attention(x, *weights, out_weight=out[:, back], out_bias=bias)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
