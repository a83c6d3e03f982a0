"""channel_attention: every channel of a picture scaled by what the whole picture is like, in one call."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ..checks import check_choice, check_picture, check_required, check_shape
from ..dispatch import call
from ..functional import empty_result
from ..register import register
from ..spec import Cost, OpSpec
from .reference import reference
from .samples import bad_inputs, bench, samples

STATISTICS = ("mean+std", "mean")


def channel_attention(
    x: Tensor,  # [N, C, H, W]
    down_weight: Tensor,  # [R, C, 1, 1]
    down_bias: Tensor | None,  # [R]
    up_weight: Tensor,  # [C, R, 1, 1]
    up_bias: Tensor | None,  # [C]
    *,
    statistic: str = "mean+std",
) -> Tensor:  # [N, C, H, W]
    """Multiplies every channel of x by a gate that two small layers compute from statistics of all its planes.

    Equivalent to::

        s = x.mean((2, 3), keepdim=True)
        s = s + x.std((2, 3), correction=0, keepdim=True)  # unless statistic is "mean"
        x * sigmoid(conv2d(relu(conv2d(s, down_weight, down_bias)), up_weight, up_bias))

    Args:
        x: picture [N, C, H, W] of at least one channel and one pixel; any N, 0 included; contiguous and channels_last
            are taken as they are.
        down_weight: 1x1 filters from C channels to R, [R, C, 1, 1].
        down_bias: [R], or None.
        up_weight: 1x1 filters from R channels back to C, [C, R, 1, 1].
        up_bias: [C], or None.
        statistic: what the gate reads of a plane: "mean+std", mean and standard deviation added up (contrast-aware), or
            "mean" (squeeze-and-excitation).

    Returns:
        [N, C, H, W] in the dtype and layout of x.

    Dtypes: float32, float64, float16, bfloat16, the same for all arguments; 16-bit pictures are computed in float32 and
    rounded once. Gradients: of every tensor argument; twice on the reference backend; finite everywhere (the gradient
    of the deviation is 0 where it is 0, a subgradient). Deterministic. Raises ValueError or TypeError in one line for
    arguments that do not fit.

    Source: "mean+std": IMDN (Hui et al., arXiv 1909.11856, section 3.3); "mean": squeeze-and-excitation (Hu et al.,
    arXiv 1709.01507, equations 2 to 4).

    Example:
        >>> import torch, lightsr_kernels
        >>> x, down, up = torch.randn(1, 8, 16, 16), torch.randn(2, 8, 1, 1), torch.randn(8, 2, 1, 1)
        >>> lightsr_kernels.channel_attention(x, down, torch.zeros(2), up, torch.zeros(8)).shape
        torch.Size([1, 8, 16, 16])
    """
    return cast(Tensor, call(SPEC, x, down_weight, down_bias, up_weight, up_bias, statistic))


def check_layers(
    op: str,
    c: int,
    down_weight: Tensor,
    down_bias: Tensor | None,
    up_weight: Tensor,
    up_bias: Tensor | None,
    x: Tensor,
    may_be_empty: bool = True,
) -> None:
    """Requires the two small layers of a gate for c channels; `may_be_empty`: with no channels between them, too."""
    check_picture(op, "down_weight", down_weight)
    r = down_weight.shape[0]
    if r == 0 and not may_be_empty:
        raise ValueError(f"{op}: down_weight must have at least one filter, got shape {list(down_weight.shape)}")
    check_required(op, "down_weight", down_weight, (r, c, 1, 1), x)
    check_shape(op, "down_bias", down_bias, (r,), x)
    check_required(op, "up_weight", up_weight, (c, r, 1, 1), x)
    check_shape(op, "up_bias", up_bias, (c,), x)


def _check(
    x: Tensor,
    down_weight: Tensor,
    down_bias: Tensor | None,
    up_weight: Tensor,
    up_bias: Tensor | None,
    statistic: str,
) -> None:
    op = "channel_attention"
    check_picture(op, "x", x)
    if min(x.shape[1:]) < 1:
        raise ValueError(f"{op}: x must have at least one channel and one pixel, got shape {list(x.shape)}")
    check_layers(op, x.shape[1], down_weight, down_bias, up_weight, up_bias, x)
    check_choice(op, "statistic", statistic, STATISTICS)


def _fake(x: Tensor, *_: object) -> Tensor:
    return empty_result(x, x.shape[1])


def _autocast(_: torch.dtype, *args: Any) -> Tensor:
    """In the dtype of x whatever that of autocast is, as in eager code; parameters may have another one."""
    return cast(Tensor, SPEC.op(*args))


def _cost(
    x: Tensor,
    down_weight: Tensor,
    down_bias: Tensor | None,
    up_weight: Tensor,
    up_bias: Tensor | None,
    statistic: str,
) -> Cost:
    # Once in and once out, which needs the picture to stay on the chip between the statistics and the result.
    moved = 2 * x.numel() + down_weight.numel() + up_weight.numel()
    each_value = 2 if statistic == "mean" else 5  # mean 1, gate 1; centring 1, squares 2
    layers = 4 * x.shape[0] * down_weight.numel()
    return Cost(bytes=moved * x.element_size(), flops=each_value * x.numel() + layers)


SPEC = register(
    OpSpec(
        name="channel_attention",
        schema="(Tensor x, Tensor down_weight, Tensor? down_bias, Tensor up_weight, Tensor? up_bias, "
        "str statistic) -> Tensor",
        source="IMDN, arXiv 1909.11856, section 3.3; squeeze-and-excitation, arXiv 1709.01507",
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
