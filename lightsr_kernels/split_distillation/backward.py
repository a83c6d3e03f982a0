"""What the backends of split_distillation share: pictures as their kernels take them, and where gradients are put."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..functional import dense, empty_gradient, layout_of
from ..memory import empty
from . import convolution as first


def sliced(
    x: Tensor,  # [N, C, H, W]
    layout: torch.memory_format,
) -> Tensor:
    """Returns x as it is where it is a dense picture in this layout or a range of channels of one; else a copy."""
    _, c, h, w = x.shape
    _, channel, row, column = x.stride()
    if layout == torch.channels_last:
        step = column if w > 1 else row if h > 1 else c
        fits = (c == 1 or channel == 1) and step >= c and (w == 1 or h == 1 or row == w * step)
    else:
        fits = (w == 1 or column == 1) and (h == 1 or row == w) and (c == 1 or channel >= h * w)
    return x if fits or x.numel() == 0 else dense_in(x, layout)


def dense_in(x: Tensor, layout: torch.memory_format) -> Tensor:
    """Returns x in this layout, as it is where it has that already."""
    return x.contiguous(memory_format=layout)


@dataclass(frozen=True)
class Call:
    """The arguments of one call, with pictures as kernels take them."""

    x: Tensor  # [N, C, H, W], sliced; in a forward with a convolution [N, C_in, H, W], dense
    split: int  # channels that are distilled; C where `whole`
    whole: bool
    bias: Tensor | None  # [C]
    residual: Tensor | None  # [N, C, H, W], sliced, in the layout of x
    activation: str
    negative_slope: float
    weight: Tensor | None  # [D, split, 1, 1], contiguous, as are all that follow
    weight_bias: Tensor | None  # [D]
    distilled_activation: str
    gate_weight: Tensor | None  # [D, D, 1, 1]
    gate_bias: Tensor | None  # [D]
    layout: torch.memory_format  # of results and gradients
    convolution: Tensor | None  # [C, C_in, KH, KW], contiguous
    activated: bool = False  # in a backward of the CPU: x is the activated part that is distilled
    rest: Tensor | None = None  # [N, C - split, H, W], and this the other, sliced; None where `whole`

    @property
    def channels(self) -> int:
        """C, before the split."""
        return self.x.shape[1] if self.convolution is None else len(self.convolution)

    @cached_property
    def distilled(self) -> int:
        """D, the channels of the first result."""
        return self.split if self.weight is None else len(self.weight)


def call_of(
    x: Tensor,  # [N, C, H, W]
    split: int | None,
    bias: Tensor | None,  # [C]
    residual: Tensor | None,  # [N, C, H, W]
    activation: str,
    negative_slope: float,
    weight: Tensor | None,  # [D, split or C, 1, 1]
    weight_bias: Tensor | None,  # [D]
    distilled_activation: str,
    gate_weight: Tensor | None,  # [D, D, 1, 1]
    gate_bias: Tensor | None,  # [D]
    convolution: Tensor | None = None,  # [C, C_in, KH, KW]
) -> Call:
    layout = layout_of(x)
    channels = x.shape[1] if convolution is None else len(convolution)

    def packed(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.contiguous()

    return Call(
        sliced(x, layout) if convolution is None else dense(x),
        channels if split is None else split,
        split is None,
        packed(bias),
        None if residual is None else sliced(residual, layout),
        activation,
        negative_slope,
        packed(weight),
        packed(weight_bias),
        distilled_activation,
        packed(gate_weight),
        packed(gate_bias),
        layout,
        packed(convolution),
    )


# (call, grad_distilled, grad_remaining or None, found): fills the tensors in `found`, which holds those gradients that
# are wanted, by name: x, residual (the numbers of x), bias, weight, weight_bias, gate_weight, gate_bias. All gradients
# are dense in call.layout.
Gradients = Callable[[Call, Tensor, Tensor | None, dict[str, Tensor]], None]

_NAMES = ("x", "bias", "residual", "weight", "weight_bias", "gate_weight", "gate_bias")


def backward(
    gradients: Gradients,
    grads: list[Tensor],  # of distilled and remaining
    wanted: list[bool],  # one flag for each tensor given, in the order of _NAMES, and last the convolution
    x: Tensor,  # [N, C, H, W]; with a convolution [N, C_in, H, W]
    split: int | None,
    bias: Tensor | None,  # [C]
    residual: Tensor | None,  # [N, C, H, W]
    activation: str,
    negative_slope: float,
    weight: Tensor | None,  # [D, split or C, 1, 1]
    weight_bias: Tensor | None,  # [D]
    distilled_activation: str,
    gate_weight: Tensor | None,  # [D, D, 1, 1]
    gate_bias: Tensor | None,  # [D]
    keep: bool,
    convolution: Tensor | None = None,  # [C, C_in, KH, KW]
    *,
    kept: list[Tensor] | None = None,  # by a forward_keeping: the convolution's result, or the two activated parts
) -> list[Tensor]:
    ends = (weight, weight_bias, distilled_activation, gate_weight, gate_bias)
    call = call_of(x, split, bias, residual, activation, negative_slope, *ends, convolution)
    both = [wanted[0], convolution is not None and wanted[-1]]  # of the convolution
    if convolution is not None:
        call = _behind(call, kept or [first.convolved(x, convolution)])
        wanted = [any(both), *wanted[1:-1]]
    values = (x, bias, residual, weight, weight_bias, gate_weight, gate_bias)
    given = {name: value for name, value in zip(_NAMES, values, strict=True) if value is not None}
    wants = [name for name, want in zip(given, wanted, strict=True) if want]
    found = {name: gradient_memory(given[name], call.layout) for name in wants if name != "x" or convolution is None}
    if convolution is not None and any(both):
        n, _, h, w = x.shape
        found["x"] = empty((n, call.channels, h, w), x.dtype, x.device, call.layout)
    if found:
        remaining = dense_in(grads[1], call.layout) if keep else None
        gradients(call, dense_in(grads[0], call.layout), remaining, found)
    if convolution is None:
        return [as_argument(found[name], given[name]) for name in wants]
    own = first.gradients(found["x"], both, x, convolution) if any(both) else []
    rest = [as_argument(found[name], given[name]) for name in wants if name != "x"]
    return [*own[: both[0]], *rest, *own[both[0] :]]


def _behind(call: Call, kept: list[Tensor]) -> Call:
    """The call as its convolution's result has it, or what is told of the activated parts."""
    if len(kept) == 1:
        return replace(call, x=sliced(kept[0], call.layout))
    parts = [sliced(each, call.layout) for each in kept]
    rest = None if call.whole else parts[1]
    return replace(call, x=parts[0], rest=rest, activated=True, bias=None, residual=None)


def gradient_memory(value: Tensor, layout: torch.memory_format) -> Tensor:
    """Memory for a gradient: of a picture dense in this layout, of anything else contiguous."""
    _, c, h, w = value.shape if value.dim() == 4 else (0, 1, 1, 1)
    if c == 1 or h * w == 1 or layout_of(value) == layout:  # one channel or pixel lies the same way in both layouts
        return empty_gradient(value)
    return empty(value.shape, value.dtype, value.device, layout)


def as_argument(gradient: Tensor, value: Tensor) -> Tensor:
    """A gradient in the layout of its argument."""
    return dense_in(gradient, layout_of(value)) if value.dim() == 4 else gradient
