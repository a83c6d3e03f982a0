"""Recordings: the same bits again for other numbers, no memory shared by what lives at once, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import lightsr_kernels as ops
from lightsr_kernels.memory import LINE
from lightsr_kernels.memory_plan import Lifetime, placed
from lightsr_kernels.recorder import NotRecordableError
from lightsr_kernels.recording import Recording, record

SPANS = st.tuples(st.integers(0, 12), st.integers(0, 6), st.integers(0, 300))


@given(st.lists(SPANS, max_size=14))
def test_what_lives_at_once_lies_apart(spans: list[tuple[int, int, int]]) -> None:
    lifetimes = [Lifetime(first, first + lasts, size) for first, lasts, size in spans]
    places, total = placed(lifetimes)
    for at, (place, own) in enumerate(zip(places, lifetimes, strict=True)):
        assert place % LINE == 0 and place + own.size <= total
        for other, one in list(zip(places, lifetimes, strict=True))[:at]:
            together = own.first <= one.last and one.first <= own.last
            assert not together or place >= other + one.size or other >= place + own.size


def test_memory_is_used_again() -> None:
    chain = [Lifetime(step, step + 1, 1000) for step in range(20)]
    assert placed(chain)[1] == 2 * 1024


def both(function: Callable[[Tensor], Tensor], *shape: int) -> Recording:
    """A recording that was compared with the function on other numbers than it was made with."""
    torch.manual_seed(0)
    recording = record(function, torch.randn(shape))
    for _ in range(2):
        x = torch.randn(shape)
        recording._memory.fill_(255)
        recording.input.copy_(x)
        recording.run()
        with torch.no_grad():
            wanted = function(x.clone())
        assert torch.equal(recording.output, wanted) and recording.output.stride() == wanted.stride()
    return recording


WEIGHT = torch.randn(4, 1, 3, 3)


def in_place(x: Tensor) -> Tensor:
    y = x * 2
    y[:, 1:].add_(1)
    y.relu_()
    return y.t_()


def adds_up(x: Tensor) -> Tensor:
    total = torch.zeros(x.shape)  # cleared at each run
    for _ in range(3):
        total += x
    return total


def fills(x: Tensor) -> Tensor:
    made = torch.empty(2, *x.shape)
    made[0], made[1] = 1.0, x
    return made


def changes_a_constant(x: Tensor) -> Tensor:
    c = torch.zeros(6)
    a = c + x
    c += 1
    return a + c * x


def counts_on(x: Tensor) -> Tensor:
    t = torch.zeros(1)
    for _ in range(3):
        x = torch.cos(x + t)
        t += 1
    return x


def grows(x: Tensor) -> Tensor:
    y = torch.empty(0)
    torch.mul(x, 2, out=y)
    z = x + 1
    return y + z


def resizes(x: Tensor) -> Tensor:
    y = x * 2
    y.resize_(30, 6)
    z = x + 1
    y.fill_(1)
    return z * y[:3]


def several(x: Tensor) -> Tensor:
    values, places = x.max(dim=1)
    low, high = x.chunk(2, dim=1)
    return torch.cat([values[:, None], places[:, None].to(x.dtype), low + high, F.layer_norm(x, x.shape[1:])], 1)


@pytest.mark.parametrize(
    "function",
    [
        in_place,
        adds_up,
        fills,
        several,
        changes_a_constant,
        counts_on,
        grows,
        resizes,
        lambda x: torch.cat([torch.empty(0), x]),
        lambda x: torch.stack(torch.split_copy(x, 2, 1)),
        lambda x: torch.tensor([2.0, 3.0]).add_(1).sum() * x,
        lambda x: x,
        lambda x: x.t(),
        lambda x: x.clone(),
        lambda x: x.double().contiguous().t().contiguous(),
        lambda x: torch.ones(3) * 2,  # whatever the input
        lambda x: x[:, torch.tensor([1, 0, 3])],
        lambda x: x.view(torch.int32).bitwise_and(0x7FFFFFFF).view(torch.float32),
        lambda x: F.pad(x, (1, -2)).sum(1).div_(3).sigmoid(),
        lambda x: torch.where(x > 0, x, 0.1 * x),
        lambda x: torch.linalg.norm(x.expand(2, -1, -1), dim=0),
    ],
)
def test_the_same_bits_for_other_numbers(function: Callable[[Tensor], Tensor]) -> None:
    both(function, 3, 6)


def test_ops_become_calls_of_their_kernels() -> None:
    def function(x: Tensor) -> Tensor:
        return ops.depthwise_conv(ops.depthwise_conv(x, WEIGHT * 2, activation="gelu"), WEIGHT)

    recording = both(function, 1, 4, 9, 7)
    if ops.explain("depthwise_conv").backend == "cpu":
        called = [str(call.func) for call in recording._calls if "fill_" not in str(call.func)]  # conftest's poison
        assert called == ["lightsr.depthwise_conv_forward.default"] * 2


def test_on_the_reference_backend_it_records_the_reference() -> None:
    with ops.backend("reference"):
        recording = both(lambda x: ops.depthwise_conv(x, WEIGHT), 1, 4, 9, 7)
    assert all("lightsr" not in str(call.func) for call in recording._calls)


def test_what_weights_alone_say_is_computed_once() -> None:
    weight = torch.randn(6, 6)
    recording = both(lambda x: x @ (weight.t() * 2 + 1), 3, 6)
    assert len(recording._calls) == 1


def test_random_numbers_are_drawn_anew() -> None:
    recording = record(lambda x: x + torch.rand(1000), torch.zeros(1000))
    recording.input.zero_()
    recording.run()
    first = recording.output.clone()
    recording.run()
    assert not torch.equal(first, recording.output) and 0.4 < float(recording.output.mean()) < 0.6


def test_the_example_is_left_as_it_was() -> None:
    example = torch.ones(3)
    record(lambda x: x.add_(1), example)
    assert torch.equal(example, torch.ones(3))


TOTAL = torch.zeros(1)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: x if x.sum() > 0 else -x, "depends on values"),
        (lambda x: x * x.max().item(), "depends on values"),
        (lambda x: x[x > 0], "depends on values"),
        (lambda x: x.nonzero(), "depends on values"),
        (lambda x: (x, x), "gives a tuple, not one tensor"),
        (lambda x: TOTAL.add_(x.sum()), "changes a tensor of its own"),
        (lambda x: x * TOTAL.add_(1), "changes a tensor of its own"),
        (torch.nn.BatchNorm2d(3).train(), "changes a tensor of its own, such as running statistics"),
        (lambda x: torch.tensor([2.0]).add_(x.sum()), "changes a tensor of its own"),
        (lambda x: x * x.tolist()[0][0][0][0], "depends on values"),
        (lambda x: x + torch.from_numpy(x.numpy() * 2), "depends on values"),
        (lambda x: torch.fft.fft(x).conj().imag.clone(), "complex numbers"),
    ],
)
def test_what_cannot_be_done_again_is_refused(function: Any, why: str) -> None:
    with pytest.raises(NotRecordableError, match=why):
        record(function, torch.randn(1, 3, 4, 4))
    assert float(TOTAL) == 0.0  # nor is it changed by the attempt
