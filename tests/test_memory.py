"""Memory of results on the CPU that later ones get: never two at once, and nobody can tell."""

from __future__ import annotations

import copy
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from op_cases import Runner, change, each_runner, filled, tensors

import lightsr_kernels
from lightsr_kernels import memory

CPU = torch.device("cpu")
LARGE = (1, 8, 256, 256)  # 2 MB of float32


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[memory.Pool]:
    """A pool of the test's own, which also takes the smallest of results."""
    own = memory.Pool()
    monkeypatch.setattr(memory, "_pool", own)
    monkeypatch.setattr(memory, "SMALL", 1)
    yield own


def large(shape: tuple[int, ...] = LARGE, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return memory.empty(shape, dtype, CPU)


def test_the_next_result_has_the_memory_of_one_that_is_gone(pool: memory.Pool) -> None:
    first = large()
    place = first.data_ptr()
    assert pool.held() == (first.nbytes, 0)
    other = large()
    assert other.data_ptr() != place
    del first
    assert pool.held() == (other.nbytes, other.nbytes)
    assert large(dtype=torch.bfloat16).data_ptr() != place  # half the size
    assert large().data_ptr() == place


def test_what_still_sees_a_result_keeps_its_memory(pool: memory.Pool) -> None:
    seen = [large()[:, 1], large().numpy(), large().untyped_storage(), large().view(torch.int32).mT, large().detach()]
    idle = pool.held()[1]
    assert idle == 0
    del seen
    assert pool.held()[0] == 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_tensors_are_as_torch_makes_them(pool: memory.Pool, dtype: torch.dtype, layout: torch.memory_format) -> None:
    got = memory.empty((2, 3, 5, 7), dtype, CPU, layout)
    wanted = torch.empty((2, 3, 5, 7), dtype=dtype, memory_format=layout)
    assert pool.held()[0] == wanted.nbytes
    assert (got.shape, got.stride(), got.dtype, got._base) == (wanted.shape, wanted.stride(), dtype, None)
    assert got.data_ptr() % memory.LINE == 0
    assert got.untyped_storage().nbytes() == wanted.untyped_storage().nbytes()
    got.fill_(3)
    file = io.BytesIO()
    torch.save(got, file)
    file.seek(0)
    for other in (torch.load(file), copy.deepcopy(got), got.share_memory_()):
        assert torch.equal(other, got)
    assert memory.empty((0, 3, 5, 7), dtype, CPU, layout).shape == (0, 3, 5, 7)


def test_results_can_be_changed_in_place_and_differentiated(pool: memory.Pool) -> None:
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    result = lightsr_kernels.depthwise_conv(x, torch.ones(2, 1, 3, 3))
    result.mul_(2).sum().backward()
    assert x.grad is not None
    assert x.grad[0, 0, 4, 4] == 18
    with torch.inference_mode():
        assert lightsr_kernels.depthwise_conv(x, torch.ones(2, 1, 3, 3)).is_inference()


def test_idle_memory_is_bounded(pool: memory.Pool) -> None:
    for side in range(64, 320, 8):  # as of a folder of pictures that all differ
        both = large((1, 4, side, side)), large((1, 4, side, side))
        most = sum(each.nbytes for each in both)
        del both
        assert sum(pool.held()) <= memory.SPARE * most
    lightsr_kernels.release_memory()
    assert pool.held() == (0, 0)


def test_a_large_picture_is_forgotten(pool: memory.Pool) -> None:
    large((1, 64, 256, 256))  # 16 MB, once
    for turn in range(60):
        kept: list[torch.Tensor] = []
        kept += [large((1, 8, 64, 128 + 32 * turn)) for _ in range(2)]
    most = sum(each.nbytes for each in kept)
    del kept
    assert sum(pool.held()) <= memory.SPARE * most
    kept = [large() for _ in range(20)]
    del kept
    lightsr_kernels.release_memory()
    first, second = large(), large()
    del second
    assert sum(pool.held()) == 2 * first.nbytes


def test_deterministic_algorithms_have_torchs_own_memory(pool: memory.Pool) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        large()
    finally:
        torch.use_deterministic_algorithms(False)
    assert pool.held() == (0, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_does_not_wait_for_a_thread_that_it_has_not() -> None:
    code = "import os, torch; from lightsr_kernels import memory; memory._pool._taking.acquire(); child = os.fork()\n"
    code += "if not child: memory.empty((1 << 20,), torch.float32, torch.device('cpu')); os._exit(7)\n"
    code += "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "7"


def test_idle_memory_is_given_back_where_there_is_no_other(pool: memory.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    del (first := [large()])[:]
    assert pool.held()[1] > 0
    make = np.empty

    def scarce(size: int, dtype: Any) -> Any:
        if pool.held()[1]:
            raise MemoryError
        return make(size, dtype=dtype)

    monkeypatch.setattr(memory.np, "empty", scarce)
    first.append(large((1, 8, 512, 256)))
    assert pool.held() == (first[0].nbytes, 0)


def test_threads_never_share_a_result(pool: memory.Pool) -> None:
    def work(number: int) -> bool:
        kept: list[torch.Tensor] = []
        for turn in range(300):
            value = large((1, 1, 16, 16 + turn % 3)).fill_(number)
            kept = [*kept[-3:], value]
            if any(int(each.min()) != number or int(each.max()) != number for each in kept):
                return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))
    assert pool.held()[0] == 0


@each_runner
def test_ops_need_nothing_of_what_memory_holds(run: Runner, pool: memory.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results and gradients in memory full of NaN are those in memory of torch's own."""
    if run.device != "cpu":
        pytest.skip("this memory is the CPU's")

    def everything(args: Any) -> list[torch.Tensor]:
        own = change(args, lambda each: each.detach().requires_grad_())
        out = run(*own)
        grads = torch.autograd.grad(
            sum(each.square().sum() for each in out), tensors(own), allow_unused=True, materialize_grads=True
        )
        return [*(each.detach() for each in out), *grads]

    leases, lease = 0, pool.lease  # which fills with NaN, as in all tests

    def counted(size: int) -> Any:
        nonlocal leases
        leases += 1
        return lease(size)

    monkeypatch.setattr(pool, "lease", counted)
    for sample in list(filled(run.samples()))[:2]:
        with monkeypatch.context() as patch:
            patch.setattr(memory, "SMALL", 1 << 40)
            wanted = everything(sample.args)
        got = everything(sample.args)
        assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    assert leases or run.backend in ("reference", "operator")
