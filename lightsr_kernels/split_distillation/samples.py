"""What the tests and benches call split_distillation with, and what a call costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ..spec import BadInput, Cost, Make, Sample, other_dtype


def _call(
    name: str,
    x: Tensor,
    split: int | None = None,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str = "leaky_relu",
    slope: float = 0.5,  # a power of two, so that whole numbers stay exact
    weight: Tensor | None = None,
    weight_bias: Tensor | None = None,
    distilled_activation: str = "leaky_relu",
    gate_weight: Tensor | None = None,
    gate_bias: Tensor | None = None,
    keep: bool = True,
    convolution: Tensor | None = None,
) -> Sample:
    ends = (weight, weight_bias, distilled_activation, gate_weight, gate_bias, keep, convolution)
    return Sample(name, (x, split, bias, residual, activation, slope, *ends))


def samples(make: Make) -> Iterator[Sample]:
    shape, wide = (2, 5, 9, 7), (1, 5, 6, 11)
    yield _call("split", make(*shape), 2)
    weights = make(4, 2, 1, 1), make(4)
    yield _call("split-residual", make(*shape), 2, residual=make(*shape), weight=weights[0], weight_bias=weights[1])
    yield _call("whole", make(*shape), bias=make(5))
    ends = make(5), make(*shape)
    yield _call("whole-residual", make(*shape), bias=ends[0], residual=ends[1], weight=make(3, 5, 1, 1))
    yield _call("whole-no-rest", make(*shape), residual=make(*shape), keep=False)
    yield _call("no-activation", make(*wide), 1, activation="none", keep=False)
    yield _call("relu", make(*wide), 2, activation="relu", distilled_activation="none", weight=make(1, 2, 1, 1))
    yield _call("1-channel", make(2, 1, 5, 6), bias=make(1), weight=make(1, 1, 1, 1), weight_bias=make(1))
    yield _call("1x1-picture", make(1, 5, 1, 1), 2, bias=make(5), weight=make(4, 2, 1, 1))
    empty = make(0, 5, 9, 7), make(0, 5, 9, 7)
    yield _call("no-pictures", empty[0], 2, bias=make(5), residual=empty[1], weight=make(4, 2, 1, 1))
    yield from _convolved(make)
    if not make.integers:  # these round
        gate = make(3, 3, 1, 1), make(3)
        yield _call("split-gate", make(*shape), 3, gate_weight=gate[0], gate_bias=gate[1])
        yield _call(
            "whole-gate",
            make(*wide),
            activation="gelu",
            weight=make(3, 5, 1, 1),
            weight_bias=make(3),
            distilled_activation="silu",
            gate_weight=gate[0],
            keep=False,
        )


def _convolved(make: Make) -> Iterator[Sample]:
    """Convolutions of too few channels for tiles of the CPU's kernels, of another size, and of enough channels."""
    few, many, wide = make(2, 3, 9, 7), make(2, 13, 9, 7), make(1, 14, 6, 11)
    weights: dict[str, Any] = {"weight": make(4, 2, 1, 1, scale=0.7), "weight_bias": make(4)}
    yield _call("few-channels", few, 2, residual=make(2, 5, 9, 7), convolution=make(5, 3, 3, 3, scale=0.2), **weights)
    yield _call("5x1", wide, bias=make(12), keep=False, convolution=make(12, 14, 5, 1, scale=0.1))
    yield _call("one-channel-between", few, weight=make(4, 1, 1, 1), convolution=make(1, 3, 3, 3, scale=0.2))
    tiles = make(12, 13, 3, 3, scale=0.1), make(12, 14, 3, 3, scale=0.1)
    yield _call("tiles", many, 2, bias=make(12), residual=make(2, 12, 9, 7), convolution=tiles[0], **weights)
    yield _call("tiles-whole", wide, residual=make(1, 12, 6, 11), weight=make(7, 12, 1, 1), convolution=tiles[1])
    yield _call("tiles-no-rest", wide, bias=make(12), keep=False, convolution=tiles[1])
    yield _call("tiles-no-pictures", many[:0], 2, bias=make(12), convolution=tiles[0], **weights)
    if not make.integers:
        weights |= {"gate_weight": make(4, 4, 1, 1), "gate_bias": make(4)}
        yield _call("tiles-gate", wide, 2, activation="silu", convolution=tiles[1], **weights)


