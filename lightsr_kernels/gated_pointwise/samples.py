"""The weights of gated_pointwise, and the calls that its tests and benches make."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from torch import Tensor

from ..spec import BadInput, Make, Sample, other_dtype


def shapes(c: int, e: int, p: int) -> dict[str, tuple[int, ...]]:
    """The names of the tensor arguments after x, in order, with their shapes: C channels, E expanded, P in the gate."""
    return {
        "norm_weight": (c,),
        "norm_bias": (c,),
        "weight_a": (e, c, 1, 1),
        "bias_a": (e,),
        "weight_b": (e, c, 1, 1),
        "bias_b": (e,),
        "weight_c": (e, c, 1, 1),
        "bias_c": (e,),
        "entry_weight": (p, e, 1, 1),
        "entry_bias": (p,),
        "stride_weight": (p, p, 3, 3),
        "stride_bias": (p,),
        "pool_weight": (p, p, 3, 3),
        "pool_bias": (p,),
        "skip_weight": (p, p, 1, 1),
        "skip_bias": (p,),
        "exit_weight": (e, p, 1, 1),
        "exit_bias": (e,),
        "out_weight": (c, e, 1, 1),
        "out_bias": (c,),
    }


NAMES = tuple(shapes(1, 1, 1))


def _weights(make: Make, c: int, e: int, p: int) -> list[Tensor]:
    return [make(*shape, scale=prod(shape[1:]) ** -0.5) for shape in shapes(c, e, p).values()]


def samples(make: Make) -> Iterator[Sample]:
    yield Sample("smallest", (make(1, 2, 15, 15), *_weights(make, 2, 4, 3), 1e-6))
    yield Sample("odd-sizes", (make(2, 3, 23, 17), *_weights(make, 3, 5, 2), 1e-6))
    yield Sample("wide", (make(1, 4, 16, 30), *_weights(make, 4, 8, 4), 1e-3))
    yield Sample("one-channel", (make(1, 1, 16, 15), *_weights(make, 1, 1, 1), 1e-6))
    yield Sample("no-pictures", (make(0, 3, 15, 16), *_weights(make, 3, 5, 2), 1e-6))


def bad_inputs(make: Make) -> Iterator[BadInput]:
    x, weights = make(1, 3, 15, 16), _weights(make, 3, 5, 2)

    def change(name: str, value: Tensor) -> tuple[Any, ...]:
        return (x, *[value if each == name else old for each, old in zip(NAMES, weights, strict=True)], 1e-6)

    yield BadInput("3-d", (x[0], *weights, 1e-6), ValueError, "x must have 4 dimensions")
    yield BadInput("whole-numbers", (x.long(), *weights, 1e-6), TypeError, "x must be float32")
    yield BadInput("height", (make(1, 3, 14, 16), *weights, 1e-6), ValueError, "at least 15, got 14 x 16; pad x first")
    yield BadInput("width", (make(1, 3, 15, 14), *weights, 1e-6), ValueError, "at least 15, got 15 x 14; pad x first")
    yield BadInput("no-channels", (x[:, :0], *weights, 1e-6), ValueError, "at least one channel")
    yield BadInput("weight-2-d", change("weight_a", make(5, 3)), ValueError, "weight_a must have 4 dimensions")
    yield BadInput("entry-2-d", change("entry_weight", make(2, 5)), ValueError, "entry_weight must have 4 dimensions")
    for name, shape in shapes(3, 5, 2).items():
        wrong = make(shape[0] + 1, *shape[1:])
        if name not in ("weight_a", "entry_weight"):  # these two tell what E and P are
            yield BadInput(f"{name}-rows", change(name, wrong), ValueError, f"{name} must have shape")
        if len(shape) == 4:
            columns = make(shape[0], shape[1] + 1, *shape[2:])
            yield BadInput(f"{name}-columns", change(name, columns), ValueError, f"{name} must have shape")
    yield BadInput("more-of-a", change("weight_a", make(6, 3, 1, 1)), ValueError, r"bias_a must have shape \[6\]")
    yield BadInput("stride-1x1", change("stride_weight", make(2, 2, 1, 1)), ValueError, r"shape \[2, 2, 3, 3\]")
    yield BadInput("dtype", change("exit_bias", make(5).to(other_dtype(x))), TypeError, "exit_bias is")
    yield BadInput("eps", (x, *weights, 0.0), ValueError, "eps must be above 0")


def bench(make: Make) -> Iterator[Sample]:
    for n, h, w in ((1, 45, 80), (1, 180, 320), (1, 360, 640), (16, 48, 48)):
        yield Sample(f"{n}x52x{h}x{w}", (make(n, 52, h, w), *_weights(make, 52, 156, 16), 1e-6))
