"""The fused ops against everything a user would run instead, case by case, in one run. A red test means no number."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from lightsr_kernels.spec import SPECS

from .comparison import compare
from .op_case import WAYS, OpCase, sample_names
from .replay import CLOCK, replay
from .report import keep
from .timing import DEVICES

APART = ("depthwise_conv",)  # which has a bench of its own
DTYPES = ("float32", "bfloat16")


def usual() -> Iterator[OpCase]:
    """The first large picture of each op, result and gradients in float32."""
    for op, spec in SPECS.items():
        if spec.backends == ("reference",) or op in APART:
            continue
        large = [sample for sample in sample_names(spec) if "180x320" in sample or "184x320" in sample]
        yield from (OpCase(op, sample, way, "float32") for sample in large[:1] for way in WAYS)


def every() -> Iterator[OpCase]:
    for op, spec in SPECS.items():
        if spec.backends != ("reference",) and op not in APART:
            yield from (OpCase(op, *each) for each in product(sample_names(spec), WAYS, (*DTYPES, "float16")))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    full = metafunc.config.getoption("--full", default=False)
    cases = [(case, device) for device in DEVICES for case in (every if full else usual)()]
    metafunc.parametrize(("case", "device"), cases, ids=[f"{case.name}-{device}" for case, device in cases])


@pytest.mark.benchmark(timer=CLOCK, disable_gc=True)
def test_fused(case: OpCase, device: str, full: bool, benchmark: Any, request: pytest.FixtureRequest) -> None:
    found = compare(case, device, seconds=3.0 if full else 0.5, longest=4.0 if full else 1.0)
    keep(found, request.config)
    replay(benchmark, found, f"{case.op} {case.way} {case.dtype} {device}")
