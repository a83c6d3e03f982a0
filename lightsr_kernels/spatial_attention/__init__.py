"""spatial_attention: every pixel of a picture scaled by what its surroundings are like, in one call."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ..checks import check_picture, check_required
from ..dispatch import call
from ..functional import empty_result
from ..register import register
from ..spec import Cost, OpSpec
from .reference import reference
from .samples import bad_inputs, bench, samples


def spatial_attention(
    x: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [1, 2, K, K]
) -> Tensor:  # [N, C, H, W]
    """Multiplies every pixel of x by a gate that one filter computes from the mean and maximum of its channels.

    Equivalent to::

        pooled = cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        x * sigmoid(conv2d(pooled, weight, padding="same"))

    Args:
        x: picture [N, C, H, W] of at least one channel and one pixel; any N, 0 included; contiguous and channels_last
            are taken as they are.
        weight: filter over the channels' mean and maximum, in this order, [1, 2, K, K], K odd; no bias.

    Returns:
        [N, C, H, W] in the dtype and layout of x.

    Dtypes: float32, float64, float16, bfloat16, the same for both arguments; 16-bit pictures are computed in float32
    and rounded once. Gradients: of both arguments; twice on the reference backend; that of a maximum is shared equally
    by the channels that have it. Deterministic. Raises ValueError or TypeError in one line for arguments that do not
    fit.

    Source: CBAM (Woo et al., arXiv 1807.06521, equation 3), where K is 7.

    Example:
        >>> import torch, lightsr_kernels
        >>> x = torch.randn(1, 8, 16, 16)
        >>> lightsr_kernels.spatial_attention(x, torch.randn(1, 2, 7, 7)).shape
        torch.Size([1, 8, 16, 16])
    """
    return cast(Tensor, call(SPEC, x, weight))


def _check(x: Tensor, weight: Tensor) -> None:
    op = "spatial_attention"
    check_picture(op, "x", x)
    check_picture(op, "weight", weight)
    if min(x.shape[1:]) < 1:
        raise ValueError(f"{op}: x must have at least one channel and one pixel, got shape {list(x.shape)}")
    k = weight.shape[-1]
    if k % 2 == 0:
        raise ValueError(f"{op}: weight must be odd a side, got {k}")
    check_required(op, "weight", weight, (1, 2, k, k), x)


def _fake(x: Tensor, *_: object) -> Tensor:
    return empty_result(x, x.shape[1])


def _autocast(_: torch.dtype, x: Tensor, weight: Tensor) -> Tensor:
    """In the dtype of x whatever that of autocast is, as in eager code, whose convolution rounds more than this."""
    return cast(Tensor, SPEC.op(x, weight.to(x.dtype)))


def _cost(x: Tensor, weight: Tensor) -> Cost:
    # Once in and once out, which needs the picture to stay on the chip between the map and the result.
    n, _, h, w = x.shape
    moved = 2 * x.numel() + weight.numel()
    each_value = 3  # mean 1, maximum 1, gate 1
    return Cost(bytes=moved * x.element_size(), flops=each_value * x.numel() + 2 * weight.numel() * n * h * w)


SPEC = register(
    OpSpec(
        name="spatial_attention",
        schema="(Tensor x, Tensor weight) -> Tensor",
        source="CBAM, arXiv 1807.06521, equation 3",
        reference=reference,
        check=_check,
        fake=_fake,
        samples=samples,
        bad_inputs=bad_inputs,
        bench=bench,
        cost=_cost,
        backends=("cuda", "triton", "cpu", "reference"),
        native=("instance_norm_attention", "depthwise_conv"),
        autocast=_autocast,
    )
)
