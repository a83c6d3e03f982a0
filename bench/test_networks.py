"""The time of every network of the registry, on plain PyTorch and on fused ops. A red test means no number."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from lightsr.networks import REGISTRY, SRNetwork, create
from lightsr.networks.cost import multiply_adds

from .timing import DEVICES, LAYOUTS, check, settings, timed

SCALE = 4
SMALL, LARGE = (45, 80), (180, 320)  # low-resolution heights and widths: of 320x180 and of 1280x720


@cache
def network(name: str, use_fused: bool) -> SRNetwork:
    torch.manual_seed(0)
    return create(name, SCALE, use_fused).fold().eval()


@cache
def is_right(name: str, use_fused: bool, device: str, layout: str) -> None:
    """Fails unless a small picture comes out as plain PyTorch has it in float64."""
    x = torch.rand(1, 3, 17, 19, generator=torch.Generator().manual_seed(0))
    net = network(name, use_fused).to(device)
    with torch.no_grad():
        got = net(x.to(device, memory_format=LAYOUTS[layout]))
        wanted = network(name, False).double()(x.double().to(device))
    network(name, False).float()
    check(got, wanted, f"{name} {'fused' if use_fused else 'plain'}")


@settings
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("use_fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("size", [SMALL, LARGE], ids=lambda size: f"1x3x{size[0]}x{size[1]}")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", REGISTRY)
def test_network(
    name: str, device: str, size: tuple[int, int], use_fused: bool, layout: str, benchmark: Any, full: bool
) -> None:
    if not full and size != SMALL:
        pytest.skip("this size runs with --full")
    is_right(name, use_fused, device, layout)
    net = network(name, use_fused).to(device)
    x = torch.rand(1, 3, *size).to(device, memory_format=LAYOUTS[layout])
    benchmark.group = f"{name} x{SCALE} {size[0]}x{size[1]} {device}"
    flops = 2 * multiply_adds(net) * size[0] * size[1] // (LARGE[0] * LARGE[1])
    benchmark.extra_info.update(flops=flops, parameters=sum(each.numel() for each in net.parameters()))
    with torch.no_grad():
        seconds = timed(benchmark, lambda: net(x), device, full=True)
    if seconds is not None:
        benchmark.extra_info["GFLOP/s"] = flops / seconds / 1e9
        benchmark.extra_info["output megapixels/s"] = size[0] * size[1] * SCALE**2 / seconds / 1e6