def bad_inputs(make: Make) -> Iterator[BadInput]:
    x, weight, gate = make(1, 5, 4, 3), make(4, 2, 1, 1), make(4, 4, 1, 1)

    def bad(name: str, position: int, value: object, error: type[Exception], match: str) -> BadInput:
        args = list(_call("", x, 2, bias=make(5), weight=weight, weight_bias=make(4), gate_weight=gate).args)
        args[position] = value
        return BadInput(name, tuple(args), error, match)

    yield bad("3-d", 0, x[0], ValueError, "x must have 4 dimensions")
    yield bad("not-a-tensor", 0, None, TypeError, "x must be a torch.Tensor")
    yield bad("whole-numbers", 0, x.long(), TypeError, "x must be float32")
    yield bad("no-channels", 0, make(1, 0, 4, 3), ValueError, "x must have at least one channel")
    for split in (0, -1, 5, 2.0):
        yield bad(f"split-{split}", 1, split, ValueError, "split must be None or a whole number from 1 to 4")
    yield bad("bias", 2, make(2), ValueError, r"bias must have shape \[5\]")
    yield bad("residual", 3, make(1, 5, 4, 4), ValueError, r"residual must have shape \[1, 5, 4, 3\]")
    yield bad("activation", 4, "tanh", ValueError, "activation must be one of")
    yield bad("slope", 5, "steep", TypeError, "negative_slope must be a number, got str")
    yield bad("weight-channels", 6, make(4, 5, 1, 1), ValueError, r"weight must have shape \[4, 2, 1, 1\]")
    yield bad("weight-3x3", 6, make(4, 2, 3, 3), ValueError, r"weight must have shape \[4, 2, 1, 1\]")
    yield bad("weight-no-filters", 6, make(0, 2, 1, 1), ValueError, "weight must have at least one filter")
    yield bad("weight-dtype", 6, weight.to(other_dtype(x)), TypeError, "weight is")
    yield bad("weight-bias", 7, make(2), ValueError, r"weight_bias must have shape \[4\]")
    yield bad("weight-bias-alone", 6, None, ValueError, "weight_bias was given without weight")
    yield bad("distilled-activation", 8, "tanh", ValueError, "distilled_activation must be one of")
    yield bad("gate", 9, make(2, 2, 1, 1), ValueError, r"gate_weight must have shape \[4, 4, 1, 1\]")
    yield bad("gate-bias", 10, make(2), ValueError, r"gate_bias must have shape \[4\]")
    for name, sides in (("even", (2, 3)), ("9x9", (9, 9))):
        yield bad(
            f"convolution-{name}", 12, make(5, 5, *sides), ValueError, "convolution must be odd from 1 to 7 a side"
        )
    yield bad("convolution-channels", 12, make(5, 4, 3, 3), ValueError, r"convolution must have shape \[5, 5, 3, 3\]")
    yield bad("convolution-3-d", 12, make(5, 5, 3), ValueError, "convolution must have 4 dimensions")
    yield bad("convolution-dtype", 12, make(5, 5, 3, 3).to(other_dtype(x)), TypeError, "convolution is")
    yield bad("convolution-no-filters", 12, make(0, 5, 3, 3), ValueError, "convolution must have at least one filter")
    yield bad("convolution-bias", 12, make(6, 5, 3, 3), ValueError, r"bias must have shape \[6\]")
    alone = _call("", x, 2, gate_bias=make(2)).args
    yield BadInput("gate-bias-alone", alone, ValueError, "gate_bias was given without gate_weight")


def bench(make: Make) -> Iterator[Sample]:
    for n, h, w in ((1, 45, 80), (1, 180, 320), (16, 64, 64)):
        for name, c, split, distilled in (("split16", 64, 16, 16), ("whole", 52, None, 26)):
            for convolution in (None, make(c, c, 3, 3, scale=0.05)):
                yield _call(
                    f"{n}x{c}x{h}x{w}-{name}" + ("" if convolution is None else "-conv3"),
                    make(n, c, h, w),
                    split,
                    bias=make(c),
                    residual=make(n, c, h, w),
                    weight=make(distilled, split or c, 1, 1),
                    weight_bias=make(distilled),
                    convolution=convolution,
                )


def cost(
    x: Tensor,
    split: int | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    negative_slope: float,
    weight: Tensor | None,
    weight_bias: Tensor | None,
    distilled_activation: str,
    gate_weight: Tensor | None,
    gate_bias: Tensor | None,
    keep: bool,
    convolution: Tensor | None,
) -> Cost:
    n, ins, h, w = x.shape
    channels = ins if convolution is None else convolution.shape[0]
    first, rest = (channels, channels) if split is None else (split, channels - split)
    distilled = first if weight is None else weight.shape[0]
    filters = sum(each.numel() for each in (convolution, weight, gate_weight) if each is not None)
    planes = ins + channels * (residual is not None) + distilled + rest * keep
    flops = 2 * filters + channels * ((bias is not None) + (residual is not None) + (activation != "none"))
    return Cost(bytes=(planes * n * h * w + filters) * x.element_size(), flops=flops * n * h * w)
