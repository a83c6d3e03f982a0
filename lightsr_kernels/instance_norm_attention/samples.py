"""The calls that tests and benches of instance_norm_attention make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ..spec import BadInput, Make, Sample, other_dtype


def _weights(make: Make, c: int, r: int, k: int, statistic: float = 1.0) -> tuple[Tensor, ...]:
    return (
        make(c, offset=1.0),
        make(c),
        make(r, c, 1, 1, scale=1 / statistic),
        make(r, offset=1.0),  # most of the hidden units are above relu's 0
        make(c, r, 1, 1),
        make(c),
        make(1, 2, k, k, scale=1 / k),
    )


def samples(make: Make) -> Iterator[Sample]:
    yield Sample("odd-sizes", (make(2, 3, 9, 7), *_weights(make, 3, 2, 7), 1e-5))
    yield Sample("one-row-k3", (make(1, 5, 1, 11), *_weights(make, 5, 1, 3), 1e-5))
    yield Sample("one-channel-k1", (make(2, 1, 4, 5), *_weights(make, 1, 3, 1), 1e-3))
    yield Sample("filter-larger-than-x", (make(1, 4, 3, 2), *_weights(make, 4, 2, 9), 1e-5))
    yield Sample("1x1-picture", (make(2, 5, 1, 1), *_weights(make, 5, 3, 7), 1e-5))
    yield Sample("no-pictures", (make(0, 3, 9, 7), *_weights(make, 3, 2, 7), 1e-5))
    yield Sample("large-mean", (make(1, 3, 8, 9, offset=100.0), *_weights(make, 3, 2, 7, statistic=100.0), 1e-5))


def bad_inputs(make: Make) -> Iterator[BadInput]:
    x = make(1, 3, 5, 6)
    weights = _weights(make, 3, 2, 7)

    def change(place: int, value: Tensor) -> tuple[Any, ...]:
        return (x, *weights[:place], value, *weights[place + 1 :], 1e-5)

    yield BadInput("3-d", (x[0], *weights, 1e-5), ValueError, "x must have 4 dimensions")
    yield BadInput("whole-numbers", (x.long(), *weights, 1e-5), TypeError, "x must be float32")
    yield BadInput("no-pixels", (make(1, 3, 0, 6), *weights, 1e-5), ValueError, "at least one channel and one pixel")
    yield BadInput("no-channels", (make(1, 0, 5, 6), *weights, 1e-5), ValueError, "at least one channel and one pixel")
    yield BadInput("norm-weight", change(0, make(4)), ValueError, r"norm_weight must have shape \[3\]")
    yield BadInput("norm-bias", change(1, make(3, 1)), ValueError, r"norm_bias must have shape \[3\]")
    yield BadInput("down", change(2, make(2, 4, 1, 1)), ValueError, r"down_weight must have shape \[2, 3, 1, 1\]")
    yield BadInput("down-3x3", change(2, make(2, 3, 3, 3)), ValueError, r"down_weight must have shape \[2, 3, 1, 1\]")
    yield BadInput("down-2-d", change(2, make(2, 3)), ValueError, "down_weight must have 4 dimensions")
    yield BadInput("down-bias", change(3, make(3)), ValueError, r"down_bias must have shape \[2\]")
    yield BadInput("up", change(4, make(3, 3, 1, 1)), ValueError, r"up_weight must have shape \[3, 2, 1, 1\]")
    yield BadInput("up-bias", change(5, make(2)), ValueError, r"up_bias must have shape \[3\]")
    yield BadInput("spatial-even", change(6, make(1, 2, 6, 6)), ValueError, "spatial_weight must be odd")
    yield BadInput("spatial-3-maps", change(6, make(1, 3, 7, 7)), ValueError, r"must have shape \[1, 2, 7, 7\]")
    yield BadInput("spatial-7x5", change(6, make(1, 2, 7, 5)), ValueError, r"must have shape \[1, 2, 5, 5\]")
    yield BadInput("dtype", change(1, weights[1].to(other_dtype(x))), TypeError, "norm_bias is")
    yield BadInput("eps", (x, *weights, 0.0), ValueError, "eps must be above 0")


def bench(make: Make) -> Iterator[Sample]:
    for n, c, h, w in ((1, 64, 48, 80), (1, 64, 184, 320), (1, 48, 184, 320), (16, 64, 64, 64)):
        yield Sample(f"{n}x{c}x{h}x{w}", (make(n, c, h, w), *_weights(make, c, c // 8, 7), 1e-5))
