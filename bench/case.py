"""One case of the depthwise bench: what is convolved, in which direction, and the exact result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from .contender import Prepare

DIRECTIONS = ("forward", "backward-data", "backward-weight")
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
PART = 8  # one row in so many is what a call is tried on before it is made
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
# How far a result may be from the exact one, as a share of the largest value: a few roundings of the dtype.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@dataclass(frozen=True)
class Case:
    """A depthwise convolution of `shape` [N, C, H, W] by k x k filters."""

    shape: tuple[int, int, int, int]
    k: int
    dilation: int
    direction: str
    dtype: str
    bench: ClassVar[str] = "depthwise"
    untried: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        size = "x".join(str(side) for side in self.shape)
        return f"{size}-k{self.k}-d{self.dilation}-{self.direction}-{self.dtype}"

    @property
    def padding(self) -> int:
        return self.dilation * (self.k // 2)

    @property
    def flops(self) -> int:
        """Two for each multiply-add, taps outside the picture counted too, in every direction."""
        n, c, h, w = self.shape
        return 2 * n * c * h * w * self.k**2

    @property
    def bytes(self) -> int:
        """What has to be read and written: two pictures and a filter."""
        n, c, h, w = self.shape
        return (2 * n * c * h * w + c * self.k**2) * DTYPES[self.dtype].itemsize

    def inputs(self, device: str) -> Inputs:
        return inputs(self, device)

    def exact(self, given: Inputs) -> Tensor:
        return exact(self, given)

    def error(self, got: Tensor, wanted: Tensor) -> float:
        return error(got, wanted)

    def limit(self, given: Inputs, wanted: Tensor) -> float:
        return TOLERANCE[DTYPES[self.dtype]]

    def part(self) -> tuple[Case, float]:
        n, c, h, w = self.shape
        rows = max(1, h // PART)
        return replace(self, shape=(n, c, rows, w)), h / rows

    def ours(self, device: str) -> Sequence[Prepare]:
        from .ours import contenders

        return contenders(device)

    def rivals(self) -> Sequence[tuple[str, Prepare]]:
        from .rivals import RIVALS

        return RIVALS

    def chosen(self, given: Inputs) -> str:
        from .ours import chosen

        return chosen(self, given)


@dataclass(frozen=True)
class Inputs:
    """The tensors of a case, plain contiguous; a forward call reads no gradient, one of the data no picture."""

    x: Tensor  # [N, C, H, W]
    grad: Tensor  # [N, C, H, W]
    weight: Tensor  # [C, 1, K, K]
    others: dict[str, Inputs] = field(default_factory=dict, repr=False)

    def laid_out(self, layout: str) -> Inputs:
        """The same tensors in "nchw" or "channels_last", made once."""
        if layout not in self.others:
            x, grad, weight = (
                each.contiguous(memory_format=LAYOUTS[layout]) for each in (self.x, self.grad, self.weight)
            )
            self.others[layout] = Inputs(x, grad, weight)
        return self.others[layout]


def inputs(case: Case, device: str = "cpu") -> Inputs:
    """Random tensors, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    shapes = (case.shape, case.shape, (case.shape[1], 1, case.k, case.k))
    x, grad, weight = (torch.randn(each, generator=generator).to(device, DTYPES[case.dtype]) for each in shapes)
    return Inputs(x, grad, weight)


def exact(case: Case, given: Inputs) -> Tensor:
    """The result in float64, by Fourier transform: every pixel and channel, and at no k slower than another."""
    x, grad, weight = (each.double() for each in (given.x, given.grad, given.weight[:, 0]))
    _, _, h, w = case.shape
    pad, reach = case.padding, case.dilation * (case.k - 1) + 1
    size = (h + 2 * pad, w + 2 * pad)  # so that what wraps around falls on zeros
    if case.direction == "backward-weight":
        turned = torch.fft.rfft2(grad, s=size).conj() * torch.fft.rfft2(torch.nn.functional.pad(x, [pad] * 4), s=size)
        taps = torch.fft.irfft2(turned.sum(0), s=size)[:, :reach, :reach]
        filters: torch.Tensor = taps[:, None, :: case.dilation, :: case.dilation].contiguous()
        return filters
    spread = torch.zeros(weight.shape[0], reach, reach, dtype=torch.float64, device=weight.device)
    spread[:, :: case.dilation, :: case.dilation] = weight.flip(1, 2) if case.direction == "forward" else weight
    picture = x if case.direction == "forward" else grad
    product = torch.fft.rfft2(picture, s=size) * torch.fft.rfft2(spread, s=size)
    result: torch.Tensor = torch.fft.irfft2(product, s=size)[:, :, pad : pad + h, pad : pad + w].contiguous()
    return result


def error(got: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a share of the largest value; not a number where there is such a difference."""
    assert got.shape == wanted.shape, f"a result has shape {list(got.shape)} instead of {list(wanted.shape)}"
    return float((got.double() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
