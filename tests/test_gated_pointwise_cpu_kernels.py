"""The CPU passes of gated_pointwise beyond the matrix of all ops: many blocks, threads, what spreads where."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import lightsr_kernels
from lightsr_kernels.dispatch import call, why_not
from lightsr_kernels.gated_pointwise.samples import shapes
from lightsr_kernels.spec import SPECS, Make

SPEC = SPECS["gated_pointwise"]
pytestmark = pytest.mark.skipif(why_not("cpu", SPEC, "cpu") is not None, reason="no CPU kernels here")
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def arguments(
    n: int, c: int, h: int, w: int, e: int, p: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, ...]:
    make = Make(dtype, seed=seed)
    weights = [make(*shape, scale=1.5 / max(1, shape[-1] * len(shape)) ** 0.5) for shape in shapes(c, e, p).values()]
    return (make(n, c, h, w), *weights)


def on(backend: str, args: tuple[Tensor, ...], layout: torch.memory_format) -> Tensor:
    with lightsr_kernels.backend(backend), torch.no_grad():
        result: Tensor = call(SPEC, args[0].contiguous(memory_format=layout), *args[1:], 1e-5)
    return result


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "channels_last"])
@pytest.mark.parametrize("size", [(2, 52, 37, 51, 156, 16), (1, 19, 64, 80, 33, 17), (1, 3, 15, 400, 5, 1)], ids=str)
def test_pictures_of_many_blocks(size: tuple[int, ...], layout: torch.memory_format) -> None:
    args = arguments(*size)  # type: ignore[arg-type]
    torch.testing.assert_close(on("cpu", args, layout), on("reference", args, layout), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype, layout: torch.memory_format) -> None:
    args, threads = arguments(1, 20, 40, 70, 40, 8, dtype), torch.get_num_threads()
    found = []
    try:
        for many in (1, 2, 3):
            torch.set_num_threads(many)
            found.append(on("cpu", args, layout))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "channels_last"])
def test_a_pixel_that_is_no_number_is_where_the_reference_has_it(layout: torch.memory_format) -> None:
    args = arguments(2, 6, 30, 34, 12, 4)
    args[0][1, 2, 11, 13] = torch.nan
    wanted, got = on("reference", args, layout), on("cpu", args, layout)
    assert wanted[1].isnan().any() and not wanted[0].isnan().any()
    assert torch.equal(got.isnan(), wanted.isnan())


def test_the_coarse_gate_is_enlarged_as_by_pytorch() -> None:
    """With all else off, the result is the enlarged map alone."""
    n, c, h, w, p = 1, 1, 41, 63, 1
    args = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes(c, 1, p).items()}
    x = torch.randn(n, c, h, w, dtype=torch.float64)
    # One channel is normed to its offset; c = 1 everywhere, the gate's middle is the pool's bias pattern by the border.
    args["bias_c"] += 1
    args["entry_bias"] += 1
    args["stride_weight"] += 0.1
    args["pool_weight"] += torch.randn(1, 1, 3, 3, dtype=torch.float64)
    args["exit_weight"] += 1
    args["out_weight"] += 1
    coarse = F.max_pool2d(torch.full((1, 1, (h - 1) // 2, (w - 1) // 2), 0.9, dtype=torch.float64), 7, stride=3)
    coarse = F.conv2d(coarse, args["pool_weight"], padding=1)
    wanted = F.interpolate(coarse, size=(h, w), mode="bilinear").sigmoid()
    assert wanted.std() > 1e-3
    got = on("cpu", (x, *args.values()), torch.contiguous_format)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
