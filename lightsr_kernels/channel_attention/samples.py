"""The calls that tests and benches of channel_attention make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ..spec import BadInput, Make, Sample, other_dtype


def gate_layers(make: Make, c: int, r: int, statistic: float = 1.0) -> tuple[Tensor, ...]:
    """The two small layers of a gate, down and up with their biases, for means and such of the size of `statistic`."""
    # The offset leaves most of the hidden units above relu's 0.
    return make(r, c, 1, 1, scale=1 / statistic), make(r, offset=1.0), make(c, r, 1, 1), make(c)


def samples(make: Make) -> Iterator[Sample]:
    x = make(2, 3, 9, 7)
    down, down_bias, up, up_bias = gate_layers(make, 3, 2)
    yield Sample("contrast", (x, down, down_bias, up, up_bias, "mean+std"))
    yield Sample("squeeze", (x, down, down_bias, up, up_bias, "mean"))
    yield Sample("no-biases", (x, down, None, up, None, "mean+std"))
    yield Sample("one-row-one-hidden", (make(1, 5, 1, 11), *gate_layers(make, 5, 1), "mean+std"))
    yield Sample("one-channel", (make(2, 1, 4, 5), *gate_layers(make, 1, 3), "mean"))
    yield Sample("1x1-picture", (make(2, 4, 1, 1), *gate_layers(make, 4, 2), "mean+std"))
    yield Sample("no-pictures", (make(0, 3, 9, 7), *gate_layers(make, 3, 2), "mean+std"))
    yield Sample("large-mean", (make(1, 3, 8, 9, offset=100.0), *gate_layers(make, 3, 2, 100.0), "mean+std"))


def bad_inputs(make: Make) -> Iterator[BadInput]:
    x, usual = make(1, 3, 5, 6), "mean+std"
    layers = gate_layers(make, 3, 2)

    def change(place: int, value: Tensor) -> tuple[Any, ...]:
        return (x, *layers[:place], value, *layers[place + 1 :], usual)

    yield BadInput("3-d", (x[0], *layers, usual), ValueError, "x must have 4 dimensions")
    yield BadInput("whole-numbers", (x.long(), *layers, usual), TypeError, "x must be float32")
    yield BadInput("no-pixels", (make(1, 3, 0, 6), *layers, usual), ValueError, "at least one channel and one pixel")
    yield BadInput("no-channels", (make(1, 0, 5, 6), *layers, usual), ValueError, "at least one channel and one pixel")
    yield BadInput("down", change(0, make(2, 4, 1, 1)), ValueError, r"down_weight must have shape \[2, 3, 1, 1\]")
    yield BadInput("down-2-d", change(0, make(2, 3)), ValueError, "down_weight must have 4 dimensions")
    yield BadInput("down-bias", change(1, make(3)), ValueError, r"down_bias must have shape \[2\]")
    yield BadInput("up", change(2, make(3, 3, 1, 1)), ValueError, r"up_weight must have shape \[3, 2, 1, 1\]")
    yield BadInput("up-bias", change(3, make(2)), ValueError, r"up_bias must have shape \[3\]")
    yield BadInput("dtype", change(3, layers[3].to(other_dtype(x))), TypeError, "up_bias is")
    yield BadInput("statistic", (x, *layers, "max"), ValueError, r"statistic must be one of mean\+std, mean")


def bench(make: Make) -> Iterator[Sample]:
    for n, c, h, w in ((1, 64, 48, 80), (1, 64, 180, 320), (16, 64, 64, 64)):
        yield Sample(f"{n}x{c}x{h}x{w}", (make(n, c, h, w), *gate_layers(make, c, c // 16), "mean+std"))
    yield Sample("1x64x180x320-mean", (make(1, 64, 180, 320), *gate_layers(make, 64, 4), "mean"))
