"""depthwise_conv against everything else that computes it, case by case, in one run. A red test means no number."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from .case import DIRECTIONS, Case
from .comparison import compare
from .replay import CLOCK, replay
from .report import keep
from .timing import DEVICES

PICTURE = {"cpu": (1, 64, 180, 320), "cuda": (1, 64, 360, 640)}
PATCHES = (8, 64, 48, 48)  # a batch as in training
ODD = range(3, 32, 2)


def usual(device: str) -> Iterator[Case]:
    """A few of every kind, about a minute and a half on two cores."""
    shape = PICTURE[device]
    yield from (Case(shape, k, 1, direction, "float32") for k, direction in product((3, 7, 31), DIRECTIONS))
    yield from (Case(PATCHES, 7, 1, direction, "float32") for direction in DIRECTIONS)
    yield from (Case(shape, *each, "forward", "float32") for each in ((13, 1), (7, 3)))
    yield from (Case(shape, k, 1, "forward", "bfloat16") for k in (7, 31))
    yield Case(shape, 7, 1, "backward-weight", "bfloat16")
    yield Case(shape, 7, 1, "forward", "float16")


def every(device: str) -> Iterator[Case]:
    """All odd k from 3 to 31 and dilations from 1 to 3; and what only `usual` has."""
    for dtype, dilation, k, direction in product(("float32", "bfloat16", "float16"), (1, 2, 3), ODD, DIRECTIONS):
        yield Case(PICTURE[device], k, dilation, direction, dtype)
    for k, direction in product((7, 31), DIRECTIONS):
        yield Case(PATCHES, k, 1, direction, "float32")
        yield Case(PICTURE[device], k, 1, direction, "float64")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    full = metafunc.config.getoption("--full", default=False)
    cases = [(case, device) for device in DEVICES for case in (every if full else usual)(device)]
    metafunc.parametrize(("case", "device"), cases, ids=[f"{case.name}-{device}" for case, device in cases])


@pytest.mark.benchmark(timer=CLOCK, disable_gc=True)
def test_depthwise(case: Case, device: str, full: bool, benchmark: Any, request: pytest.FixtureRequest) -> None:
    found = compare(case, device, seconds=3.0 if full else 0.5, longest=4.0 if full else 0.5)
    keep(found, request.config)
    replay(benchmark, found, f"depthwise_conv {case.direction} {case.dtype} {device}")
