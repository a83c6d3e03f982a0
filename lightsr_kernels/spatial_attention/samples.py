"""The calls that tests and benches of spatial_attention make."""

from __future__ import annotations

from collections.abc import Iterator

from ..spec import BadInput, Make, Sample, other_dtype


def samples(make: Make) -> Iterator[Sample]:
    yield Sample("odd-sizes", (make(2, 3, 9, 7), make(1, 2, 7, 7, scale=0.2)))
    yield Sample("one-row-k3", (make(1, 5, 1, 11), make(1, 2, 3, 3)))
    yield Sample("one-channel-k1", (make(2, 1, 4, 5), make(1, 2, 1, 1)))
    yield Sample("filter-larger-than-x", (make(1, 4, 3, 2), make(1, 2, 9, 9, scale=0.2)))
    yield Sample("1x1-picture", (make(2, 4, 1, 1), make(1, 2, 7, 7)))
    yield Sample("no-pictures", (make(0, 3, 9, 7), make(1, 2, 7, 7)))


def bad_inputs(make: Make) -> Iterator[BadInput]:
    x, weight = make(1, 3, 5, 6), make(1, 2, 7, 7)
    yield BadInput("3-d", (x[0], weight), ValueError, "x must have 4 dimensions")
    yield BadInput("whole-numbers", (x.long(), weight), TypeError, "x must be float32")
    yield BadInput("no-pixels", (make(1, 3, 0, 6), weight), ValueError, "at least one channel and one pixel")
    yield BadInput("no-channels", (make(1, 0, 5, 6), weight), ValueError, "at least one channel and one pixel")
    yield BadInput("weight-even", (x, make(1, 2, 6, 6)), ValueError, "weight must be odd a side, got 6")
    yield BadInput("weight-3-maps", (x, make(1, 3, 7, 7)), ValueError, r"weight must have shape \[1, 2, 7, 7\]")
    yield BadInput("weight-7x5", (x, make(1, 2, 7, 5)), ValueError, r"weight must have shape \[1, 2, 5, 5\]")
    yield BadInput("weight-3-d", (x, weight[0]), ValueError, "weight must have 4 dimensions")
    yield BadInput("dtype", (x, weight.to(other_dtype(x))), TypeError, "weight is")


def bench(make: Make) -> Iterator[Sample]:
    for n, c, h, w in ((1, 64, 48, 80), (1, 26, 180, 320), (1, 64, 180, 320), (16, 64, 64, 64)):
        yield Sample(f"{n}x{c}x{h}x{w}", (make(n, c, h, w), make(1, 2, 7, 7, scale=0.1)))
