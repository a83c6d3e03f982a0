"""depthwise_conv beyond the op matrix: any shape, any number of threads, sizes past 32 bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import change
from torch import Tensor

import lightsr_kernels
from lightsr_kernels.depthwise_conv.rule import faster
from lightsr_kernels.dispatch import call, why_not
from lightsr_kernels.functional import ACTIVATIONS
from lightsr_kernels.spec import SPECS

SPEC = SPECS["depthwise_conv"]
NO_KERNELS = why_not("cpu", SPEC, "cpu")
needs_kernels = pytest.mark.skipif(NO_KERNELS is not None, reason=f"no CPU kernels: {NO_KERNELS}")
ODD = st.integers(0, 15).map(lambda half: 2 * half + 1)
MEMORY = 16 << 30  # bytes free for the largest test


@st.composite
def calls(draw: st.DrawFn) -> tuple[Any, ...]:
    """Arguments of whole numbers, so that every sum is exact, and of any shape and layout."""
    sizes = st.integers(1, 20), st.integers(1, 30), st.integers(1, 40)
    n, (c, h, w) = draw(st.integers(0, 2)), (draw(size) for size in sizes)
    kh, kw = draw(ODD), draw(ODD)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))

    def make(*shape: int) -> Tensor:
        return torch.randint(-2, 3, shape, generator=generator).float()

    def maybe(*shape: int) -> Tensor | None:
        return make(*shape) if draw(st.booleans()) else None

    layout = draw(st.sampled_from([torch.contiguous_format, torch.channels_last]))
    x = make(n, c, h, w).contiguous(memory_format=layout)
    dilation = [draw(st.integers(1, 4)), draw(st.integers(1, 4))]
    activation = draw(st.sampled_from(["none", "relu", "leaky_relu"]))
    gate, residual = maybe(n, c, h, w), maybe(n, c, h, w)
    return (x, make(c, 1, kh, kw), maybe(c), dilation, activation, 0.5, gate, residual)


def with_gradients(backend: str, args: tuple[Any, ...]) -> list[Tensor]:
    """The result, and the gradients of every tensor for an incoming gradient of whole numbers."""
    args = change(args, lambda each: each.detach().requires_grad_())
    inputs = [each for each in args if isinstance(each, Tensor)]
    with lightsr_kernels.backend(backend):
        out = call(SPEC, *args)
        grad = torch.arange(out.numel()).remainder(5).sub(2).view_as(out).to(out.dtype)
        return [out.detach(), *torch.autograd.grad(out, inputs, grad)]


@needs_kernels
@settings(max_examples=25, deadline=None)
@given(calls())
def test_any_shape_is_exact_on_whole_numbers(args: tuple[Any, ...]) -> None:
    exact = with_gradients("reference", change(args, Tensor.double))
    for got, wanted in zip(with_gradients("cpu", args), exact, strict=True):
        assert torch.equal(got, wanted.float())


@needs_kernels
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("size", [3, 7, 31])
def test_results_do_not_depend_on_the_number_of_threads(size: int, layout: torch.memory_format) -> None:
    x = torch.randn(1, 3, 130, 70).contiguous(memory_format=layout)
    args = (x, torch.randn(3, 1, size, size), torch.randn(3), [1, 2], "relu", 0.0, torch.randn_like(x), None)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(with_gradients("cpu", args))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


@needs_kernels
@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["nan", "inf"])
@pytest.mark.parametrize("dilation", [1, 3])
def test_what_is_no_number_stays_in_its_receptive_field(dilation: int, value: float) -> None:
    x, weight = torch.ones(2, 3, 33, 41), torch.ones(3, 1, 5, 7)
    x[1, 2, 16, 20] = value
    with lightsr_kernels.backend("cpu"):
        out = lightsr_kernels.depthwise_conv(x, weight, dilation=dilation)
    rows, columns = [16 + dilation * i for i in range(-2, 3)], [20 + dilation * j for j in range(-3, 4)]
    wanted = torch.zeros(2, 3, 33, 41, dtype=torch.bool)
    wanted[1, 2, torch.tensor(rows)[:, None], torch.tensor(columns)] = True
    assert torch.equal(~out.isfinite(), wanted)


@needs_kernels
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_activations_are_exact_over_their_whole_range(dtype: torch.dtype, activation: str) -> None:
    eps = torch.finfo(dtype).eps  # gelu's formula loses what is smaller than that beside 1, in eager code too
    line = torch.cat([torch.linspace(-40, 40, 4001), torch.tensor([-1e30, -0.0, 1e-30, 1e30])]).to(dtype)
    x, weight = line.view(1, 1, 1, -1), torch.ones(1, 1, 1, 1, dtype=dtype)
    with lightsr_kernels.backend("cpu"):
        got = lightsr_kernels.depthwise_conv(x, weight, activation=activation, negative_slope=0.1)
    wanted = SPEC.reference(x.double(), weight.double(), None, [1, 1], activation, 0.1, None, None)
    torch.testing.assert_close(got, wanted.to(dtype), rtol=8 * eps, atol=4 * eps)


def memory_left() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable"))
    except OSError:
        return 0


@needs_kernels
@pytest.mark.skipif(memory_left() < MEMORY, reason="needs 16 GiB of free memory")
def test_more_numbers_than_32_bits_can_count() -> None:
    shape = (2, 65, 4096, 4096)  # 2^31 and 2^26 more
    for layout in (torch.contiguous_format, torch.channels_last):  # one after the other, for the memory
        x = torch.empty(shape, dtype=torch.bfloat16, memory_format=layout).zero_()
        x[1, 64, -3:, -3:] = torch.arange(9).view(3, 3)
        with lightsr_kernels.backend("cpu"):
            out = lightsr_kernels.depthwise_conv(x, torch.ones(65, 1, 3, 3, dtype=torch.bfloat16))
        assert out[1, 64, -2, -2] == 36
        assert out[1, 64, -1, -1] == 4 + 5 + 7 + 8
        assert not out[1, 64, :-4].any()
        assert not out[1, 63, -3:].any()
        del x, out


@needs_kernels
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("shape", "size", "dilation"),
    [
        ((2, 72, 20, 24), (1, 3), 1),
        ((2, 72, 20, 24), (7, 1), 3),
        ((2, 72, 20, 24), (3, 3), 1),
        ((41, 50, 8, 8), (5, 5), 1),
    ],
)
def test_what_is_left_to_pytorch_has_the_same_result(
    shape: tuple[int, ...], size: tuple[int, int], dilation: int, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    x = torch.randint(-2, 3, shape).to(dtype).contiguous(memory_format=layout)
    weight = torch.randint(-1, 2, (shape[1], 1, *size)).to(dtype)
    args = (x, weight, None, [dilation, dilation], "none", 0.0, None, None)
    if torch.backends.cpu.get_cpu_capability() == "AVX512" and layout == torch.channels_last and dtype == torch.float32:
        assert not faster("cpu", *args)
    results = [call(SPEC, *args)]
    with lightsr_kernels.backend("cpu"):
        results.append(call(SPEC, *args))
    assert torch.equal(results[0], results[1])
    auto, forced = with_gradients("auto", args), with_gradients("cpu", args)
    assert all(torch.equal(one, other) for one, other in zip(auto, forced, strict=True))


@needs_kernels
def test_gradient_of_a_filter_over_many_pixels() -> None:
    x, grad = (torch.randint(-2, 3, (1, 32, 400, 400)).contiguous(memory_format=torch.channels_last) for _ in range(2))
    exact = torch.nn.grad.conv2d_weight(x.double(), (32, 1, 3, 3), grad.double(), padding=1, groups=32)
    weight = torch.zeros(32, 1, 3, 3, dtype=torch.bfloat16, requires_grad=True)
    with lightsr_kernels.backend("cpu"):
        out = lightsr_kernels.depthwise_conv(x.bfloat16(), weight)
        (found,) = torch.autograd.grad(out, weight, grad.bfloat16())
    assert torch.equal(found, exact.bfloat16())


@pytest.mark.parametrize("capability", ["AVX512", "AVX2"])
def test_filters_of_one_row_or_column_are_pytorchs_where_it_has_instructions_for_them(
    capability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    x = torch.zeros(1, 8, 9, 9, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    weight = torch.zeros(8, 1, 5, 1, dtype=torch.bfloat16)
    left = capability == "AVX512"
    assert faster("cpu", x, weight, None, [3, 3]) is not left
    assert faster("cpu", x, weight, None, [1, 1], activation="relu")
    assert faster("cpu", x, weight, None, [1, 1], residual=x)
    assert faster("cpu", x.contiguous(), weight, None, [1, 1])
    assert faster("cuda", x, weight, None, [1, 1])
    assert faster("cpu", x, weight.new_zeros(8, 1, 1, 15), None, [1, 1]) is not left
    assert faster("cpu", x, weight.new_zeros(8, 1, 1, 17), None, [1, 1])
    assert faster("cpu", x, weight.new_zeros(8, 1, 3, 3), None, [1, 1])
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert faster("cpu", x, weight, None, [1, 1])


@pytest.mark.parametrize(
    ("channels", "kh", "kw", "left"),
    [
        (8, 1, 1, True),
        (8, 1, 31, True),
        (8, 7, 1, True),
        (8, 9, 1, False),
        (64, 3, 3, False),
        (65, 3, 3, True),
        (65, 5, 3, True),
        (65, 9, 1, False),
        (65, 5, 5, False),
    ],
)
def test_which_float32_filters_are_pytorchs(
    channels: int, kh: int, kw: int, left: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    x = torch.zeros(1, channels, 9, 9).contiguous(memory_format=torch.channels_last)
    assert faster("cpu", x, torch.zeros(channels, 1, kh, kw), None, [1, 1]) is not left
    wanted = torch.zeros(channels, 1, kh, kw, requires_grad=True)  # PyTorch's gradients of wide filters take long
    assert faster("cpu", x, wanted, None, [1, 1]) is not (left and kw <= 3 and 1 in (kh, kw))


@pytest.mark.parametrize(
    ("shape", "dtype", "layout", "left"),
    [
        ((8, 768, 7, 7), torch.float32, torch.contiguous_format, True),
        ((8, 768, 7, 7), torch.bfloat16, torch.contiguous_format, False),
        ((8, 768, 7, 7), torch.bfloat16, torch.channels_last, True),
        ((8, 768, 7, 7), torch.float16, torch.channels_last, False),
        ((8, 768, 9, 9), torch.float32, torch.contiguous_format, False),
        ((8, 64, 7, 7), torch.float32, torch.contiguous_format, False),
    ],
)
def test_which_small_planes_are_pytorchs(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    layout: torch.memory_format,
    left: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    x = torch.zeros(shape, dtype=dtype).contiguous(memory_format=layout)
    weight = torch.zeros(shape[1], 1, 7, 7, dtype=dtype)
    assert faster("cpu", x, weight, None, [1, 1]) is not left
    assert faster("cpu", x, weight.requires_grad_(), None, [1, 1])
