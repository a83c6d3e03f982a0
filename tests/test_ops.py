"""One matrix over every OpSpec: what holds for one op holds for all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightsr_kernels.spec import SPECS, Make, OpSpec

OPS = pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.name)
LAYOUTS = ("contiguous", "channels_last", "sliced", "expanded")


def lay_out(value: Any, layout: str) -> Any:
    """The same values in another memory layout; filters and vectors stay as they are."""
    if isinstance(value, list):
        return [lay_out(each, layout) for each in value]
    if not isinstance(value, Tensor) or value.dim() != 4 or value.numel() == 0:
        return value
    data = value.detach()
    if layout == "channels_last":
        data = data.contiguous(memory_format=torch.channels_last)
    elif layout == "sliced":
        data = torch.nn.functional.pad(data, (1, 2, 1, 1))[:, :, 1:-1, 1:-2]
    elif layout == "expanded":
        data = data[:, :, :1].expand_as(data)
    return data.requires_grad_(value.requires_grad)


def outputs(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, tuple) else [result]


@OPS
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grad", [False, True], ids=["no-grad", "grad"])
def test_opcheck(spec: OpSpec, layout: str, grad: bool) -> None:
    for sample in spec.samples(Make(requires_grad=grad)):
        torch.library.opcheck(spec.op, tuple(lay_out(each, layout) for each in sample.args))


@OPS
def test_gradcheck(spec: OpSpec) -> None:
    for sample in spec.samples(Make(torch.float64, requires_grad=True)):
        tensors = [a for a in sample.args if isinstance(a, Tensor)]
        if all(t.numel() for t in tensors):
            torch.autograd.gradcheck(spec.op, sample.args, fast_mode=True)
            torch.autograd.gradcheck(spec.reference, sample.args, fast_mode=True)
            torch.autograd.gradgradcheck(spec.reference, sample.args, fast_mode=True)
