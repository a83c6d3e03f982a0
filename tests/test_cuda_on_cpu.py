"""The harness that runs device code on the CPU: right kernels pass, and each kind of wrong one is caught."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from cuda_on_cpu.harness import At, Harness, KernelError, Result, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
FLOAT = torch.float32
TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
EACH_TYPE = pytest.mark.parametrize("name", TYPES)


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    harness = Harness("tests/cuda_on_cpu/entry_harness.cpp")
    yield harness
    harness.close()


def test_a_barrier_makes_the_order_of_threads_irrelevant(harness: Harness) -> None:
    x = torch.randn(64)
    for seed in range(5):
        (found,) = harness.call("neighbours", 1, x, Result([64], FLOAT), seed=seed)
        assert torch.equal(found, x.roll(-1))


def test_a_missing_barrier_shows(harness: Harness) -> None:
    x = torch.randn(64)
    found = [harness.call("neighbours", 0, x, Result([64], FLOAT), seed=seed)[0] for seed in range(3)]
    assert any(each.isnan().any() for each in found)
    assert not torch.equal(found[0].nan_to_num(), found[1].nan_to_num())


def test_shared_memory_ends_where_the_launch_said(harness: Harness) -> None:
    (found,) = harness.call("shared_overrun", 31, Result([32], FLOAT))
    assert found[31] == 2
    with pytest.raises(KernelError, match=r"heap-buffer-overflow[\s\S]*shared_overrun"):
        harness.call("shared_overrun", 32, Result([32], FLOAT))


def test_shared_memory_starts_as_nan(harness: Harness) -> None:
    assert harness.call("unwritten_shared", Result([32], FLOAT))[0].isnan().all()


@pytest.mark.parametrize("at", [1, -1, 300, -300])
def test_a_write_beside_a_tensor_is_caught(harness: Harness, at: int) -> None:
    assert harness.call("global_overrun", 0, Result([1], FLOAT))[0] == 1
    with pytest.raises(KernelError, match=r"global_overrun"):
        harness.call("global_overrun", at, Result([1], FLOAT))


def test_warp_shuffles_need_every_lane(harness: Harness) -> None:
    x = torch.randn(32)
    (found,) = harness.call("lone_shuffle", 32, x, Result([32], FLOAT))
    assert torch.equal(found, x + x.view(16, 2).flip(1).flatten())
    with pytest.raises(KernelError, match=r"lanes? of its warp"):
        harness.call("lone_shuffle", 31, x, Result([32], FLOAT))


def test_block_barriers_need_every_thread(harness: Harness) -> None:
    assert harness.call("lone_barrier", 64, Result([64], FLOAT))[0].eq(1).all()
    for threads in (63, 32):
        with pytest.raises(KernelError, match=r"barrier|had ended"):
            harness.call("lone_barrier", threads, Result([64], FLOAT))


def test_matrix_loads_deal_out_rows_and_columns(harness: Harness) -> None:
    x = torch.arange(256, dtype=torch.int16)
    (found,) = harness.call("load_rows", 0, x, Result([32, 2, 4], torch.int32))
    matrices = x.view(4, 8, 8)
    for turned, expected in enumerate((matrices, matrices.transpose(1, 2))):
        pairs = expected.reshape(4, 32, 2).transpose(0, 1).contiguous().view(torch.int32)[..., 0]
        assert torch.equal(found[:, turned], pairs)
    with pytest.raises(KernelError, match=r"no multiple of 16"):
        harness.call("load_rows", 1, x, Result([32, 2, 4], torch.int32))
    with pytest.raises(KernelError, match=r"lies outside|overflow"):
        harness.call("load_rows", 512, x, Result([32, 2, 4], torch.int32))


@EACH_TYPE
@pytest.mark.parametrize("depth", [8, 16])
def test_tensor_cores_multiply(harness: Harness, name: str, depth: int) -> None:
    a = torch.randint(-8, 9, (16, depth)).to(TYPES[name])
    b = torch.randint(-8, 9, (depth, 8)).to(TYPES[name])
    (found,) = harness.call(f"multiply_{name}", depth, a, b, Result([16, 8], FLOAT))
    assert torch.equal(found, a.float() @ b.float())


def test_asynchronous_copies_arrive_when_waited_for(harness: Harness) -> None:
    x = torch.randn(256)
    expected = x.clone()
    expected[128:132] = 0  # the one that is not real
    assert torch.equal(harness.call("copy_through", 1, 0, x, Result([256], FLOAT))[0], expected)
    assert harness.call("copy_through", 0, 0, x, Result([256], FLOAT))[0].isnan().any()
    with pytest.raises(KernelError, match=r"shared address is no multiple of 16"):
        harness.call("copy_through", 1, 1, x, Result([256], FLOAT))
    with pytest.raises(KernelError, match=r"global address is no multiple of 16"):
        harness.call("copy_through", 1, 0, At(x, 4), Result([256], FLOAT))


@EACH_TYPE
def test_numbers_round_as_in_torch(harness: Harness, name: str) -> None:
    special = [
        0.0,
        -0.0,
        float("inf"),
        -float("inf"),
        65504,
        65519.9,
        65520,
        6e-8,
        2.98e-8,
        2.99e-8,
        6.1e-5,
        3.3e38,
        3.4e38,
    ]
    x = torch.cat([torch.randn(4000) * 10.0 ** torch.randint(-9, 6, (4000,)), torch.tensor([*special, float("nan")])])
    narrow, wide = harness.call(f"convert_{name}", len(x), x, Result(x.shape, TYPES[name]), Result(x.shape, FLOAT))
    expected = x.to(TYPES[name])
    assert torch.equal(narrow[:-1].view(torch.int16), expected[:-1].view(torch.int16))
    assert narrow[-1].isnan() and wide[-1].isnan()
    assert torch.equal(wide[:-1], expected[:-1].float())


def test_divisors_divide(harness: Harness) -> None:
    numbers = [0, 1, 2, 3, 5, 7, 10, 63, 64, 65, 641, 65535, 65536, 2**24 + 1, 2**30 + 1, 2**31 - 1]
    wide = [2**31, 2**31 + 1, 2**32, 2**33 - 1, 10**12 + 39]
    for by in (*numbers[1:], *wide):
        near = [by * factor + more for factor in (1, 2, 1000) for more in (-1, 0, 1)]
        for number in (*numbers, *wide, *near):
            (found,) = harness.call("divide", number, by, Result((2,), torch.int64))
            assert found.tolist() == list(divmod(number, by)), (number, by)
