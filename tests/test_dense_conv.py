"""dense_conv beyond the op matrix: any shape, how exact float32 is, and what is left to PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import change
from torch import Tensor

import lightsr_kernels
from lightsr_kernels.dense_conv.rule import faster
from lightsr_kernels.dispatch import call, why_not
from lightsr_kernels.functional import ACTIVATIONS
from lightsr_kernels.spec import SPECS

SPEC = SPECS["dense_conv"]
NO_KERNELS = why_not("cpu", SPEC, "cpu")
needs_kernels = pytest.mark.skipif(NO_KERNELS is not None, reason=f"no CPU kernels: {NO_KERNELS}")
LAYOUTS = [torch.contiguous_format, torch.channels_last]
each_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])


@st.composite
def calls(draw: st.DrawFn) -> tuple[Any, ...]:
    """Arguments of whole numbers, so that every sum is exact, and of any shape and layout."""
    n, c, h, w = (draw(st.integers(0, most)) for most in (3, 40, 30, 120))
    r, (kh, kw) = draw(st.integers(1, 4)), draw(st.sampled_from([(1, 1), (3, 3), (3, 3), (5, 5), (3, 7), (7, 1)]))
    outs = r * r * draw(st.integers(0, 50 // (r * r)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))

    def make(*shape: int) -> Tensor:
        return torch.randint(-2, 3, shape, generator=generator).float()

    layout, some = draw(st.sampled_from(LAYOUTS)), draw(st.sampled_from(["none", "relu", "leaky_relu"]))
    x, bias = make(n, c, h, w).contiguous(memory_format=layout), draw(st.booleans())
    residual = make(n, outs, h, w) if draw(st.booleans()) else None
    return (x, make(outs, c, kh, kw), make(outs) if bias else None, some, 0.5, residual, r)


@needs_kernels
@settings(max_examples=40, deadline=None)
@given(calls())
def test_any_shape_is_exact_on_whole_numbers(args: tuple[Any, ...]) -> None:
    exact = SPEC.reference(*change(args, Tensor.double))
    with lightsr_kernels.backend("cpu"):
        assert torch.equal(call(SPEC, *args), exact.float())


@needs_kernels
@each_layout
@pytest.mark.parametrize("channels", [12, 32, 64, 200])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_float32_is_about_as_exact_as_eager(size: int, channels: int, layout: torch.memory_format) -> None:
    errors = []
    for seed in range(3):
        torch.manual_seed(seed)
        x, weight = torch.randn(1, channels, 40, 48), torch.randn(32, channels, size, size)
        exact = F.conv2d(x.double(), weight.double(), padding=size // 2)
        with lightsr_kernels.backend("cpu"):
            mine = lightsr_kernels.dense_conv(x.contiguous(memory_format=layout), weight)
        eager = F.conv2d(x, weight, padding=size // 2)
        errors.append([(each - exact).norm() / exact.norm() for each in (mine, eager)])
    mine_error, eager_error = torch.tensor(errors).amax(0)
    assert mine_error <= 1.5 * eager_error


@needs_kernels
@each_layout
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_activations_are_exact_over_their_whole_range(
    dtype: torch.dtype, activation: str, layout: torch.memory_format
) -> None:
    eps = torch.finfo(dtype).eps  # gelu's formula loses what is smaller than that beside 1, in eager code too
    line = torch.cat([torch.linspace(-40, 40, 4001), torch.tensor([-1e30, -0.0, 1e-30, 1e30])]).to(dtype)
    x = line.view(1, 1, 1, -1).expand(1, 2, 1, -1).contiguous(memory_format=layout)
    weight = torch.eye(2, dtype=dtype).view(2, 2, 1, 1)
    with lightsr_kernels.backend("cpu"):
        got = lightsr_kernels.dense_conv(x, weight, activation=activation, negative_slope=0.1)
    wanted = SPEC.reference(x.double(), weight.double(), None, activation, 0.1, None, 1)
    torch.testing.assert_close(got, wanted.to(dtype), rtol=8 * eps, atol=4 * eps)


@pytest.mark.parametrize("capability", ["AVX512", "AVX2"])
def test_what_is_left_to_pytorch(capability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    left = capability == "AVX512"

    def choice(
        c: int, outs: int, size: int, dtype: torch.dtype, last: bool, *others: Any, backend: str = "cpu"
    ) -> bool:
        x = torch.zeros(1, c, 9, 9, dtype=dtype).contiguous(memory_format=LAYOUTS[last])
        return faster(backend, x, torch.zeros(outs, c, size, size, dtype=dtype), None, *others)

    for last in (False, True):
        assert choice(64, 64, 3, torch.float32, last)
        assert choice(16, 16, 3, torch.float32, last) is not (left and last)
        assert choice(64, 64, 1, torch.float32, last)
        assert choice(64, 64, 5, torch.float32, last) is not left
        assert choice(3, 64, 3, torch.float32, last) is not (left and last)
        assert choice(3, 64, 3, torch.float32, last, "relu")
        assert choice(64, 64, 3, torch.bfloat16, last) is not left
        assert choice(52, 52, 3, torch.bfloat16, last) is not (left and last)
        assert choice(64, 64, 3, torch.bfloat16, last, "relu") is not (left and last)
        assert choice(64, 64, 5, torch.float64, last)
        assert choice(64, 64, 5, torch.float32, last, backend="cuda")


@needs_kernels
@each_layout
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("size", [3, 5])
def test_what_is_left_to_pytorch_has_the_same_result(
    size: int, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    x = torch.randint(-2, 3, (2, 16, 20, 24)).to(dtype).contiguous(memory_format=layout)
    weight = torch.randint(-1, 2, (16, 16, size, size)).to(dtype)
    results = []
    for backend in ("auto", "cpu"):
        with lightsr_kernels.backend(backend):
            results.append(lightsr_kernels.dense_conv(x, weight))
    assert torch.equal(*results)
    assert results[0].stride() == results[1].stride()
