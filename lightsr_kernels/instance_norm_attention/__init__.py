"""instance_norm_attention: channel and spatial attention in one unit, on instance-normalised features."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ..checks import check_picture, check_required
from ..dispatch import call
from ..functional import empty_result
from ..register import register
from ..spec import Cost, OpSpec
from .reference import reference
from .samples import bad_inputs, bench, samples


def instance_norm_attention(
    x: Tensor,  # [N, C, H, W]
    norm_weight: Tensor,  # [C]
    norm_bias: Tensor,  # [C]
    down_weight: Tensor,  # [R, C, 1, 1]
    down_bias: Tensor,  # [R]
    up_weight: Tensor,  # [C, R, 1, 1]
    up_bias: Tensor,  # [C]
    spatial_weight: Tensor,  # [1, 2, K, K]
    *,
    eps: float = 1e-5,
) -> Tensor:  # [N, C, H, W]
    """Adds to x its instance-normalised self, gated by channel and then by pixel.

    Equivalent to::

        m, s = x.mean((2, 3), keepdim=True), x.std((2, 3), correction=0, keepdim=True)
        channel_gate = sigmoid(conv2d(relu(conv2d(m + s, down_weight, down_bias)), up_weight, up_bias))
        y = channel_gate * F.instance_norm(x, weight=norm_weight, bias=norm_bias, eps=eps)
        pooled = cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)
        x + y * sigmoid(conv2d(pooled, spatial_weight, padding="same"))

    The channel gate reads the statistics of x itself: after an instance norm the mean of a plane is norm_bias whatever
    the picture, and a gate fed from it would be a constant.

    Args:
        x: picture [N, C, H, W] of at least one channel and one pixel; any N, 0 included; contiguous and channels_last
            are taken as they are. A plane of one pixel, or of one value, is normalised to norm_bias.
        norm_weight: the instance norm's factor, [C].
        norm_bias: the instance norm's offset, [C].
        down_weight: 1x1 filters from C channels to R, [R, C, 1, 1].
        down_bias: [R].
        up_weight: 1x1 filters from R channels back to C, [C, R, 1, 1].
        up_bias: [C].
        spatial_weight: filter over the channels' mean and maximum, in this order, [1, 2, K, K], K odd; no bias.
        eps: added to the variance under the root of the norm; above 0. The s of the channel gate has none.

    Returns:
        [N, C, H, W] in the dtype and layout of x.

    Dtypes: float32, float64, float16, bfloat16, the same for all arguments; 16-bit pictures are computed in float32 and
    rounded once. The mean is taken off before squaring, so a mean of 1e4 with a deviation of 1 is safe. Gradients: of
    every tensor argument; twice on the reference backend; finite everywhere (the gradient of s is 0 where s is 0, a
    subgradient). Deterministic. Raises ValueError or TypeError in one line for arguments that do not fit.

    Source: the INAM of IDSA-Net (DOI 10.13374/j.issn2095-9389.2025.10.24.003); the abstract names its parts, the order
    here is a reconstruction. The statistic m + s is IMDN's (Hui et al., arXiv 1909.11856, contrast-aware attention).

    Example:
        >>> import torch, lightsr_kernels
        >>> x, ones, zeros = torch.randn(1, 8, 16, 16), torch.ones(8), torch.zeros(8)
        >>> down, up, spatial = torch.randn(2, 8, 1, 1), torch.randn(8, 2, 1, 1), torch.randn(1, 2, 7, 7)
        >>> lightsr_kernels.instance_norm_attention(x, ones, zeros, down, zeros[:2], up, zeros, spatial).shape
        torch.Size([1, 8, 16, 16])
    """
    weights = (norm_weight, norm_bias, down_weight, down_bias, up_weight, up_bias, spatial_weight)
    return cast(Tensor, call(SPEC, x, *weights, eps))


def _check(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    spatial_weight: Tensor,
    eps: float,
) -> None:
    op = "instance_norm_attention"
    check_picture(op, "x", x)
    check_picture(op, "down_weight", down_weight)
    check_picture(op, "spatial_weight", spatial_weight)
    c, r, k = x.shape[1], down_weight.shape[0], spatial_weight.shape[-1]
    if min(x.shape[1:]) < 1:
        raise ValueError(f"{op}: x must have at least one channel and one pixel, got shape {list(x.shape)}")
    if k % 2 == 0:
        raise ValueError(f"{op}: spatial_weight must be odd a side, got {k}")
    check_required(op, "norm_weight", norm_weight, (c,), x)
    check_required(op, "norm_bias", norm_bias, (c,), x)
    check_required(op, "down_weight", down_weight, (r, c, 1, 1), x)
    check_required(op, "down_bias", down_bias, (r,), x)
    check_required(op, "up_weight", up_weight, (c, r, 1, 1), x)
    check_required(op, "up_bias", up_bias, (c,), x)
    check_required(op, "spatial_weight", spatial_weight, (1, 2, k, k), x)
    if not eps > 0:
        raise ValueError(f"{op}: eps must be above 0, got {eps}")


def _fake(x: Tensor, *_: object) -> Tensor:
    return empty_result(x, x.shape[1])


def _autocast(dtype: torch.dtype, *args: Any) -> Tensor:
    """Statistics and products are wider than autocast's dtype anyway; parameters may be of another dtype than x."""
    return cast(Tensor, SPEC.op(*args))


def _cost(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    spatial_weight: Tensor,
    eps: float,
) -> Cost:
    # Once in and once out, which needs the picture to stay on the chip between the statistics, the map and the result.
    n, c, h, w = x.shape
    spatial = 2 * spatial_weight.numel() * n * h * w
    gate = 4 * n * c * down_weight.shape[0]
    each_value = 10  # mean 1, centring 1, squares 2, scale and shift 2, channel mean and maximum 2, gated sum 2
    moved = 2 * x.numel() + down_weight.numel() + up_weight.numel() + spatial_weight.numel()
    return Cost(bytes=moved * x.element_size(), flops=each_value * x.numel() + spatial + gate)


SPEC = register(
    OpSpec(
        name="instance_norm_attention",
        schema="(Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor down_weight, Tensor down_bias, "
        "Tensor up_weight, Tensor up_bias, Tensor spatial_weight, float eps) -> Tensor",
        source="INAM of IDSA-Net, DOI 10.13374/j.issn2095-9389.2025.10.24.003 (reconstruction)",
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
