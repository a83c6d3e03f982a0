"""Results that are written past the caches (csrc/common/cache.h): the same to the bit as those that are not.

The tests of the CPU kernels have everything go past them at one level of SIMD; here are whole calls, as they are built.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lightsr_kernels as ops
from lightsr_kernels.dispatch import why_not
from lightsr_kernels.spec import SPECS

SIZE = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
CHANNELS, SIDE = 48, (96, 112)
MOST = 1 << 27  # bytes that this test makes a result of
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def least_bytes() -> int:
    """From how many bytes on a result goes past the caches: a quarter of the last one."""
    found = re.match(r"(\d+)K", SIZE.read_text()) if SIZE.is_file() else None
    return (int(found[1]) if found else 32768) * 1024 // 4


def filters(x: Tensor, *shape: int) -> Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(1)) / shape[1]).to(x.dtype)


def split(x: Tensor, **more: Tensor) -> Tensor:
    return torch.cat(ops.split_distillation(x, 16, weight=filters(x, 16, 16, 1, 1), residual=x, **more), 1)


def large_kernel(x: Tensor) -> Tensor:
    near, far, mix = filters(x, CHANNELS, 1, 5, 5), filters(x, CHANNELS, 1, 7, 7), filters(x, CHANNELS, CHANNELS, 1, 1)
    return ops.large_kernel_attention(x, near, None, far, None, mix, None)


CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "depthwise_conv": lambda x: ops.depthwise_conv(x, filters(x, CHANNELS, 1, 7, 7)),
    "depthwise_conv gated": lambda x: ops.depthwise_conv(x, filters(x, CHANNELS, 1, 13, 13), activation="gelu", gate=x),
    "depthwise_conv of whole lines": lambda x: ops.depthwise_conv(
        torch.cat([x, x[:, :16]], 1), filters(x, CHANNELS + 16, 1, 3, 3)
    ),
    "dense_conv": lambda x: ops.dense_conv(x, filters(x, CHANNELS, CHANNELS, 3, 3), residual=x),
    "instance_norm": ops.instance_norm,
    "pixel_attention": lambda x: ops.pixel_attention(x, filters(x, CHANNELS, CHANNELS, 1, 1)),
    "distillation_fusion": lambda x: ops.distillation_fusion([x], filters(x, CHANNELS, CHANNELS, 1, 1), residual=x),
    "split_distillation": split,
    "split_distillation convolved": lambda x: split(x, convolution=filters(x, CHANNELS, CHANNELS, 3, 3)),
    "large_kernel_attention": large_kernel,
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CALLS)
def test_size_of_the_result_changes_no_bit(name: str, layout: str, dtype: torch.dtype) -> None:
    call = CALLS[name]
    if reason := why_not("cpu", SPECS[name.split(maxsplit=1)[0]], "cpu"):
        pytest.skip(reason)
    one = torch.empty(1, CHANNELS, *SIDE, dtype=dtype).nbytes
    pictures = least_bytes() // one + 2
    if pictures * one > MOST or one > least_bytes():
        pytest.skip(f"results go past this machine's caches from {least_bytes()} bytes on")
    x = torch.randn(pictures, CHANNELS, *SIDE, generator=torch.Generator().manual_seed(0))
    x = x.to(dtype).to(memory_format=LAYOUTS[layout])

    def run(x: Tensor) -> list[Any]:
        own = x.detach().requires_grad_()
        out = call(own)
        return [out.detach(), *torch.autograd.grad(out, own, out.detach())]

    with ops.backend("cpu"):
        together, apart = run(x), [run(x[i : i + 1]) for i in range(pictures)]
    for got, parts in zip(together, zip(*apart, strict=True), strict=True):
        assert torch.equal(got, torch.cat(parts))
