"""The calls that the tests and benches of dense_conv make, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ..spec import BadInput, Cost, Make, Sample, other_dtype


def _call(
    name: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str = "none",
    residual: Tensor | None = None,
    pixel_shuffle: int = 1,
) -> Sample:
    slope = 0.5  # a power of two, so that whole numbers stay exact
    return Sample(name, (x, weight, bias, activation, slope, residual, pixel_shuffle))


def samples(make: Make) -> Iterator[Sample]:
    x = make(2, 3, 9, 7)
    yield _call("k3-bias", x, make(5, 3, 3, 3, scale=0.2), make(5))
    yield _call("k3-many-channels", make(1, 17, 9, 11), make(20, 17, 3, 3, scale=0.1), make(20))
    yield _call("k1", x, make(4, 3, 1, 1))
    yield _call("k5x3-rectangular", x, make(2, 3, 5, 3, scale=0.2), make(2))
    yield _call("k7-larger-than-x", make(1, 2, 2, 5), make(3, 2, 7, 7, scale=0.1), make(3))
    yield _call("1x1-picture", make(1, 12, 1, 1), make(12, 12, 3, 3, scale=0.1), make(12))
    yield _call("no-pictures", make(0, 3, 9, 7), make(4, 3, 3, 3), make(4))
    yield _call("no-rows", make(2, 3, 0, 7), make(4, 3, 3, 3), make(4))
    yield _call("no-channels", make(2, 0, 9, 7), make(4, 0, 3, 3), make(4))
    yield _call("no-filters", x, make(0, 3, 3, 3), make(0), residual=make(2, 0, 9, 7))
    yield _call("relu-residual", x, make(5, 3, 3, 3, scale=0.2), make(5), "relu", make(2, 5, 9, 7))
    yield _call("leaky-shuffle", x, make(8, 3, 3, 3, scale=0.2), make(8), "leaky_relu", pixel_shuffle=2)
    args = make(2, 14, 6, 7), make(18, 14, 3, 3, scale=0.1), make(18)
    yield _call("residual-shuffle-many-channels", *args, residual=make(2, 18, 6, 7), pixel_shuffle=3)
    if not make.integers:  # these three round
        for activation in ("gelu", "silu", "sigmoid"):
            args = make(1, 13, 5, 6), make(16, 13, 3, 3, scale=0.1), make(16)
            yield _call(f"{activation}-residual-shuffle", *args, activation, make(1, 16, 5, 6), 4)


def bad_inputs(make: Make) -> Iterator[BadInput]:
    x, weight, bias = make(1, 3, 5, 5), make(4, 3, 3, 3), make(4)
    usual = ("none", 0.01, None, 1)
    yield BadInput("3-d", (x[0], weight, bias, *usual), ValueError, "x must have 4 dimensions")
    yield BadInput("whole-numbers", (x.long(), weight, bias, *usual), TypeError, "x must be float32")
    yield BadInput("weight-2-d", (x, make(4, 3), bias, *usual), ValueError, "weight must have 4 dimensions")
    yield BadInput("even-filter", (x, make(4, 3, 2, 2), bias, *usual), ValueError, "odd from 1 to 7")
    yield BadInput("huge-filter", (x, make(4, 3, 9, 3), bias, *usual), ValueError, "odd from 1 to 7")
    yield BadInput(
        "channels", (x, make(4, 2, 3, 3), bias, *usual), ValueError, r"weight must have shape \[4, 3, 3, 3\]"
    )
    yield BadInput("bias", (x, weight, make(3), *usual), ValueError, r"bias must have shape \[4\]")
    yield BadInput("dtype", (x, weight.to(other_dtype(x)), bias, *usual), TypeError, "weight is")
    yield BadInput("activation", (x, weight, bias, "tanh", *usual[1:]), ValueError, "activation must be one of")
    yield BadInput("slope", (x, weight, bias, "none", "a", None, 1), TypeError, "negative_slope must be")
    yield BadInput(
        "residual", (x, weight, bias, "none", 0.01, make(1, 3, 5, 5), 1), ValueError, "residual must have shape"
    )
    yield BadInput("shuffle-none", (x, weight, bias, *usual[:3], 0), ValueError, "pixel_shuffle must be a whole number")
    yield BadInput("shuffle-fraction", (x, weight, bias, *usual[:3], 2.0), ValueError, "pixel_shuffle must be a whole")
    yield BadInput("shuffle", (x, weight, bias, *usual[:3], 3), ValueError, "divides C_out by its square, 4; got 3")


def bench(make: Make) -> Iterator[Sample]:
    def each(n: int, c: int, h: int, w: int, outs: int, k: int, activation: str = "none", shuffle: int = 1) -> Sample:
        ending = f"-{activation}" if activation != "none" else "-shuffle" if shuffle > 1 else ""
        weight = make(outs, c, k, k, scale=(c * k * k) ** -0.5)
        name = f"{n}x{c}x{h}x{w}-k{k}-to-{outs}{ending}"
        return _call(name, make(n, c, h, w), weight, make(outs), activation, None, shuffle)

    for channels in (64, 52, 48, 32):
        yield each(1, channels, 180, 320, channels, 3)
    yield each(1, 52, 180, 320, 17, 3, "gelu")
    yield each(1, 17, 180, 320, 52, 3)
    yield each(1, 64, 180, 320, 48, 3, shuffle=4)
    yield each(1, 3, 180, 320, 64, 3)
    yield each(1, 64, 180, 320, 64, 1, "gelu")
    yield each(16, 64, 48, 48, 64, 3)


def cost(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    negative_slope: float,
    residual: Tensor | None,
    pixel_shuffle: int,
) -> Cost:
    n, _, h, w = x.shape
    pixels, outs = n * h * w, weight.shape[0]
    moved = x.numel() + (1 + (residual is not None)) * pixels * outs + weight.numel()
    return Cost(bytes=moved * x.element_size(), flops=2 * pixels * weight.numel())
