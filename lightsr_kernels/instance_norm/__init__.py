"""instance_norm: every plane of a picture with its mean taken off and its deviation made 1, in one call."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ..checks import check_picture, check_shape
from ..dispatch import call
from ..functional import empty_result
from ..register import register
from ..spec import Cost, OpSpec
from .reference import reference
from .samples import bad_inputs, bench, samples


def instance_norm(
    x: Tensor,  # [N, C, H, W]
    weight: Tensor | None = None,  # [C]
    bias: Tensor | None = None,  # [C]
    *,
    eps: float = 1e-5,
) -> Tensor:  # [N, C, H, W]
    """Normalises every plane of x by its own mean and variance, with a factor and an offset for each channel.

    Equivalent to::

        mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
        (x - mean) / sqrt(variance + eps) * weight[:, None, None] + bias[:, None, None]

    which is F.instance_norm(x, weight=weight, bias=bias, eps=eps), and what nn.InstanceNorm2d without running
    statistics computes.

    Args:
        x: picture [N, C, H, W] of at least one channel and one pixel; any N, 0 included; contiguous and channels_last
            are taken as they are. A plane of one pixel, which torch refuses, or of one value is normalised to bias.
        weight: factor of each channel, [C]; 1 where it is left out.
        bias: offset of each channel, [C]; 0 where it is left out.
        eps: added to the variance under the root; above 0.

    Returns:
        [N, C, H, W] in the dtype and layout of x.

    Dtypes: float32, float64, float16, bfloat16, the same for all arguments; 16-bit pictures are computed in float32 and
    rounded once. The mean is taken off before squaring, so a mean of 1e4 with a deviation of 1 is safe. Gradients: of
    every tensor argument; twice on the reference backend. Deterministic. Raises ValueError or TypeError in one line for
    arguments that do not fit.

    Source: Ulyanov et al., arXiv 1607.08022, equation 4.

    Example:
        >>> import torch, lightsr_kernels
        >>> x = torch.randn(1, 8, 16, 16).to(memory_format=torch.channels_last)
        >>> out = lightsr_kernels.instance_norm(x, torch.ones(8), torch.zeros(8))
        >>> out.shape, out.is_contiguous(memory_format=torch.channels_last)
        (torch.Size([1, 8, 16, 16]), True)
    """
    return cast(Tensor, call(SPEC, x, weight, bias, eps))


def _check(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
    op = "instance_norm"
    check_picture(op, "x", x)
    if min(x.shape[1:]) < 1:
        raise ValueError(f"{op}: x must have at least one channel and one pixel, got shape {list(x.shape)}")
    check_shape(op, "weight", weight, (x.shape[1],), x)
    check_shape(op, "bias", bias, (x.shape[1],), x)
    if not eps > 0:
        raise ValueError(f"{op}: eps must be above 0, got {eps}")


def _fake(x: Tensor, *_: object) -> Tensor:
    return empty_result(x, x.shape[1])


def _autocast(_: torch.dtype, *args: Any) -> Tensor:
    """In the dtype of x whatever that of autocast is, as in eager code; parameters may have another one."""
    return cast(Tensor, SPEC.op(*args))


def _cost(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Cost:
    # Once in and once out, which needs the picture to stay on the chip between the statistics and the result.
    moved = 2 * x.numel() + sum(each.numel() for each in (weight, bias) if each is not None)
    each_value = 6  # mean 1, centring 1, squares 2, scale and shift 2
    return Cost(bytes=moved * x.element_size(), flops=each_value * x.numel())


SPEC = register(
    OpSpec(
        name="instance_norm",
        schema="(Tensor x, Tensor? weight, Tensor? bias, float eps) -> Tensor",
        source="Ulyanov et al., instance normalization, arXiv 1607.08022, equation 4",
        reference=reference,
        check=_check,
        fake=_fake,
        samples=samples,
        bad_inputs=bad_inputs,
        bench=bench,
        cost=_cost,
        backends=("cuda", "triton", "cpu", "reference"),
        native=("instance_norm_attention",),
        autocast=_autocast,
    )
)
