"""The calls that tests and benches of instance_norm make."""

from __future__ import annotations

from collections.abc import Iterator

from ..spec import BadInput, Make, Sample, other_dtype


def samples(make: Make) -> Iterator[Sample]:
    x = make(2, 5, 9, 7)
    yield Sample("plain", (x, None, None, 1e-5))
    yield Sample("weight-bias", (x, make(5), make(5), 1e-5))
    yield Sample("weight", (make(2, 9, 1, 11), make(9), None, 1e-3))
    yield Sample("bias", (make(2, 1, 4, 5), None, make(1), 1e-5))
    yield Sample("1x1-picture", (make(2, 4, 1, 1), make(4), make(4), 1e-5))
    yield Sample("no-pictures", (make(0, 3, 9, 7), make(3), make(3), 1e-5))
    yield Sample("large-mean", (make(2, 6, 8, 9, offset=100.0), make(6), make(6), 1e-5))


def bad_inputs(make: Make) -> Iterator[BadInput]:
    x, weight, bias = make(1, 3, 5, 6), make(3), make(3)
    yield BadInput("3-d", (x[0], weight, bias, 1e-5), ValueError, "x must have 4 dimensions")
    yield BadInput("whole-numbers", (x.long(), weight, bias, 1e-5), TypeError, "x must be float32")
    yield BadInput("no-pixels", (make(1, 3, 0, 6), None, None, 1e-5), ValueError, "at least one channel and one pixel")
    yield BadInput("no-channels", (make(1, 0, 5, 6), None, None, 1e-5), ValueError, "at least one channel and")
    yield BadInput("weight", (x, make(4), bias, 1e-5), ValueError, r"weight must have shape \[3\]")
    yield BadInput("bias", (x, weight, make(3, 1), 1e-5), ValueError, r"bias must have shape \[3\]")
    yield BadInput("dtype", (x, weight, bias.to(other_dtype(x)), 1e-5), TypeError, "bias is")
    yield BadInput("eps", (x, weight, bias, 0.0), ValueError, "eps must be above 0")


def bench(make: Make) -> Iterator[Sample]:
    for n, c, h, w in ((1, 64, 48, 80), (1, 64, 180, 320), (16, 64, 64, 64)):
        yield Sample(f"{n}x{c}x{h}x{w}", (make(n, c, h, w), make(c), make(c), 1e-5))
