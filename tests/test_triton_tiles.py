"""Every tile that the Triton kernels may take, not only those chosen: whole numbers, so that each bit is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightsr_kernels.depthwise_conv.reference import reference
from lightsr_kernels.spec import Make

pytest.importorskip("triton")
from triton import knobs

from lightsr_kernels.depthwise_conv import triton
from lightsr_kernels.depthwise_conv.triton_configs import CONFIGS, WEIGHT_CONFIGS, Config
from lightsr_kernels.large_kernel_attention import triton as attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and not knobs.runtime.interpret:
    pytest.skip("no GPU, and TRITON_INTERPRET is not 1", allow_module_level=True)

# One taller than what is taken at once, and one with both dilations.
FILTERS = pytest.mark.parametrize(("size", "dilation"), [((15, 1), [1, 1]), ((3, 5), [2, 3])], ids=["15x1", "3x5-d2x3"])


def named(config: Config) -> str:
    layout = "channels-last" if config.channels_last else "contiguous"
    return f"{layout}-{config.rows}x{config.columns}x{config.size}-{config.taps}taps-{config.warps}warps"


def pictures(make: Make, config: Config, count: int) -> list[Tensor]:
    """Pictures a little larger than one tile, so that there are several, the last ones partly beyond the edge."""
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    channels, height = config.channels + 1, config.rows * config.bands + 1
    return [make(1, channels, height, config.columns + 3).contiguous(memory_format=layout) for _ in range(count)]


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: list[int]) -> Tensor:
    return reference(x, weight, bias, dilation, "none", 0.0, None, None)


@pytest.mark.parametrize("config", CONFIGS, ids=named)
@FILTERS
def test_every_tile_convolves(config: Config, size: tuple[int, int], dilation: list[int]) -> None:
    make = Make(device=DEVICE, integers=True)
    (x,) = pictures(make, config, 1)
    weight, bias = make(x.shape[1], 1, *size), make(x.shape[1])
    flip = size == (3, 5)
    got = triton.forward(x, weight, bias, dilation, "none", 0.0, None, None, flip, config)
    weight = weight.flip(2, 3) if flip else weight
    assert torch.equal(got, plain(x.double(), weight.double(), bias.double(), dilation).float())
    assert got.stride() == x.stride()


@pytest.mark.parametrize("config", WEIGHT_CONFIGS, ids=named)
@FILTERS
def test_every_tile_sums_weight_gradients(config: Config, size: tuple[int, int], dilation: list[int]) -> None:
    make = Make(device=DEVICE, integers=True)
    x, grad = pictures(make, config, 2)
    weight, bias = (each.double().requires_grad_() for each in (make(x.shape[1], 1, *size), make(x.shape[1])))
    wanted = torch.autograd.grad(plain(x.double(), weight, bias, dilation), (weight, bias), grad.double())
    got = triton.weight_gradients(grad, x, size, dilation, True, config)
    assert all(torch.equal(one, other.float()) for one, other in zip(got, wanted, strict=True))


@pytest.mark.parametrize("config", attention.CONFIGS, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("channels", [3, 40, 70])  # 70 are too many for one tile
def test_every_tile_mixes(config: Any, layout: torch.memory_format, channels: int) -> None:
    make = Make(device=DEVICE, integers=True)
    x, gate, residual = (make(2, channels, 5, 8).contiguous(memory_format=layout) for _ in range(3))
    (mix, out), bias, out_bias = (make(channels, channels, 1, 1) for _ in range(2)), make(channels), make(channels)
    for ends in ((None, None, residual), (out, None, None), (out, out_bias, residual)):
        wanted = gate.double() * F.conv2d(x.double(), mix.double(), bias.double())
        if ends[0] is not None:
            wanted = F.conv2d(wanted, out.double(), None if ends[1] is None else out_bias.double())
        if ends[2] is not None:
            wanted = wanted + residual.double()
        got = attention.mix(x, gate, mix, bias, *ends, config=config)
        assert torch.equal(got, wanted.float())
        assert got.stride() == x.stride()
