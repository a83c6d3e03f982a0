"""The time of every network of the registry, on plain PyTorch and on fused ops. A red test means no number."""

from __future__ import annotations

import copy
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
    exact = copy.deepcopy(network(name, False)).to(device, torch.float64)
    with torch.no_grad():
        got = net(x.to(device, memory_format=LAYOUTS[layout]))
        wanted = exact(x.to(device, torch.float64))
    check(got, wanted, f"{name} {'fused' if use_fused else 'plain'}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every network, plain and fused, in both layouts; with --full also the large size."""
    sizes = [SMALL, LARGE] if metafunc.config.getoption("--full", default=False) else [SMALL]
    metafunc.parametrize("layout", LAYOUTS)
    metafunc.parametrize("use_fused", [False, True], ids=["plain", "fused"])
    metafunc.parametrize("size", sizes, ids=lambda size: f"1x3x{size[0]}x{size[1]}")
    metafunc.parametrize("device", DEVICES)
    metafunc.parametrize("name", REGISTRY)


@settings
def test_network(name: str, device: str, size: tuple[int, int], use_fused: bool, layout: str, benchmark: Any) -> None:
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
