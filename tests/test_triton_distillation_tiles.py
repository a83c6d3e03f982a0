"""Every tile that the distillation ops' Triton kernels may take: whole numbers, so that each bit is known."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch
from op_cases import change, outputs, tensors
from torch import Tensor

from lightsr_kernels.spec import SPECS, Make

pytest.importorskip("triton")
from triton import knobs

from lightsr_kernels.distillation_fusion import triton as fusion
from lightsr_kernels.distillation_fusion import triton_gradients as fusion_gradients
from lightsr_kernels.split_distillation import triton as split
from lightsr_kernels.split_distillation import triton_gradients as split_gradients

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and not knobs.runtime.interpret:
    pytest.skip("no GPU, and TRITON_INTERPRET is not 1", allow_module_level=True)

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def step(make: Make, layout: torch.memory_format, channels: int, split: int | None, distilled: int) -> tuple[Any, ...]:
    """A call of split_distillation whose sums are exact: no gate."""
    x, residual = (make(2, channels, 7, 11).contiguous(memory_format=layout) for _ in range(2))
    weight = make(distilled, split or channels, 1, 1)
    ends = (weight, make(distilled), "leaky_relu", None, None, True)
    return (x, split, make(channels), residual, "leaky_relu", 0.5, *ends)


def joined(make: Make, layout: torch.memory_format, widths: tuple[int, ...], out: int) -> tuple[Any, ...]:
    parts = [make(2, width, 7, 11).contiguous(memory_format=layout) for width in widths]
    residual = make(2, out, 7, 11).contiguous(memory_format=layout)
    maps, scale = [make(2, 1, 7, 11) for _ in widths], make(2, sum(widths), 1, 1)
    return parts, make(out, sum(widths), 1, 1), make(out), scale, maps, make(1), residual, make(1), "leaky_relu", 0.5


def check_forward(op: str, kernels: Any, args: Any, config: Any) -> None:
    exact = outputs(SPECS[op].reference(*change(args, Tensor.double)))
    for got, wanted in zip(outputs(kernels.forward(*args, config=config)), exact, strict=True):
        assert torch.equal(got, wanted.float())


def check_gradients(op: str, kernels: Any, args: Any) -> None:
    exact = change(args, lambda each: each.double().requires_grad_())
    out = outputs(SPECS[op].reference(*exact))
    grads = [torch.randint_like(each, -3, 4) for each in out]
    wanted = torch.autograd.grad(out, tensors(exact), grads)
    got = kernels.backward([each.float() for each in grads], [True] * len(wanted), *args)
    for k, (one, other) in enumerate(zip(got, wanted, strict=True)):
        assert torch.equal(one, other.float()), k


@pytest.mark.parametrize("config", sorted({*split.CONFIGS, *split.PLAIN_CONFIGS}, key=str), ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_tile_distils(config: split.Config, layout: torch.memory_format) -> None:
    make = Make(device=DEVICE, integers=True)
    for channels, part, distilled in ((40, 3, 17), (70, None, 5), (3, None, config.channels + 1)):
        check_forward("split_distillation", split, step(make, layout, channels, part, distilled), config)


@pytest.mark.parametrize("config", sorted({*split.CONFIGS, *split.PLAIN_CONFIGS}, key=str), ids=str)
@pytest.mark.parametrize("channels", [5, 40, 130])  # 130 are too many for a tile
def test_every_tile_gates(config: split.Config, channels: int) -> None:
    make = Make(device=DEVICE)
    x, weight = make(1, channels, 6, 5), make(channels, channels, 1, 1, scale=0.1)
    gate = make(channels, channels, 1, 1, scale=0.1), make(channels)
    for first in ((None, None), (weight, make(channels))):
        args = (x, None, None, None, "none", 0.0, *first, "silu", *gate, False)
        (wanted, _), (got, _) = SPECS["split_distillation"].reference(*args), split.forward(*args, config=config)
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [*split_gradients.CONFIGS, *split_gradients.PLAIN_CONFIGS, None], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_tile_of_gradients(
    config: split_gradients.Config | None, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_gradients, "choose", lambda _: config)
    monkeypatch.setattr(import_module("lightsr_kernels.split_distillation.triton_tiles"), "MOST_PARTS", 3)
    make = Make(device=DEVICE, integers=True)
    for channels, part, distilled in ((20, 3, 5), (33, None, 17)):
        check_gradients("split_distillation", split, step(make, layout, channels, part, distilled))


@pytest.mark.parametrize("config", [*split_gradients.CONFIGS, *split_gradients.PLAIN_CONFIGS, None], ids=str)
@pytest.mark.parametrize("first", [False, True], ids=["gate-alone", "distilled-gate"])
def test_every_tile_of_a_gates_gradients(
    config: split_gradients.Config | None, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if config is not None and first and config.rows < 32:
        pytest.skip("this tile is not taken for both")
    monkeypatch.setattr(split_gradients, "choose", lambda _: config)
    make = Make(torch.float64, DEVICE, requires_grad=True)
    c, d = 20, 17 if first else 20
    ends = (make(d, c, 1, 1), make(d), "silu") if first else (None, None, "none")
    args = (make(1, c, 6, 7), None, make(c), None, "gelu", 0.0, *ends, make(d, d, 1, 1), make(d), True)
    out = SPECS["split_distillation"].reference(*args)
    grads = [torch.randn_like(each) for each in out]
    wanted = torch.autograd.grad(out, tensors(args), grads)
    plain = change(args, Tensor.detach)
    for one, other in zip(split.backward(grads, [True] * len(wanted), *plain), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("config", fusion.CONFIGS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_tile_fuses(config: fusion.Config, layout: torch.memory_format) -> None:
    make = Make(device=DEVICE, integers=True)
    for widths, out in (((17, 1, 33), config.channels + 1), ((3,), 2)):
        check_forward("distillation_fusion", fusion, joined(make, layout, widths, out), config)


@pytest.mark.parametrize("config", [*fusion_gradients.CONFIGS, *fusion_gradients.PLAIN_CONFIGS], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_tile_of_fusion_gradients(
    config: fusion_gradients.Config, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusion_gradients, "choose", lambda _: config)
    monkeypatch.setattr(import_module("lightsr_kernels.split_distillation.triton_tiles"), "MOST_PARTS", 3)
    make = Make(device=DEVICE, integers=True)
    for widths, out in (((17, 1, config.channels + 1), config.out + 1), ((3, 2), 2)):
        check_gradients("distillation_fusion", fusion, joined(make, layout, widths, out))


def test_more_parts_than_a_kernel_takes() -> None:
    make = Make(device=DEVICE, integers=True)
    args = joined(make, torch.channels_last, (1, 2) * 9, 3)
    check_forward("distillation_fusion", fusion, args, None)
    check_gradients("distillation_fusion", fusion, args)
