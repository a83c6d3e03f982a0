"""attended_conv: a convolution whose result's channels are scaled by what the whole result is like, in one call."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from ..channel_attention import check_layers
from ..checks import check_picture, check_shape
from ..dense_conv import check_filters
from ..dispatch import call
from ..functional import empty_result
from ..register import register
from ..spec import OpSpec
from .composed import composed
from .reference import reference
from .samples import bad_inputs, bench, cost, samples


def attended_conv(
    x: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [C_out, C, KH, KW]
    bias: Tensor | None,  # [C_out]
    down_weight: Tensor,  # [R, C_out, 1, 1]
    down_bias: Tensor | None,  # [R]
    up_weight: Tensor,  # [C_out, R, 1, 1]
    up_bias: Tensor | None,  # [C_out]
) -> Tensor:  # [N, C_out, H, W]
    """Convolves over all channels, then multiplies every channel by a gate of the means of all channels' planes.

    Equivalent to::

        y = F.conv2d(x, weight, bias, padding="same")
        hidden = relu(conv2d(y.mean((2, 3), keepdim=True), down_weight, down_bias))
        y * sigmoid(conv2d(hidden, up_weight, up_bias))

    A convolution is linear: the mean of its result is the same convolution of the sums over what each tap sees. So for
    one picture the gate is known before it is convolved, and goes into the filters: the result is written once, and
    not read for its means. Several pictures, and 16 bits, which would round scaled filters, go through dense_conv and
    channel_attention. Where gradients are wanted the filters are scaled by torch's own operators.

    Args:
        x: picture [N, C, H, W] of at least one channel and one pixel; any N, 0 included; contiguous and channels_last
            are taken as they are.
        weight: the filters, [C_out, C, KH, KW], C_out at least 1, KH and KW 1, 3, 5 or 7.
        bias: [C_out], or None.
        down_weight: 1x1 filters from C_out channels to R, [R, C_out, 1, 1], R at least 1.
        down_bias: [R], or None.
        up_weight: 1x1 filters from R channels back to C_out, [C_out, R, 1, 1].
        up_bias: [C_out], or None.

    Returns:
        [N, C_out, H, W] in the dtype and layout of x.

    Dtypes: float32, float64, float16, bfloat16, the same for all arguments. Gradients: of every tensor argument; twice
    on the reference backend. Deterministic. Raises ValueError or TypeError in one line for arguments that do not fit.

    Source: squeeze-and-excitation (Hu et al., arXiv 1709.01507, equations 2 to 4) behind a convolution, as in the
    channel attention blocks of RCAN (arXiv 1807.02758), HAT (arXiv 2205.04437) and HASN (arXiv 2410.09844).

    Example:
        >>> import torch, lightsr_kernels
        >>> x, down, up = torch.randn(1, 4, 16, 16), torch.randn(2, 8, 1, 1), torch.randn(8, 2, 1, 1)
        >>> lightsr_kernels.attended_conv(x, torch.randn(8, 4, 3, 3), None, down, None, up, None).shape
        torch.Size([1, 8, 16, 16])
    """
    return cast(Tensor, call(SPEC, x, weight, bias, down_weight, down_bias, up_weight, up_bias))


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    down_weight: Tensor,
    down_bias: Tensor | None,
    up_weight: Tensor,
    up_bias: Tensor | None,
) -> None:
    op = "attended_conv"
    check_picture(op, "x", x)
    if min(x.shape[1:]) < 1:
        raise ValueError(f"{op}: x must have at least one channel and one pixel, got shape {list(x.shape)}")
    outs = check_filters(op, "weight", weight, x)
    if outs < 1:
        raise ValueError(f"{op}: weight must have at least one filter, got shape {list(weight.shape)}")
    check_shape(op, "bias", bias, (outs,), x)
    check_layers(op, outs, down_weight, down_bias, up_weight, up_bias, x, may_be_empty=False)


def _fake(x: Tensor, weight: Tensor, *_: object) -> Tensor:
    return empty_result(x, weight.shape[0])


SPEC = register(
    OpSpec(
        name="attended_conv",
        schema="(Tensor x, Tensor weight, Tensor? bias, Tensor down_weight, Tensor? down_bias, Tensor up_weight, "
        "Tensor? up_bias) -> Tensor",
        source="squeeze-and-excitation, arXiv 1709.01507; HASN, arXiv 2410.09844",
        reference=reference,
        check=_check,
        fake=_fake,
        samples=samples,
        bad_inputs=bad_inputs,
        bench=bench,
        cost=cost,
        backends=("cpu", "reference"),
        composed=composed,
        native=("attended_conv", "dense_conv", "instance_norm_attention"),
    )
)
