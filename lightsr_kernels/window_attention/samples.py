"""The calls that tests and benches of window_attention make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ..spec import BadInput, Make, Sample, other_dtype


def _tensors(make: Make, shape: tuple[int, int, int, int], window: int) -> tuple[Tensor, ...]:
    n, c, h, w = shape
    sets, tokens = n * (h // window) * (w // window), window**2
    # Maps of any sign: the op does not ask for rows that sum to 1, and so large errors cannot average out.
    maps = make(sets, tokens, tokens, scale=1 / window)
    square = (make(c, c, scale=c**-0.5), make(c, c, scale=c**-0.5))
    return make(*shape), maps, make(c, offset=1.0), make(c, scale=0.5), *square


def samples(make: Make) -> Iterator[Sample]:
    def call(name: str, shape: tuple[int, int, int, int], window: int, grid: bool, eps: float = 1e-5) -> Sample:
        return Sample(name, (*_tensors(make, shape, window), window, grid, eps))

    yield call("windows-of-2", (2, 3, 6, 4), 2, False)
    yield call("grid-of-2", (2, 3, 6, 4), 2, True)
    yield call("windows-of-3", (1, 5, 9, 3), 3, False)
    yield call("grid-of-3", (1, 5, 3, 9), 3, True)
    yield call("window-of-8", (1, 2, 8, 16), 8, False, 1e-3)
    yield call("one-channel", (2, 1, 4, 6), 2, True)
    yield call("1x1-picture", (2, 3, 1, 1), 1, True)
    yield call("no-pictures", (0, 3, 6, 4), 2, False)


def bad_inputs(make: Make) -> Iterator[BadInput]:
    tensors, usual = _tensors(make, (1, 3, 6, 4), 2), (2, False, 1e-5)
    x, *others = tensors

    def change(place: int, value: Tensor) -> tuple[Any, ...]:
        return (*tensors[:place], value, *tensors[place + 1 :], *usual)

    yield BadInput("3-d", change(0, x[0]), ValueError, "x must have 4 dimensions")
    yield BadInput("whole-numbers", change(0, x.long()), TypeError, "x must be float32")
    yield BadInput("no-channels", change(0, x[:, :0]), ValueError, "at least one channel")
    yield BadInput("height", change(0, make(1, 3, 5, 4)), ValueError, "multiples of window 2, got 5 x 4")
    yield BadInput("width", change(0, make(1, 3, 6, 7)), ValueError, "multiples of window 2, got 6 x 7")
    yield BadInput("window", (x, *others, -2, False, 1e-5), ValueError, "window must be a whole number from 1 up")
    yield BadInput("sets", change(1, make(5, 4, 4)), ValueError, r"maps must have shape \[6, 4, 4\], got \[5, 4, 4\]")
    yield BadInput("maps-4-d", change(1, make(6, 1, 4, 4)), ValueError, r"maps must have shape \[6, 4, 4\]")
    yield BadInput("other-window", change(1, make(6, 9, 9)), ValueError, r"maps must have shape \[6, 4, 4\]")
    yield BadInput("other-picture", change(0, make(1, 3, 4, 4)), ValueError, r"maps must have shape \[4, 4, 4\]")
    yield BadInput("norm-weight", change(2, make(4)), ValueError, r"norm_weight must have shape \[3\]")
    yield BadInput("norm-bias", change(3, make(1)), ValueError, r"norm_bias must have shape \[3\]")
    yield BadInput("value", change(4, make(6, 3)), ValueError, r"value_weight must have shape \[3, 3\]")
    yield BadInput("out", change(5, make(3, 3, 1, 1)), ValueError, r"out_weight must have shape \[3, 3\]")
    yield BadInput("maps-dtype", change(1, others[0].to(other_dtype(x))), TypeError, "maps is")
    yield BadInput("eps", (x, *others, 2, False, 0.0), ValueError, "eps must be above 0")


def bench(make: Make) -> Iterator[Sample]:
    for c, h, w in ((48, 48, 80), (48, 184, 320), (32, 184, 320), (16, 184, 320)):
        for grid in (False, True):
            args = (*_tensors(make, (1, c, h, w), 8), 8, grid, 1e-5)
            yield Sample(f"1x{c}x{h}x{w}-{'grid' if grid else 'windows'}", args)
