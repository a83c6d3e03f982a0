"""Each network against everything else that runs it, case by case, in one run. A red test means no number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from lightsr.networks import REGISTRY

from .comparison import compare
from .network_case import NetworkCase
from .replay import CLOCK, replay
from .report import keep
from .timing import DEVICES

NETWORKS = [name for name in REGISTRY if name != "bicubic"]
SMALL, LARGE = (1, 3, 180, 320), (1, 3, 360, 640)  # results of 1280x720 and of 2560x1440
PATCHES = (16, 3, 48, 48)  # a batch as in training
HALF = ("float16", "bfloat16")


def usual() -> Iterator[NetworkCase]:
    """Quick ones: IDSA-Net on half the rows and columns, and batches of two."""
    for name in NETWORKS:
        yield NetworkCase(name, (1, 3, 90, 160) if name == "idsa_net" else SMALL, "inference")
        yield NetworkCase(name, (2, *PATCHES[1:]), "training")


def every(device: str) -> Iterator[NetworkCase]:
    dtypes = ("float32", *HALF) if device == "cuda" else ("float32",)
    for name in NETWORKS:
        yield from (NetworkCase(name, shape, "inference", dtype, True) for shape in (SMALL, LARGE) for dtype in dtypes)
        yield from (NetworkCase(name, PATCHES, "training", dtype, True) for dtype in dtypes)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    full = metafunc.config.getoption("--full", default=False)
    cases = [(case, device) for device in DEVICES for case in (every(device) if full else usual())]
    metafunc.parametrize(("case", "device"), cases, ids=[f"{case.name}-{device}" for case, device in cases])


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    """Float32 that is float32 on a GPU too, and the fastest of cuDNN's algorithms."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = False, False, True
    yield
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before


@pytest.mark.benchmark(timer=CLOCK, disable_gc=True)
def test_networks(case: NetworkCase, device: str, full: bool, benchmark: Any, request: pytest.FixtureRequest) -> None:
    found = compare(case, device, seconds=3.0 if full else 1.0, longest=30.0 if full else 2.0, least=5 if full else 3)
    keep(found, request.config)
    replay(benchmark, found, f"{case.network} x4 {case.way} {case.dtype} {device}")
