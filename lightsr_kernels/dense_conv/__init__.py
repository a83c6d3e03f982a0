"""dense_conv: a convolution over all channels with bias, residual, activation and pixel shuffle in one call."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ..checks import check_choice, check_number, check_picture, check_shape
from ..dispatch import call
from ..functional import ACTIVATIONS, activate, autocast_to, layout_of
from ..register import register
from ..spec import OpSpec
from .reference import reference
from .rule import faster
from .samples import bad_inputs, bench, cost, samples

SIDES = (1, 3, 5, 7)


def dense_conv(
    x: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [C_out, C, KH, KW]
    bias: Tensor | None = None,  # [C_out]
    *,
    activation: str = "none",
    negative_slope: float = 0.01,
    residual: Tensor | None = None,  # [N, C_out, H, W]
    pixel_shuffle: int = 1,
) -> Tensor:  # [N, C_out / pixel_shuffle^2, pixel_shuffle * H, pixel_shuffle * W]
    """Convolves over all channels, same size out as in, then residual, activation and pixel shuffle.

    Equivalent to::

        F.pixel_shuffle(act(F.conv2d(x, weight, bias, padding="same") + residual), pixel_shuffle)

    Args:
        x: picture [N, C, H, W]; any N, C, H and W, 0 included; contiguous and channels_last are taken as they are.
        weight: the filters, [C_out, C, KH, KW], KH and KW 1, 3, 5 or 7.
        bias: [C_out].
        activation: none, relu, leaky_relu, gelu (exact, erf), silu or sigmoid.
        negative_slope: leaky_relu's slope below zero.
        residual: added before the activation, [N, C_out, H, W].
        pixel_shuffle: how many times the result is enlarged, each side, at the cost of its channels; its square
            divides C_out. 1: not at all.

    Returns:
        [N, C_out, H, W], or with pixel_shuffle r [N, C_out / r^2, r H, r W], in the dtype and layout of x.

    Dtypes: float32, float64, float16, bfloat16, the same for all arguments. Gradients: of every tensor argument; twice
    on the reference backend. Deterministic. Raises ValueError or TypeError in one line for arguments that do not fit.

    Source: F.conv2d; pixel shuffle is ESPCN's (Shi et al., arXiv 1609.05158, equation 4).

    Example:
        >>> import torch, lightsr_kernels
        >>> x = torch.randn(1, 8, 16, 16)
        >>> lightsr_kernels.dense_conv(x, torch.randn(12, 8, 3, 3), pixel_shuffle=2).shape
        torch.Size([1, 3, 32, 32])
    """
    return cast(Tensor, call(SPEC, x, weight, bias, activation, negative_slope, residual, pixel_shuffle))


def check_filters(op: str, name: str, weight: Tensor, x: Tensor) -> int:
    """Requires filters [C_out, C, KH, KW] for x, as they may be here, and returns C_out."""
    check_picture(op, name, weight)
    outs, _, kh, kw = weight.shape
    check_shape(op, name, weight, (outs, x.shape[1], kh, kw), x)
    if kh not in SIDES or kw not in SIDES:
        raise ValueError(f"{op}: {name} must be odd from 1 to 7 a side, got {kh} x {kw}")
    return outs


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    negative_slope: float,
    residual: Tensor | None,
    pixel_shuffle: int,
) -> None:
    op = "dense_conv"
    check_picture(op, "x", x)
    outs = check_filters(op, "weight", weight, x)
    check_choice(op, "activation", activation, ACTIVATIONS)
    check_number(op, "negative_slope", negative_slope)
    check_shape(op, "bias", bias, (outs,), x)
    check_shape(op, "residual", residual, (x.shape[0], outs, *x.shape[2:]), x)
    whole = isinstance(pixel_shuffle, int | torch.SymInt) and not isinstance(pixel_shuffle, bool)
    if not whole or pixel_shuffle < 1 or outs % (pixel_shuffle * pixel_shuffle):
        raise ValueError(
            f"{op}: pixel_shuffle must be a whole number from 1 up that divides C_out by its square, {outs}; "
            f"got {pixel_shuffle}"
        )


def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    negative_slope: float,
    residual: Tensor | None,
    pixel_shuffle: int,
) -> Tensor:
    n, _, h, w = x.shape
    shape = (n, weight.shape[0] // (pixel_shuffle * pixel_shuffle), h * pixel_shuffle, w * pixel_shuffle)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout_of(x))


def _autocast(
    dtype: torch.dtype,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    negative_slope: float,
    residual: Tensor | None,
    pixel_shuffle: int,
) -> Tensor:
    """Convolves in the dtype of autocast; a residual of a wider one widens the result, as in eager code."""
    if 0 in x.shape[1:] or 0 in weight.shape:  # eager code convolves no pixels, and so casts nothing
        return reference(x, weight, bias, activation, negative_slope, residual, pixel_shuffle)
    x, weight, bias = autocast_to(x, dtype), autocast_to(weight, dtype), autocast_to(bias, dtype)
    if residual is None or residual.dtype == x.dtype:
        return cast(Tensor, SPEC.op(x, weight, bias, activation, negative_slope, residual, pixel_shuffle))
    out = cast(Tensor, SPEC.op(x, weight, bias, "none", 0.0, None, 1)) + residual
    out = activate(out, activation, negative_slope)
    return out if pixel_shuffle == 1 else torch.nn.functional.pixel_shuffle(out, pixel_shuffle)


SPEC = register(
    OpSpec(
        name="dense_conv",
        schema="(Tensor x, Tensor weight, Tensor? bias, str activation, float negative_slope, Tensor? residual, "
        "int pixel_shuffle) -> Tensor",
        source="F.conv2d; Shi et al., ESPCN, arXiv 1609.05158",
        reference=reference,
        check=_check,
        fake=_fake,
        samples=samples,
        bad_inputs=bad_inputs,
        bench=bench,
        cost=cost,
        backends=("cpu", "reference"),
        faster=faster,
        autocast=_autocast,
        added=lambda *args: 5 if args[3] == "none" and args[6] == 1 else None,
        exact_on_integers=True,
    )
)
