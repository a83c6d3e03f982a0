"""The Triton kernels beyond 2^31 elements: the last program of a picture that is only promised memory, not given it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("triton")
from triton import knobs

from lightsr_kernels.depthwise_conv import triton, triton_forward, triton_weight
from lightsr_kernels.large_kernel_attention import triton as attention
from lightsr_kernels.large_kernel_attention import triton_mix

if not knobs.runtime.interpret:
    pytest.skip("the interpreter runs one program alone", allow_module_level=True)

SHAPE = (17, 64, 1080, 1920)
EACH_LAYOUT = pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])


class LastProgram:
    """A kernel of which the last program alone runs; it keeps its arguments by name."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.given = kernel, {}

    def __getitem__(self, grid: tuple[int]) -> Any:
        def launch(*args: Any, **options: Any) -> None:
            self.given = dict(zip(self.kernel.arg_names, args, strict=False)) | options
            assert self.given["WIDE"]
            self.kernel[(1,)](**(self.given | {"first": self.given["first"] + grid[0] - 1}))

        return launch


def promised(last: bool) -> Tensor:
    """A picture beyond 2^31 elements; its memory is taken only where it is touched."""
    try:
        flat = torch.empty(torch.Size(SHAPE).numel(), dtype=torch.float16)
    except RuntimeError:
        pytest.skip("this system promises no memory that it does not have")
    n, c, h, w = SHAPE
    return flat.view(n, h, w, c).permute(0, 3, 1, 2) if last else flat.view(SHAPE)


def corner(x: Tensor) -> Tensor:
    return x[-1, -1, -40:, -140:]


@EACH_LAYOUT
def test_forward(last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, out, weight = promised(last), promised(last), torch.randn(64, 1, 3, 5).half()
    corner(x).normal_()
    monkeypatch.setattr(triton_forward, "convolve", LastProgram(triton_forward.convolve))
    monkeypatch.setattr(torch, "empty_like", lambda *_, **__: out)
    assert triton.forward(x, weight, None, [1, 1], "none", 0.0, None, None) is out
    wanted = F.conv2d(corner(x)[None, None].float(), weight[-1:].float(), padding=(1, 2))[0, 0]
    torch.testing.assert_close(corner(out)[-4:, -4:].float(), wanted[-4:, -4:], rtol=2e-3, atol=2e-3)


@EACH_LAYOUT
def test_weight_gradients(last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, grad = promised(last), promised(last)
    corner(x).normal_()
    grad[-1, -1, -1, -1] = 2
    kernel = LastProgram(triton_weight.partial_sums)
    monkeypatch.setattr(triton_weight, "partial_sums", kernel)
    triton.weight_gradients(grad, x, (3, 1), [1, 1], True)
    workspace = kernel.given["workspace"]
    found = workspace.view(len(workspace), -1, 64)[-1, :, -1] if last else workspace[-1, -1]
    wanted = 2 * F.pad(corner(x).float()[-2:, -1:], (0, 0, 0, 1)).flatten()
    assert torch.equal(found, torch.cat([wanted, torch.tensor([2.0])]))


@EACH_LAYOUT
@pytest.mark.parametrize("one_pass", [True, False])
def test_mix(last: bool, one_pass: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, gate, out = promised(last), promised(last), promised(last)
    mix, second = torch.randn(2, 64, 64, 1, 1).half() / 8
    for each in (x, gate):
        each[-1, :, -1, -64:] = torch.randn(64, 64).half()
    for name in ("mix", "pointwise"):
        monkeypatch.setattr(triton_mix, name, LastProgram(getattr(triton_mix, name)))
    monkeypatch.setattr(torch, "empty_like", lambda *_, **__: out)
    assert attention.mix(x, gate, mix, None, second if one_pass else None, None, None) is out
    pixels = x[-1, :, -1, -4:].float(), gate[-1, :, -1, -4:].float()
    wanted = pixels[1] * (mix[:, :, 0, 0].float() @ pixels[0])
    wanted = second[:, :, 0, 0].float() @ wanted if one_pass else wanted
    torch.testing.assert_close(out[-1, -4:, -1, -4:].float(), wanted[-4:], rtol=1e-2, atol=1e-2)
