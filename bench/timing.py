"""How a call is timed, and when a result is right enough for its time to be told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
LONGEST = 0.5  # seconds a call may take without --full
# How far a result may be from that in float64, as a share of its largest value.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}

settings = pytest.mark.benchmark(min_rounds=3, max_time=0.3, warmup=False, disable_gc=True)


def check(got: Tensor, wanted: Tensor, what: str) -> None:
    """Fails where `got` is off `wanted`, which is in float64: then there is no number."""
    if wanted.numel():
        error = float((got.double() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
        assert error <= TOLERANCE[got.dtype], f"{what}: off by {error:.2g} of the largest value, so it is not timed"


def timed(benchmark: Any, function: Callable[[], Any], device: str, full: bool) -> float | None:
    """Times a call and returns the median in seconds; skips one that takes long unless `full`."""

    def call() -> Any:
        out = function()
        if device == "cuda":
            torch.cuda.synchronize()
        return out

    call()  # the first one allocates and chooses algorithms
    start = time.perf_counter()
    call()
    taken = time.perf_counter() - start
    if taken > LONGEST and not full:
        pytest.skip(f"a call takes {taken:.1f} s; run it with --full")
    benchmark(call)
    return float(benchmark.stats["median"]) if benchmark.stats else None  # None under --benchmark-disable
