"""pixel_attention: every value of a picture weighted by a gate made of its own pixel."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_picture, check_required, check_shape
from ..dispatch import call
from ..functional import autocast_to, empty_result
from ..register import register
from ..spec import Cost, OpSpec
from .reference import reference
from .samples import bad_inputs, bench, samples


def pixel_attention(
    x: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [C, C, 1, 1]
    bias: Tensor | None = None,  # [C]
) -> Tensor:  # [N, C, H, W]
    """Weights every value of a picture with the sigmoid of a 1x1 convolution of the same picture.

    Equivalent to::

        x * torch.sigmoid(F.conv2d(x, weight, bias))

    Args:
        x: picture [N, C, H, W]; contiguous and channels_last are taken as they are.
        weight: the 1x1 convolution, [C, C, 1, 1].
        bias: [C].

    Returns:
        [N, C, H, W] in the dtype and layout of x.

    Dtypes: float32, float64, float16, bfloat16, the same for all arguments. Gradients: of every tensor argument; twice
    on the reference backend. Deterministic. Raises ValueError or TypeError in one line for arguments that do not fit.

    Source: PAN's pixel attention (Zhao et al., arXiv 2010.01073).

    Example:
        >>> import torch, lightsr_kernels
        >>> x = torch.randn(1, 8, 16, 16)
        >>> lightsr_kernels.pixel_attention(x, torch.randn(8, 8, 1, 1)).shape
        torch.Size([1, 8, 16, 16])
    """
    return cast(Tensor, call(SPEC, x, weight, bias))


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    op = "pixel_attention"
    check_picture(op, "x", x)
    check_required(op, "weight", weight, (x.shape[1], x.shape[1], 1, 1), x)
    check_shape(op, "bias", bias, (x.shape[1],), x)


def _fake(x: Tensor, *_: object) -> Tensor:
    return empty_result(x, x.shape[1])


def _autocast(dtype: torch.dtype, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Eager code rounds the gate to the dtype of autocast, but not x, and so the result keeps the dtype of x."""
    if x.dtype in (dtype, torch.float32):
        return cast(Tensor, SPEC.op(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype)))
    gate = F.conv2d(autocast_to(x, dtype), autocast_to(weight, dtype), autocast_to(bias, dtype))
    return x * torch.sigmoid(gate)


def _cost(x: Tensor, weight: Tensor, bias: Tensor | None) -> Cost:
    n, channels, h, w = x.shape
    moved = (2 * x.numel() + weight.numel()) * x.element_size()
    return Cost(bytes=moved, flops=2 * weight.numel() * n * h * w + channels * n * h * w)


SPEC = register(
    OpSpec(
        name="pixel_attention",
        schema="(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
        source="Zhao et al., PAN, arXiv 2010.01073",
        reference=reference,
        check=_check,
        fake=_fake,
        samples=samples,
        bad_inputs=bad_inputs,
        bench=bench,
        cost=_cost,
        backends=("cuda", "triton", "cpu", "reference"),
        native=("split_distillation",),
        autocast=_autocast,
    )
)
