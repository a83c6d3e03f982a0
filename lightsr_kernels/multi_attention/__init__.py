"""multi_attention: pixel, spatial and channel attention on each distilled part, then the fusion convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor

from ..checks import check_parts, check_picture, check_pointwise, check_required, check_shape, check_tensors
from ..dispatch import call
from ..functional import empty_result
from ..register import register
from ..spec import OpSpec
from .reference import reference
from .samples import bad_inputs, bench, cost, samples


def multi_attention(
    parts: Sequence[Tensor],  # each [N, C_k, H, W]
    pixel_weights: Sequence[Tensor],  # each [C_k, C_k, 1, 1]
    pixel_biases: Sequence[Tensor],  # each [C_k]
    spatial_weights: Sequence[Tensor],  # each [1, 2, K, K]
    down_weights: Sequence[Tensor],  # each [R_k, C_k, 1, 1]
    down_biases: Sequence[Tensor],  # each [R_k]
    up_weights: Sequence[Tensor],  # each [C_k, R_k, 1, 1]
    up_biases: Sequence[Tensor],  # each [C_k]
    *,
    out_weight: Tensor | None = None,  # [C_out, sum of C_k, 1, 1]
    out_bias: Tensor | None = None,  # [C_out]
    residual: Tensor | None = None,  # [N, C_out or sum of C_k, H, W]
) -> Tensor:  # [N, C_out or sum of C_k, H, W]
    """Weighs each part by pixel, then spatial, then channel attention, and joins the parts.

    Equivalent to::

        for z, k in zip(parts, range(len(parts))):
            z = z * torch.sigmoid(F.conv2d(z, pixel_weights[k], pixel_biases[k]))
            seen = torch.cat([z.mean(1, keepdim=True), z.amax(1, keepdim=True)], 1)
            z = z * torch.sigmoid(F.conv2d(seen, spatial_weights[k], padding="same"))
            hidden = F.relu(F.conv2d(z.mean((2, 3), keepdim=True), down_weights[k], down_biases[k]))
            attended.append(z * torch.sigmoid(F.conv2d(hidden, up_weights[k], up_biases[k])))
        F.conv2d(torch.cat(attended, 1), out_weight, out_bias) + residual

    Args:
        parts: pictures [N, C_k, H, W], at least one, of at least one channel and one pixel, N may be 0; their channels
            may differ; contiguous and channels_last are taken as they are. Every other list has one entry a part.
        pixel_weights: pixel attention, each [C_k, C_k, 1, 1].
        pixel_biases: each [C_k].
        spatial_weights: spatial attention, which reads the mean (first) and the maximum over channels, each
            [1, 2, K, K], K odd from 1 to 31.
        down_weights: channel attention's first layer, each [R_k, C_k, 1, 1], R_k at least 1.
        down_biases: each [R_k].
        up_weights: channel attention's second layer, each [C_k, R_k, 1, 1].
        up_biases: each [C_k].
        out_weight: the 1x1 convolution that joins the parts, [C_out, sum of C_k, 1, 1]; left out when None.
        out_bias: [C_out]; needs out_weight.
        residual: added last, shape of the result.

    Returns:
        [N, C_out, H, W], or the parts side by side [N, sum of C_k, H, W], in the dtype and layout of parts[0].

    Dtypes: float32, float64, float16, bfloat16, the same for all arguments. Gradients: of every tensor argument; twice
    on the reference backend. Deterministic. Raises ValueError or TypeError in one line for arguments that do not fit.

    Source: MAFDN's multi-attention (DOI 10.1155/2024/3255233), whose wiring is reconstructed from PAN's pixel attention
    (Zhao et al., arXiv 2010.01073), CBAM's spatial attention (Woo et al., arXiv 1807.06521) and squeeze-and-excitation
    (Hu et al., arXiv 1709.01507).

    Example:
        >>> import torch, lightsr_kernels
        >>> x, pixel, spatial = torch.randn(1, 8, 16, 16), torch.randn(8, 8, 1, 1), torch.randn(1, 2, 7, 7)
        >>> down, up = torch.randn(2, 8, 1, 1), torch.randn(8, 2, 1, 1)
        >>> zero8, zero2 = torch.zeros(8), torch.zeros(2)
        >>> lightsr_kernels.multi_attention([x], [pixel], [zero8], [spatial], [down], [zero2], [up], [zero8]).shape
        torch.Size([1, 8, 16, 16])
    """
    layers = (pixel_weights, pixel_biases, spatial_weights, down_weights, down_biases, up_weights, up_biases)
    return cast(Tensor, call(SPEC, parts, *layers, out_weight, out_bias, residual))


def _check(
    parts: Sequence[Tensor],
    pixel_weights: Sequence[Tensor],
    pixel_biases: Sequence[Tensor],
    spatial_weights: Sequence[Tensor],
    down_weights: Sequence[Tensor],
    down_biases: Sequence[Tensor],
    up_weights: Sequence[Tensor],
    up_biases: Sequence[Tensor],
    out_weight: Tensor | None,
    out_bias: Tensor | None,
    residual: Tensor | None,
) -> None:
    op = "multi_attention"
    check_parts(op, parts)
    lists = {
        "pixel_weights": pixel_weights,
        "pixel_biases": pixel_biases,
        "spatial_weights": spatial_weights,
        "down_weights": down_weights,
        "down_biases": down_biases,
        "up_weights": up_weights,
        "up_biases": up_biases,
    }
    for name, values in lists.items():
        check_tensors(op, name, values, len(parts))
    for k, x in enumerate(parts):
        c = x.shape[1]
        if min(x.shape[1:]) < 1:
            raise ValueError(
                f"{op}: parts[{k}] must have at least one channel and one pixel, got shape {list(x.shape)}"
            )
        check_required(op, f"pixel_weights[{k}]", pixel_weights[k], (c, c, 1, 1), x)
        check_required(op, f"pixel_biases[{k}]", pixel_biases[k], (c,), x)
        check_picture(op, f"spatial_weights[{k}]", spatial_weights[k])
        side = spatial_weights[k].shape[3]
        check_shape(op, f"spatial_weights[{k}]", spatial_weights[k], (1, 2, side, side), x)
        if side % 2 == 0 or side > 31:
            raise ValueError(f"{op}: spatial_weights[{k}] must be odd from 1 to 31 a side, got {side} x {side}")
        hidden = _filters(op, f"down_weights[{k}]", down_weights[k], c, x)
        check_required(op, f"down_biases[{k}]", down_biases[k], (hidden,), x)
        check_required(op, f"up_weights[{k}]", up_weights[k], (c, hidden, 1, 1), x)
        check_required(op, f"up_biases[{k}]", up_biases[k], (c,), x)
    n, _, h, w = parts[0].shape
    channels = sum(part.shape[1] for part in parts)
    if out_weight is not None:
        channels = _filters(op, "out_weight", out_weight, channels, parts[0])
    elif out_bias is not None:
        raise ValueError(f"{op}: out_bias was given without out_weight; give both or neither")
    check_shape(op, "out_bias", out_bias, (channels,), parts[0])
    check_shape(op, "residual", residual, (n, channels, h, w), parts[0])


def _filters(op: str, name: str, weight: Tensor, channels: int, like: Tensor) -> int:
    found = check_pointwise(op, name, weight, channels, like)
    if found < 1:
        raise ValueError(f"{op}: {name} must have at least one filter, got shape {list(weight.shape)}")
    return found


def _fake(
    parts: Sequence[Tensor],
    pixel_weights: Sequence[Tensor],
    pixel_biases: Sequence[Tensor],
    spatial_weights: Sequence[Tensor],
    down_weights: Sequence[Tensor],
    down_biases: Sequence[Tensor],
    up_weights: Sequence[Tensor],
    up_biases: Sequence[Tensor],
    out_weight: Tensor | None,
    out_bias: Tensor | None,
    residual: Tensor | None,
) -> Tensor:
    channels = sum(part.shape[1] for part in parts) if out_weight is None else out_weight.shape[0]
    return empty_result(parts[0], channels)


SPEC = register(
    OpSpec(
        name="multi_attention",
        schema="(Tensor[] parts, Tensor[] pixel_weights, Tensor[] pixel_biases, Tensor[] spatial_weights, "
        "Tensor[] down_weights, Tensor[] down_biases, Tensor[] up_weights, Tensor[] up_biases, Tensor? out_weight, "
        "Tensor? out_bias, Tensor? residual) -> Tensor",
        source="MAFDN, DOI 10.1155/2024/3255233 (wiring reconstructed); PAN, arXiv 2010.01073; CBAM, arXiv 1807.06521; "
        "squeeze-and-excitation, arXiv 1709.01507",
        reference=reference,
        check=_check,
        fake=_fake,
        samples=samples,
        bad_inputs=bad_inputs,
        bench=bench,
        cost=cost,
        backends=("triton", "cpu", "reference"),
        native=("multi_attention", "depthwise_conv"),
    )
)
