"""depthwise_conv: a depthwise convolution of any odd size with bias, activation, gate and residual in one call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from ..checks import check_choice, check_depthwise, check_number, check_picture, check_shape
from ..dispatch import call
from ..functional import ACTIVATIONS, autocast_to, empty_result
from ..register import register
from ..spec import BadInput, Cost, Make, OpSpec, Sample, other_dtype
from .reference import reference
from .rule import faster


def depthwise_conv(
    x: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [C, 1, KH, KW]
    bias: Tensor | None = None,  # [C]
    *,
    dilation: int | tuple[int, int] = 1,
    activation: str = "none",
    negative_slope: float = 0.01,
    gate: Tensor | None = None,  # [N, C, H, W]
    residual: Tensor | None = None,  # [N, C, H, W]
) -> Tensor:  # [N, C, H, W]
    """Convolves every channel with its own filter, same size out as in, then activation, gate and residual.

    Equivalent to::

        act(F.conv2d(x, weight, bias, padding="same", dilation=dilation, groups=C)) * gate + residual

    Args:
        x: picture [N, C, H, W]; any N, H and W, 0 included; contiguous and channels_last are taken as they are.
        weight: one filter a channel, [C, 1, KH, KW], KH and KW odd from 1 to 31.
        bias: [C].
        dilation: distance between taps in pixels, one number or (rows, columns), at least 1.
        activation: none, relu, leaky_relu, gelu (exact, erf), silu or sigmoid.
        negative_slope: leaky_relu's slope below zero.
        gate: multiplied in after the activation, shape of x.
        residual: added last, shape of x.

    Returns:
        [N, C, H, W] in the dtype and layout of x.

    Dtypes: float32, float64, float16, bfloat16, the same for all arguments. Gradients: of every tensor argument; twice
    on the reference backend. Deterministic. Raises ValueError or TypeError in one line for arguments that do not fit.

    Source: the depthwise half of a depthwise-separable convolution (Chollet, arXiv 1610.02357).

    Example:
        >>> import torch, lightsr_kernels
        >>> x = torch.randn(1, 8, 16, 16)
        >>> lightsr_kernels.depthwise_conv(x, torch.randn(8, 1, 7, 7), activation="gelu").shape
        torch.Size([1, 8, 16, 16])
    """
    pair = list(dilation) if isinstance(dilation, list | tuple) else [dilation, dilation]
    return cast(Tensor, call(SPEC, x, weight, bias, pair, activation, negative_slope, gate, residual))


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dilation: list[int],
    activation: str,
    negative_slope: float,
    gate: Tensor | None,
    residual: Tensor | None,
) -> None:
    op = "depthwise_conv"
    check_picture(op, "x", x)
    check_depthwise(op, "weight", weight, x)
    if len(dilation) != 2 or not all(isinstance(each, int | torch.SymInt) and 0 < each < 2**62 for each in dilation):
        raise ValueError(f"{op}: dilation must be one or two whole numbers from 1 up, got {dilation}")
    check_choice(op, "activation", activation, ACTIVATIONS)
    check_number(op, "negative_slope", negative_slope)
    check_shape(op, "bias", bias, (x.shape[1],), x)
    check_shape(op, "gate", gate, x.shape, x)
    check_shape(op, "residual", residual, x.shape, x)


def _fake(x: Tensor, *_: object) -> Tensor:
    return empty_result(x, x.shape[1])


def _autocast(
    dtype: torch.dtype,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dilation: list[int],
    activation: str,
    negative_slope: float,
    gate: Tensor | None,
    residual: Tensor | None,
) -> Tensor:
    """Convolves in the dtype of autocast; a gate or residual of a wider one widens the result, as in eager code."""
    if 0 in x.shape[1:]:  # eager code convolves no pixels, and so casts nothing
        return reference(x, weight, bias, dilation, activation, negative_slope, gate, residual)
    x, weight, bias = autocast_to(x, dtype), autocast_to(weight, dtype), autocast_to(bias, dtype)
    if all(each is None or each.dtype == x.dtype for each in (gate, residual)):
        return cast(Tensor, SPEC.op(x, weight, bias, dilation, activation, negative_slope, gate, residual))
    out = cast(Tensor, SPEC.op(x, weight, bias, dilation, activation, negative_slope, None, None))
    out = out if gate is None else out * gate
    return out if residual is None else out + residual


def _cost(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dilation: list[int],
    activation: str,
    negative_slope: float,
    gate: Tensor | None,
    residual: Tensor | None,
) -> Cost:
    passes = 2 + (gate is not None) + (residual is not None)
    moved = passes * x.numel() + weight.numel()
    return Cost(bytes=moved * x.element_size(), flops=2 * x.numel() * weight.shape[2] * weight.shape[3])


def _call(
    name: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    dilation: tuple[int, int] = (1, 1),
    activation: str = "none",
    gate: Tensor | None = None,
    residual: Tensor | None = None,
) -> Sample:
    slope = 0.5  # a power of two, so that whole numbers stay exact
    return Sample(name, (x, weight, bias, list(dilation), activation, slope, gate, residual))


def _samples(make: Make) -> Iterator[Sample]:
    x = make(2, 3, 9, 7)
    yield _call("k1", x, make(3, 1, 1, 1))
    yield _call("k3-bias", x, make(3, 1, 3, 3), make(3))
    yield _call("k5-dilated", x, make(3, 1, 5, 5), make(3), (2, 3))
    yield _call("k7x3-rectangular", x, make(3, 1, 7, 3), make(3))
    yield _call("k31-larger-than-x", x, make(3, 1, 31, 31, scale=0.1), make(3))
    yield _call("1x1-picture", make(1, 2, 1, 1), make(2, 1, 5, 5), make(2))
    yield _call("no-pictures", make(0, 3, 9, 7), make(3, 1, 3, 3), make(3))
    yield _call("no-rows", make(2, 3, 0, 7), make(3, 1, 3, 3), make(3))
    yield _call("no-channels", make(2, 0, 9, 7), make(0, 1, 3, 3), make(0))
    yield _call("relu-residual", x, make(3, 1, 3, 3), make(3), activation="relu", residual=make(2, 3, 9, 7))
    yield _call("leaky-gate", x, make(3, 1, 3, 3), make(3), activation="leaky_relu", gate=make(2, 3, 9, 7))
    if not make.integers:  # these three round
        for activation in ("gelu", "silu", "sigmoid"):
            gate, residual = make(2, 3, 9, 7), make(2, 3, 9, 7)
            yield _call(
                f"{activation}-gate-residual",
                x,
                make(3, 1, 3, 3),
                make(3),
                activation=activation,
                gate=gate,
                residual=residual,
            )


def _bad_inputs(make: Make) -> Iterator[BadInput]:
    x, weight, bias = make(1, 3, 5, 5), make(3, 1, 3, 3), make(3)
    usual = ([1, 1], "none", 0.01, None, None)
    yield BadInput("3-d", (x[0], weight, bias, *usual), ValueError, "x must have 4 dimensions")
    yield BadInput("whole-numbers", (x.long(), weight, bias, *usual), TypeError, "x must be float32")
    yield BadInput("even-filter", (x, make(3, 1, 2, 2), bias, *usual), ValueError, "odd from 1 to 31")
    yield BadInput("huge-filter", (x, make(3, 1, 33, 3), bias, *usual), ValueError, "odd from 1 to 31")
    yield BadInput(
        "channels", (x, make(4, 1, 3, 3), bias, *usual), ValueError, r"weight must have shape \[3, 1, 3, 3\]"
    )
    yield BadInput("bias", (x, weight, make(4), *usual), ValueError, r"bias must have shape \[3\]")
    yield BadInput("dtype", (x, weight.to(other_dtype(x)), bias, *usual), TypeError, "weight is")
    yield BadInput("dilation", (x, weight, bias, [0, 1], *usual[1:]), ValueError, "dilation must be")
    yield BadInput("dilation-fraction", (x, weight, bias, [1.5, 1], *usual[1:]), ValueError, "dilation must be")
    yield BadInput("dilation-huge", (x, weight, bias, [1, 2**63], *usual[1:]), ValueError, "dilation must be")
    yield BadInput("slope", (x, weight, bias, [1, 1], "none", "a", None, None), TypeError, "negative_slope must be")
    yield BadInput("activation", (x, weight, bias, [1, 1], "tanh", *usual[2:]), ValueError, "activation must be one of")
    yield BadInput("gate", (x, weight, bias, *usual[:3], make(1, 3, 5, 4), None), ValueError, "gate must have shape")


def _bench(make: Make) -> Iterator[Sample]:
    for k in (3, 7, 13, 31):
        yield _call(f"1x64x180x320-k{k}", make(1, 64, 180, 320), make(64, 1, k, k, scale=0.1), make(64))


SPEC = register(
    OpSpec(
        name="depthwise_conv",
        schema="(Tensor x, Tensor weight, Tensor? bias, int[] dilation, str activation, float negative_slope, "
        "Tensor? gate, Tensor? residual) -> Tensor",
        source="Chollet, Xception, arXiv 1610.02357",
        reference=reference,
        check=_check,
        fake=_fake,
        samples=_samples,
        bad_inputs=_bad_inputs,
        bench=_bench,
        cost=_cost,
        backends=("cuda", "triton", "cpu", "reference"),
        faster=faster,
        autocast=_autocast,
        added=lambda *args: 7,
        exact_on_integers=True,
    )
)
