"""The Triton kernels of the ops on windows and layer norms beyond 2^31 elements: the last program alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("triton")
from test_triton_far import EACH_LAYOUT, SHAPE, LastProgram, promised
from triton import knobs

from lightsr_kernels.attention_maps import triton_backward, triton_gradients, triton_norm, triton_project
from lightsr_kernels.functional import channel_norm
from lightsr_kernels.gated_feed_forward import triton_forward as feed_forward
from lightsr_kernels.gated_feed_forward import triton_launch
from lightsr_kernels.window_attention import triton_forward as windows
from lightsr_kernels.window_attention.reference import reference
from lightsr_kernels.window_attention.triton_launch import gather

if not knobs.runtime.interpret:
    pytest.skip("the interpreter runs one program alone", allow_module_level=True)

C = SHAPE[1]


def corner(x: Tensor) -> Tensor:
    """The last window of the last picture."""
    return x[-1:, :, -8:, -8:]


@EACH_LAYOUT
def test_project(last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, out, weight, norm = promised(last), promised(last), torch.randn(C, C).half() / 8, torch.randn(2, C).half()
    x[-1, :, -1, -64:].normal_()
    monkeypatch.setattr(triton_norm, "project", LastProgram(triton_norm.project))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", lambda *_, **__: out)
        assert triton_project.project(x, weight, None, (norm[0], norm[1]), 1e-5) is out
    line = channel_norm(x[-1:, :, -1:, -64:].float(), *norm.float(), 1e-5)
    wanted = F.conv2d(line, weight.float()[:, :, None, None])
    torch.testing.assert_close(out[-1:, :, -1:, -64:].float(), wanted, rtol=1e-2, atol=1e-2)


@EACH_LAYOUT
def test_gather(last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, out, weight, norm = promised(last), promised(last), torch.randn(C, C).half() / 8, torch.randn(2, C).half()
    maps = torch.empty(SHAPE[0] * (SHAPE[2] // 8) * (SHAPE[3] // 8), 64, 64, dtype=torch.float16)
    corner(x).normal_()
    maps[-1] = torch.randn(64, 64).half() / 8
    monkeypatch.setattr(windows, "attend", LastProgram(windows.attend))
    monkeypatch.setattr(torch, "empty_like", lambda *_, **__: out)
    assert gather(x, maps, 8, False, weight, (norm[0], norm[1]), 1e-5, residual=True) is out
    floats = [each.float() for each in (corner(x), maps[-1:], *norm, weight)]
    wanted = reference(*floats, torch.eye(C), 8, False, 1e-5)
    torch.testing.assert_close(corner(out).float(), wanted, rtol=2e-2, atol=2e-2)


@EACH_LAYOUT
def test_gate(last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, hidden, out = promised(last), promised(last), promised(last)
    depthwise, weight = torch.randn(C, 1, 3, 3).half() / 3, torch.randn(C, C // 2, 1, 1).half() / 8
    for each in (x, hidden):
        each[-1, :, -8:, -32:].normal_()
    monkeypatch.setattr(feed_forward, "gate", LastProgram(feed_forward.gate))
    monkeypatch.setattr(torch, "empty_like", lambda *_, **__: out)
    assert triton_launch.gate(hidden, depthwise, weight, x) is out
    first, second = F.conv2d(hidden[-1:, :, -8:, -32:].float(), depthwise.float(), padding=1, groups=C).chunk(2, 1)
    wanted = x[-1:, :, -8:, -32:].float() + F.conv2d(F.gelu(first) * second, weight.float())
    torch.testing.assert_close(out[-1:, :, -4:, -16:].float(), wanted[:, :, -4:, -16:], rtol=1e-2, atol=1e-2)


@EACH_LAYOUT
def test_norm_gradients(last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, grad, out, weight = promised(last), promised(last), promised(last), torch.randn(C).half()
    for each in (x, grad):
        each[-1, :, -1, -64:].normal_()
    monkeypatch.setattr(triton_backward, "of_norm", LastProgram(triton_backward.of_norm))
    monkeypatch.setattr(torch, "empty_like", lambda *_, **__: out)
    found, *_ = triton_gradients.norm_gradients(grad, x, weight, 1e-5, None, (True, False))
    assert found is out
    line = x[-1:, :, -1:, -64:].float().requires_grad_()
    normal = channel_norm(line, weight.float(), torch.zeros(C), 1e-5)
    (wanted,) = torch.autograd.grad(normal, line, grad[-1:, :, -1:, -64:].float())
    torch.testing.assert_close(out[-1:, :, -1:, -64:].float(), wanted, rtol=1e-2, atol=1e-2)
