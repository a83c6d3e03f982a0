"""The attention's Triton kernels beyond 2^31 elements: the last program of a picture that is only promised memory."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch

pytest.importorskip("triton")
from test_triton_far import EACH_LAYOUT, LastProgram, promised
from triton import knobs

from lightsr_kernels.instance_norm_attention import triton, triton_pixels, triton_planes

if not knobs.runtime.interpret:
    pytest.skip("the interpreter runs one program alone", allow_module_level=True)


@EACH_LAYOUT
def test_moments(last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x = promised(last)
    x[-1, -1, -3:, -900:].normal_()
    kernel = LastProgram(triton_planes.part_moments)
    monkeypatch.setattr(triton_planes, "part_moments", kernel)
    # What merges the parts of all planes has no far offsets, and would run for minutes.
    monkeypatch.setattr(triton_planes, "merge_moments", defaultdict(lambda: lambda *_, **__: None))
    triton.moments(x)
    pixels = 1080 * 1920 % kernel.given["PIXELS"] or kernel.given["PIXELS"]
    plane = x[-1, -1].flatten()[-pixels:].double()
    mean, rest, squares = kernel.given["workspace"][:, -1, -1].double()
    torch.testing.assert_close(mean + rest, plane.mean(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(squares, plane.var(correction=0) * pixels, rtol=1e-5, atol=0)


@EACH_LAYOUT
def test_out(last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, out, scale = promised(last), promised(last), torch.zeros(17, 64)
    x[-1, -1, -1, -4:] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    scale[-1, -1] = 2
    monkeypatch.setattr(triton_pixels, "gated_affine", LastProgram(triton_pixels.gated_affine))
    monkeypatch.setattr(torch, "empty_like", lambda *_, **__: out)
    assert triton.gated_affine(x, (None, scale, None), None, None, True)[0] is out
    assert torch.equal(out[-1, -1, -1, -4:].float(), torch.tensor([3.0, 6.0, 9.0, 12.0]))


@EACH_LAYOUT
def test_pool(last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x = promised(last)
    x[-1, -1, -1, -4:] = torch.tensor([1.0, 2.0, 3.0, 64.0])
    kernel = LastProgram(triton_pixels.channel_pool)
    monkeypatch.setattr(triton_pixels, "channel_pool", kernel)
    pooled = triton.channel_pool(x, (None, None, None))
    assert torch.equal(pooled[-1, 1, -1, -4:], torch.tensor([1.0, 2.0, 3.0, 64.0]))
    assert torch.equal(pooled[-1, 0, -1, -4:], torch.tensor([1.0, 2.0, 3.0, 64.0]) / 64)
