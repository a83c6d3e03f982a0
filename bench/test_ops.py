"""The time of every op on every backend usable here, at the sizes its OpSpec names. A red test means no number."""

from __future__ import annotations

from functools import cache
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

import lightsr_kernels
from lightsr_kernels.dispatch import BACKENDS, call, why_not
from lightsr_kernels.spec import SPECS, Make, OpSpec

from .timing import DEVICES, LAYOUTS, check, settings, timed

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Sizes(Make):
    """Makes tensors that have shapes and no values, for the names of the samples."""

    def __call__(self, *shape: int, scale: float = 1.0, offset: float = 0.0) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device="meta")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The first sample of each op on every backend and layout; with --full every sample, dtype, and the gradients."""
    full = metafunc.config.getoption("--full", default=False)
    calls = [
        pytest.param(spec, index, device, backend, id=f"{spec.name}-{sample.name}-{device}-{backend}")
        for spec in SPECS.values()
        for index, sample in enumerate(islice(spec.bench(Sizes()), None if full else 1))
        for device in DEVICES
        for backend in BACKENDS
        if why_not(backend, spec, device) is None
    ]
    metafunc.parametrize("way", ["forward", "forward+backward"] if full else ["forward"])
    metafunc.parametrize("dtype", DTYPES if full else DTYPES[:1], ids=lambda dtype: str(dtype).removeprefix("torch."))
    metafunc.parametrize("layout", LAYOUTS)
    metafunc.parametrize(("spec", "index", "device", "backend"), calls)


def changed(args: Any, dtype: torch.dtype, layout: str) -> Any:
    def change(each: Any) -> Any:
        if not isinstance(each, Tensor):
            return each
        return each.to(dtype, memory_format=LAYOUTS[layout]) if each.dim() == 4 else each.to(dtype)

    return tree_map(change, args)


def outputs(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


@cache
def is_right(spec: OpSpec, device: str, backend: str, dtype: torch.dtype, layout: str) -> None:
    """Fails unless the small samples come out as the reference has them in float64."""
    for sample in spec.samples(Make(dtype, device)):
        args = changed(sample.args, dtype, layout)
        with lightsr_kernels.backend(backend):
            got = outputs(call(spec, *args))
        wanted = outputs(spec.reference(*changed(args, torch.float64, layout)))
        for one, other in zip(got, wanted, strict=True):
            check(one, other, f"{spec.name} {sample.name} on {backend}")


@settings
def test_op(
    spec: OpSpec,
    index: int,
    device: str,
    backend: str,
    layout: str,
    dtype: torch.dtype,
    way: str,
    benchmark: Any,
    full: bool,
) -> None:
    is_right(spec, device, backend, dtype, layout)
    sample = next(islice(spec.bench(Make(torch.float32, device)), index, None))
    args = changed(sample.args, dtype, layout)
    benchmark.group = f"{spec.name} {sample.name} {device} {way}"
    cost = spec.cost(*args)
    benchmark.extra_info.update(bytes=cost.bytes, flops=cost.flops)
    with lightsr_kernels.backend(backend):
        if way == "forward":
            with torch.no_grad():
                seconds = timed(benchmark, lambda: call(spec, *args), device, full)
            if seconds is not None:  # of the gradients' cost a spec says nothing
                benchmark.extra_info["GFLOP/s"] = cost.flops / seconds / 1e9
                benchmark.extra_info["GB/s"] = cost.bytes / seconds / 1e9
        else:
            inputs = [each.requires_grad_() for each in tree_flatten(args)[0] if isinstance(each, Tensor)]
            grads = [torch.ones_like(each) for each in outputs(call(spec, *args))]
            timed(benchmark, lambda: torch.autograd.grad(outputs(call(spec, *args)), inputs, grads), device, full)
