"""instance_norm against torch's own, and where torch's own refuses, breaks the layout or loses digits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightsr_kernels import instance_norm
from lightsr_kernels.spec import Make


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("shape", [(2, 6, 9, 7), (1, 5, 1, 11), (3, 1, 4, 5)], ids=str)
def test_equals_torch(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    make = Make(torch.float64)
    x, weight, bias = make(*shape, offset=0.5).contiguous(memory_format=layout), make(shape[1]), make(shape[1])
    for given in ((None, None), (weight, None), (None, bias), (weight, bias)):
        for eps in (1e-5, 0.1):
            expected = F.instance_norm(x, weight=given[0], bias=given[1], eps=eps)
            out = instance_norm(x, *given, eps=eps)
            torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
            assert out.stride() == x.stride()


def test_equals_the_module() -> None:
    make = Make(torch.float64)
    module = nn.InstanceNorm2d(4, affine=True, dtype=torch.float64)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(make(4))
    x = make(2, 4, 6, 5)
    torch.testing.assert_close(instance_norm(x, module.weight, module.bias), module(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (2, 3, 6, 5)], ids=str)
def test_a_plane_of_one_value_becomes_the_bias(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    make = Make(dtype)
    x = torch.full(shape, 0.75, dtype=dtype, requires_grad=True)
    weight, bias = make(3).requires_grad_(), make(3)
    out = instance_norm(x, weight, bias)
    assert torch.equal(out, bias[:, None, None].expand(shape))
    for grad in torch.autograd.grad(out.float().square().sum(), (x, weight)):
        assert grad.isfinite().all()


def test_large_mean_keeps_the_deviation() -> None:
    """Mean 1e4, deviation 1: E[x^2] - E[x]^2 in float32 would be off by several."""
    x = Make(torch.float32, seed=1)(2, 3, 40, 50, offset=1e4)
    naive = (x * x).mean((2, 3)) - x.mean((2, 3)) ** 2
    assert (naive - 1).abs().max() > 0.5
    torch.testing.assert_close(instance_norm(x).double(), F.instance_norm(x.double()), rtol=0, atol=1e-5)


def test_16_bits_are_rounded_once() -> None:
    x = Make(torch.float16, seed=2)(1, 3, 64, 64, scale=400.0, offset=300.0)  # squares are beyond float16
    expected = F.instance_norm(x.double())
    torch.testing.assert_close(
        instance_norm(x).double(), expected, rtol=0.51 * torch.finfo(torch.float16).eps, atol=1e-6
    )


def test_under_autocast_parameters_keep_their_digits() -> None:
    """As behind a convolution in bfloat16: the picture has 16 bits, the parameters 32, the result 16."""
    make = Make(torch.float32)
    x, weight, bias = make(2, 3, 9, 7).bfloat16(), make(3, offset=1.0), make(3)
    with torch.autocast("cpu", torch.bfloat16):
        out = instance_norm(x, weight, bias)
    wanted = F.instance_norm(x.double(), weight=weight.double(), bias=bias.double())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), wanted, rtol=0.51 * torch.finfo(torch.bfloat16).eps, atol=1e-6)
