"""gated_feed_forward: layer norm, 1x1 and depthwise 3x3 convolution, GELU gate, 1x1 convolution and residual."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from ..checks import check_picture, check_required
from ..dispatch import call
from ..functional import empty_result
from ..register import register
from ..spec import BadInput, Cost, Make, OpSpec, Sample, other_dtype
from .reference import reference


def gated_feed_forward(
    x: Tensor,  # [N, C, H, W]
    norm_weight: Tensor,  # [C]
    norm_bias: Tensor,  # [C]
    in_weight: Tensor,  # [2M, C, 1, 1]
    depthwise_weight: Tensor,  # [2M, 1, 3, 3]
    out_weight: Tensor,  # [C, M, 1, 1]
    *,
    eps: float = 1e-6,
) -> Tensor:  # [N, C, H, W]
    """Adds to x a two-branch feed-forward network of its normalised pixels, one branch gating the other.

    Equivalent to::

        h = conv2d(F.layer_norm over channels of x, in_weight)
        a, b = conv2d(h, depthwise_weight, padding=1, groups=2 * M).chunk(2, 1)
        x + conv2d(gelu(a) * b, out_weight)

    Args:
        x: picture [N, C, H, W] of at least one channel and one pixel; any N, 0 included; contiguous and channels_last
            are taken as they are.
        norm_weight: the layer norm's factor, [C].
        norm_bias: the layer norm's offset, [C].
        in_weight: 1x1 filters, those of the gating branch first, [2M, C, 1, 1], M at least 1; no bias.
        depthwise_weight: one 3x3 filter a channel, [2M, 1, 3, 3]; no bias; what it reads outside the picture is 0.
        out_weight: 1x1 filters back to C channels, [C, M, 1, 1]; no bias.
        eps: added to the variance in the layer norm; above 0.

    Returns:
        [N, C, H, W] in the dtype and layout of x.

    Dtypes: float32, float64, float16, bfloat16, the same for all arguments. Gradients: of every tensor argument; twice
    on the reference backend. Deterministic. GELU is the exact (erf) one. Raises ValueError or TypeError in one line for
    arguments that do not fit.

    Source: GDFN of Restormer (Zamir et al., arXiv 2111.09881, equation 4), as in ASID (arXiv 2501.15774) and IDSA-Net.

    Example:
        >>> import torch, lightsr_kernels
        >>> x, ones, zeros = torch.randn(1, 8, 16, 16), torch.ones(8), torch.zeros(8)
        >>> into, depthwise, out = torch.randn(16, 8, 1, 1), torch.randn(16, 1, 3, 3), torch.randn(8, 8, 1, 1)
        >>> lightsr_kernels.gated_feed_forward(x, ones, zeros, into, depthwise, out).shape
        torch.Size([1, 8, 16, 16])
    """
    return cast(Tensor, call(SPEC, x, norm_weight, norm_bias, in_weight, depthwise_weight, out_weight, eps))


def _check(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    in_weight: Tensor,
    depthwise_weight: Tensor,
    out_weight: Tensor,
    eps: float,
) -> None:
    op = "gated_feed_forward"
    check_picture(op, "x", x)
    check_picture(op, "in_weight", in_weight)
    c, m2 = x.shape[1], in_weight.shape[0]
    if min(x.shape[1:]) < 1:
        raise ValueError(f"{op}: x must have at least one channel and one pixel, got shape {list(x.shape)}")
    if m2 % 2 or m2 == 0:
        raise ValueError(f"{op}: in_weight must have an even number of filters from 2 up, got {m2}")
    check_required(op, "norm_weight", norm_weight, (c,), x)
    check_required(op, "norm_bias", norm_bias, (c,), x)
    check_required(op, "in_weight", in_weight, (m2, c, 1, 1), x)
    check_required(op, "depthwise_weight", depthwise_weight, (m2, 1, 3, 3), x)
    check_required(op, "out_weight", out_weight, (c, m2 // 2, 1, 1), x)
    if not eps > 0:
        raise ValueError(f"{op}: eps must be above 0, got {eps}")


def _fake(x: Tensor, *_: object) -> Tensor:
    return empty_result(x, x.shape[1])


def _cost(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    in_weight: Tensor,
    depthwise_weight: Tensor,
    out_weight: Tensor,
    eps: float,
) -> Cost:
    n, _, h, w = x.shape
    weights = in_weight.numel() + depthwise_weight.numel() + out_weight.numel()  # each is used once a pixel
    return Cost(bytes=(2 * x.numel() + weights) * x.element_size(), flops=2 * weights * n * h * w)


def _weights(make: Make, c: int, m: int) -> tuple[Tensor, ...]:
    return (
        make(c, offset=1.0),
        make(c, scale=0.5),
        make(2 * m, c, 1, 1, scale=c**-0.5),
        make(2 * m, 1, 3, 3, scale=0.3),
        make(c, m, 1, 1, scale=m**-0.5),
    )


def _samples(make: Make) -> Iterator[Sample]:
    yield Sample("odd-sizes", (make(2, 3, 9, 7), *_weights(make, 3, 3), 1e-6))
    yield Sample("wider", (make(1, 2, 4, 5), *_weights(make, 2, 5), 1e-6))
    yield Sample("narrower", (make(1, 6, 5, 4), *_weights(make, 6, 1), 1e-3))
    yield Sample("one-row", (make(1, 3, 1, 8), *_weights(make, 3, 2), 1e-6))
    yield Sample("one-channel", (make(2, 1, 4, 5), *_weights(make, 1, 2), 1e-6))
    yield Sample("1x1-picture", (make(2, 4, 1, 1), *_weights(make, 4, 4), 1e-6))
    yield Sample("no-pictures", (make(0, 3, 9, 7), *_weights(make, 3, 3), 1e-6))


def _bad_inputs(make: Make) -> Iterator[BadInput]:
    x, weights = make(1, 3, 5, 6), _weights(make, 3, 2)

    def change(place: int, value: Tensor) -> tuple[Any, ...]:
        return (x, *weights[:place], value, *weights[place + 1 :], 1e-6)

    yield BadInput("3-d", (x[0], *weights, 1e-6), ValueError, "x must have 4 dimensions")
    yield BadInput("whole-numbers", (x.long(), *weights, 1e-6), TypeError, "x must be float32")
    yield BadInput("no-pixels", (make(1, 3, 5, 0), *weights, 1e-6), ValueError, "at least one channel and one pixel")
    yield BadInput("no-channels", (x[:, :0], *weights, 1e-6), ValueError, "at least one channel and one pixel")
    yield BadInput("norm-weight", change(0, make(4)), ValueError, r"norm_weight must have shape \[3\]")
    yield BadInput("norm-bias", change(1, make(4)), ValueError, r"norm_bias must have shape \[3\]")
    yield BadInput("in-odd", change(2, make(5, 3, 1, 1)), ValueError, "even number of filters from 2 up, got 5")
    yield BadInput("in-none", change(2, make(0, 3, 1, 1)), ValueError, "even number of filters from 2 up, got 0")
    yield BadInput("in-2-d", change(2, make(4, 3)), ValueError, "in_weight must have 4 dimensions")
    yield BadInput("in-3x3", change(2, make(4, 3, 3, 3)), ValueError, r"in_weight must have shape \[4, 3, 1, 1\]")
    yield BadInput("depthwise", change(3, make(4, 1, 5, 5)), ValueError, r"must have shape \[4, 1, 3, 3\]")
    yield BadInput("depthwise-half", change(3, make(2, 1, 3, 3)), ValueError, r"must have shape \[4, 1, 3, 3\]")
    yield BadInput("out", change(4, make(3, 4, 1, 1)), ValueError, r"out_weight must have shape \[3, 2, 1, 1\]")
    yield BadInput("dtype", change(4, weights[4].to(other_dtype(x))), TypeError, "out_weight is")
    yield BadInput("eps", (x, *weights, -1e-6), ValueError, "eps must be above 0")


def _bench(make: Make) -> Iterator[Sample]:
    for c, h, w in ((48, 48, 80), (48, 184, 320), (32, 184, 320), (16, 184, 320)):
        yield Sample(f"1x{c}x{h}x{w}", (make(1, c, h, w), *_weights(make, c, c), 1e-6))


def _autocast(dtype: torch.dtype, x: Tensor, *others: Any) -> Tensor:
    """In the dtype of x, which is that of eager code's result: the kernels' products are exact enough in it."""
    return cast(Tensor, SPEC.op(x, *(each.to(x.dtype) if isinstance(each, Tensor) else each for each in others)))


SPEC = register(
    OpSpec(
        name="gated_feed_forward",
        schema="(Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor in_weight, Tensor depthwise_weight, "
        "Tensor out_weight, float eps) -> Tensor",
        source="GDFN of Restormer, arXiv 2111.09881, equation 4; ASID, arXiv 2501.15774",
        reference=reference,
        check=_check,
        fake=_fake,
        samples=_samples,
        bad_inputs=_bad_inputs,
        bench=_bench,
        cost=_cost,
        backends=("triton", "cpu", "reference"),
        autocast=_autocast,
    )
)
