"""The calls that the tests and benches of attended_conv make, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ..channel_attention.samples import gate_layers
from ..spec import BadInput, Cost, Make, Sample, other_dtype


def _layers(make: Make, c: int, outs: int, k: tuple[int, int], hidden: int) -> tuple[Tensor, ...]:
    convolution = make(outs, c, *k, scale=(c * k[0] * k[1]) ** -0.5), make(outs)
    return *convolution, *gate_layers(make, outs, hidden)


def samples(make: Make) -> Iterator[Sample]:
    yield Sample("one-picture", (make(1, 14, 9, 11), *_layers(make, 14, 20, (3, 3), 2)))
    yield Sample("two-pictures", (make(2, 3, 7, 9), *_layers(make, 3, 5, (3, 3), 2)))
    weight, _, down, _, up, _ = _layers(make, 17, 4, (5, 3), 1)
    yield Sample("no-biases-k5x3", (make(1, 17, 8, 6), weight, None, down, None, up, None))
    yield Sample("k7-larger-than-x", (make(1, 2, 2, 5), *_layers(make, 2, 3, (7, 7), 2)))
    yield Sample("k1", (make(1, 5, 4, 21), *_layers(make, 5, 4, (1, 1), 3)))
    yield Sample("1x1-picture", (make(1, 3, 1, 1), *_layers(make, 3, 4, (3, 3), 2)))
    yield Sample("no-pictures", (make(0, 3, 9, 7), *_layers(make, 3, 4, (3, 3), 2)))


def bad_inputs(make: Make) -> Iterator[BadInput]:
    x = make(1, 3, 5, 6)
    layers = _layers(make, 3, 4, (3, 3), 2)

    def change(place: int, value: Tensor) -> tuple[Any, ...]:
        return (x, *layers[:place], value, *layers[place + 1 :])

    yield BadInput("3-d", (x[0], *layers), ValueError, "x must have 4 dimensions")
    yield BadInput("whole-numbers", (x.long(), *layers), TypeError, "x must be float32")
    yield BadInput("no-pixels", (make(1, 3, 0, 6), *layers), ValueError, "at least one channel and one pixel")
    yield BadInput("no-filters", change(0, make(0, 3, 3, 3)), ValueError, "weight must have at least one filter")
    yield BadInput("even", change(0, make(4, 3, 2, 3)), ValueError, "weight must be odd from 1 to 7")
    yield BadInput("channels", change(0, make(4, 2, 3, 3)), ValueError, r"weight must have shape \[4, 3, 3, 3\]")
    yield BadInput("bias", change(1, make(3)), ValueError, r"bias must have shape \[4\]")
    yield BadInput("down", change(2, make(2, 3, 1, 1)), ValueError, r"down_weight must have shape \[2, 4, 1, 1\]")
    yield BadInput("down-2-d", change(2, make(2, 4)), ValueError, "down_weight must have 4 dimensions")
    yield BadInput("no-hidden", change(2, make(0, 4, 1, 1)), ValueError, "down_weight must have at least one filter")
    yield BadInput("down-bias", change(3, make(3)), ValueError, r"down_bias must have shape \[2\]")
    yield BadInput("up", change(4, make(4, 3, 1, 1)), ValueError, r"up_weight must have shape \[4, 2, 1, 1\]")
    yield BadInput("up-bias", change(5, make(2)), ValueError, r"up_bias must have shape \[4\]")
    yield BadInput("dtype", change(5, layers[5].to(other_dtype(x))), TypeError, "up_bias is")


def bench(make: Make) -> Iterator[Sample]:
    yield Sample("1x17x48x80-to-52", (make(1, 17, 48, 80), *_layers(make, 17, 52, (3, 3), 1)))
    yield Sample("1x17x180x320-to-52", (make(1, 17, 180, 320), *_layers(make, 17, 52, (3, 3), 1)))
    yield Sample("1x64x180x320-to-64", (make(1, 64, 180, 320), *_layers(make, 64, 64, (3, 3), 4)))


def cost(x: Tensor, weight: Tensor, *others: Any) -> Cost:
    # Once in, for the means as well: which needs the picture to stay on the chip until it is convolved.
    n, _, h, w = x.shape
    pixels, layers = n * h * w, 2 * others[1].numel()
    moved = x.numel() + pixels * weight.shape[0] + weight.numel() + layers
    return Cost(bytes=moved * x.element_size(), flops=2 * pixels * weight.numel() + x.numel() + 2 * n * layers)
