"""What the tests and benches call pixel_attention with."""

from __future__ import annotations

from collections.abc import Iterator

from ..spec import BadInput, Make, Sample, other_dtype


def samples(make: Make) -> Iterator[Sample]:
    weight, bias = make(5, 5, 1, 1), make(5)
    yield Sample("no-bias", (make(2, 5, 9, 7), weight, None))
    yield Sample("bias", (make(1, 5, 6, 11), weight, bias))
    yield Sample("1-channel", (make(2, 1, 5, 6), make(1, 1, 1, 1), make(1)))
    yield Sample("1x1-picture", (make(1, 5, 1, 1), weight, bias))
    yield Sample("no-pictures", (make(0, 5, 9, 7), weight, bias))


def bad_inputs(make: Make) -> Iterator[BadInput]:
    x, weight, bias = make(1, 5, 4, 3), make(5, 5, 1, 1), make(5)
    yield BadInput("3-d", (x[0], weight, bias), ValueError, "x must have 4 dimensions")
    yield BadInput("not-a-tensor", (None, weight, bias), TypeError, "x must be a torch.Tensor")
    yield BadInput("whole-numbers", (x.long(), weight, bias), TypeError, "x must be float32")
    yield BadInput("weight-missing", (x, None, bias), TypeError, "weight must be a torch.Tensor")
    shape = r"weight must have shape \[5, 5, 1, 1\]"
    yield BadInput("weight-channels", (x, make(5, 4, 1, 1), bias), ValueError, shape)
    yield BadInput("weight-results", (x, make(4, 5, 1, 1), bias), ValueError, shape)
    yield BadInput("weight-3x3", (x, make(5, 5, 3, 3), bias), ValueError, shape)
    yield BadInput("weight-dtype", (x, weight.to(other_dtype(x)), bias), TypeError, "weight is")
    yield BadInput("bias", (x, weight, make(4)), ValueError, r"bias must have shape \[5\]")


def bench(make: Make) -> Iterator[Sample]:
    for n, h, w in ((1, 45, 80), (1, 180, 320), (16, 64, 64)):
        for c in (40, 64):
            yield Sample(f"{n}x{c}x{h}x{w}", (make(n, c, h, w), make(c, c, 1, 1), make(c)))
