"""The calls that tests and benches of attention_maps make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ..spec import BadInput, Make, Sample, other_dtype


def _weights(make: Make, c: int, window: int) -> tuple[Tensor, ...]:
    table = make((2 * window - 1) ** 2)
    return make(c, offset=1.0), make(c, scale=0.5), make(2 * c, c, scale=c**-0.5), table


def samples(make: Make) -> Iterator[Sample]:
    def call(name: str, shape: tuple[int, int, int, int], window: int, grid: bool, eps: float = 1e-5) -> Sample:
        return Sample(name, (make(*shape), *_weights(make, shape[1], window), window, grid, eps))

    yield call("windows-of-2", (2, 3, 6, 4), 2, False)
    yield call("grid-of-2", (2, 3, 6, 4), 2, True)
    yield call("windows-of-3", (1, 5, 9, 3), 3, False)
    yield call("grid-of-3", (1, 5, 3, 9), 3, True)
    yield call("window-of-8", (1, 2, 8, 16), 8, False, 1e-3)
    yield call("one-channel", (2, 1, 4, 6), 2, True)
    yield call("1x1-picture", (2, 3, 1, 1), 1, True)
    yield call("no-pictures", (0, 3, 6, 4), 2, False)


def bad_inputs(make: Make) -> Iterator[BadInput]:
    x, weights, usual = make(1, 3, 6, 4), _weights(make, 3, 2), (2, False, 1e-5)

    def change(place: int, value: Tensor) -> tuple[Any, ...]:
        return (x, *weights[:place], value, *weights[place + 1 :], *usual)

    yield BadInput("3-d", (x[0], *weights, *usual), ValueError, "x must have 4 dimensions")
    yield BadInput("whole-numbers", (x.long(), *weights, *usual), TypeError, "x must be float32")
    yield BadInput("no-channels", (x[:, :0], *weights, *usual), ValueError, "at least one channel")
    yield BadInput("height", (make(1, 3, 5, 4), *weights, *usual), ValueError, "multiples of window 2, got 5 x 4")
    yield BadInput("width", (make(1, 3, 6, 7), *weights, *usual), ValueError, "multiples of window 2, got 6 x 7")
    yield BadInput("window", (x, *weights, 0, False, 1e-5), ValueError, "window must be a whole number from 1 up")
    yield BadInput("norm-weight", change(0, make(4)), ValueError, r"norm_weight must have shape \[3\]")
    yield BadInput("norm-bias", change(1, make(2)), ValueError, r"norm_bias must have shape \[3\]")
    yield BadInput("queries-alone", change(2, make(3, 3)), ValueError, r"query_key_weight must have shape \[6, 3\]")
    yield BadInput("table", change(3, make(16)), ValueError, r"position_table must have shape \[9\]")
    yield BadInput("table-2-d", change(3, make(3, 3)), ValueError, r"position_table must have shape \[9\]")
    yield BadInput("dtype", change(2, weights[2].to(other_dtype(x))), TypeError, "query_key_weight is")
    yield BadInput("eps", (x, *weights, 2, False, 0.0), ValueError, "eps must be above 0")


def bench(make: Make) -> Iterator[Sample]:
    for c, h, w in ((48, 48, 80), (48, 184, 320), (32, 184, 320), (16, 184, 320)):
        for grid in (False, True):
            args = (make(1, c, h, w), *_weights(make, c, 8), 8, grid, 1e-5)
            yield Sample(f"1x{c}x{h}x{w}-{'grid' if grid else 'windows'}", args)
