"""split_distillation: the end of one distillation step, from the convolution's raw result to the two paths."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from .. import eager
from ..checks import check_choice, check_number, check_picture, check_pointwise, check_shape
from ..dense_conv import check_filters
from ..dispatch import call, keeping_kernels, run_reference
from ..functional import ACTIVATIONS, autocast_to, empty_result
from ..register import register
from ..spec import OpSpec
from .convolution import convolved, in_layout_of
from .reference import reference
from .samples import bad_inputs, bench, cost, samples


def split_distillation(
    x: Tensor,  # [N, C, H, W]; with a convolution [N, C_in, H, W]
    split: int | None = None,
    *,
    bias: Tensor | None = None,  # [C]
    residual: Tensor | None = None,  # [N, C, H, W]
    activation: str = "leaky_relu",
    negative_slope: float = 0.05,
    weight: Tensor | None = None,  # [D, split or C, 1, 1]
    weight_bias: Tensor | None = None,  # [D]
    distilled_activation: str = "leaky_relu",
    gate_weight: Tensor | None = None,  # [D, D, 1, 1]
    gate_bias: Tensor | None = None,  # [D]
    keep: bool = True,
    convolution: Tensor | None = None,  # [C, C_in, KH, KW]
) -> tuple[Tensor, Tensor]:  # [N, D or split or C, H, W], [N, C - split or C or 0, H, W]
    """Activates a convolution's result and distils: a part is set aside through a 1x1 convolution, the rest goes on.

    Equivalent to::

        x = F.conv2d(x, convolution, padding="same")
        h = act(x + bias + residual)
        distilled, remaining = (h, h) if split is None else (h[:, :split], h[:, split:])
        distilled = act_distilled(F.conv2d(distilled, weight, weight_bias))
        distilled = distilled * torch.sigmoid(F.conv2d(distilled, gate_weight, gate_bias))

    Args:
        x: picture [N, C, H, W], as a rule a convolution without its bias, or what that convolution reads,
            [N, C_in, H, W]; contiguous and channels_last are taken as they are.
        split: how many leading channels are distilled, 1 to C-1; the others remain (IMDN). None: the distilled path
            reads all channels, and all of them remain (RFDN).
        bias: [C], added before the activation.
        residual: added before the activation, [N, C, H, W].
        activation: none, relu, leaky_relu, gelu (exact, erf), silu or sigmoid.
        negative_slope: the slope below zero of either leaky_relu.
        weight: the distilling 1x1 convolution, [D, split or C, 1, 1]; left out when None.
        weight_bias: [D]; needs weight.
        distilled_activation: the activation after the distilling convolution, a word as above; unused without weight.
        gate_weight: pixel attention on the distilled part, [D, D, 1, 1]; left out when None.
        gate_bias: [D]; needs gate_weight.
        keep: False where nobody reads the remaining part, as in a last step; it is then [N, 0, H, W].
        convolution: the filters of a convolution that comes first, [C, C_in, KH, KW], KH and KW 1, 3, 5 or 7; left out
            when None. On the CPU, 3x3 with at least 12 channels in and out is one pass with the rest, with gradients
            where the activation is none, relu or leaky_relu; any other is dense_conv's.

    Returns:
        (distilled, remaining): [N, D or split or C, H, W] and [N, C-split or C or 0, H, W], in the dtype and layout
        of x. On the reference backend they may share memory, with x too; do not write into them.

    Dtypes: float32, float64, float16, bfloat16, the same for all arguments. Gradients: of every tensor argument; twice
    on the reference backend. Deterministic. Raises ValueError or TypeError in one line for arguments that do not fit.

    Source: the distillation steps of IMDN (Hui et al., arXiv 1909.11856) and RFDN (Liu et al., arXiv 2009.11551); the
    gate is PAN's pixel attention (Zhao et al., arXiv 2010.01073).

    Example:
        >>> import torch, lightsr_kernels
        >>> x = torch.randn(1, 8, 16, 16)
        >>> distilled, remaining = lightsr_kernels.split_distillation(x, 2, weight=torch.randn(4, 2, 1, 1))
        >>> distilled.shape, remaining.shape
        (torch.Size([1, 4, 16, 16]), torch.Size([1, 6, 16, 16]))
    """
    step = (split, bias, residual, activation, negative_slope)
    ends = (weight, weight_bias, distilled_activation, gate_weight, gate_bias, keep)
    args = (x, *step, *ends, convolution)
    if convolution is not None and eager.wants_gradients(args):
        SPEC.check(*args)
        # On a GPU the convolution is PyTorch's, which has its own gradients.
        kernels = keeping_kernels(SPEC, args) if x.is_cpu else None
        if kernels is None:
            # Two calls: what lies between them is kept for their gradients, not computed again.
            return in_layout_of(x, call(SPEC, convolved(x, convolution), *step, *ends, None))
        return cast(tuple[Tensor, Tensor], eager.run(SPEC, kernels, args))
    return cast(tuple[Tensor, Tensor], call(SPEC, *args))


def _check(
    x: Tensor,
    split: int | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    negative_slope: float,
    weight: Tensor | None,
    weight_bias: Tensor | None,
    distilled_activation: str,
    gate_weight: Tensor | None,
    gate_bias: Tensor | None,
    keep: bool,
    convolution: Tensor | None,
) -> None:
    op = "split_distillation"
    check_picture(op, "x", x)
    channels = x.shape[1]
    if channels < 1:
        raise ValueError(f"{op}: x must have at least one channel, got shape {list(x.shape)}")
    if convolution is not None:
        channels = check_filters(op, "convolution", convolution, x)
        if channels < 1:
            raise ValueError(f"{op}: convolution must have at least one filter, got shape {list(convolution.shape)}")
    if split is not None and not (isinstance(split, int) and 0 < split < channels):
        raise ValueError(f"{op}: split must be None or a whole number from 1 to {channels - 1}, got {split}")
    check_shape(op, "bias", bias, (channels,), x)
    check_shape(op, "residual", residual, (x.shape[0], channels, *x.shape[2:]), x)
    check_choice(op, "activation", activation, ACTIVATIONS)
    check_number(op, "negative_slope", negative_slope)
    check_choice(op, "distilled_activation", distilled_activation, ACTIVATIONS)
    distilled = channels if split is None else split
    if weight is not None:
        distilled = check_pointwise(op, "weight", weight, distilled, x)
        if distilled < 1:
            raise ValueError(f"{op}: weight must have at least one filter, got shape {list(weight.shape)}")
    elif weight_bias is not None:
        raise ValueError(f"{op}: weight_bias was given without weight; give both or neither")
    check_shape(op, "weight_bias", weight_bias, (distilled,), x)
    if gate_bias is not None and gate_weight is None:
        raise ValueError(f"{op}: gate_bias was given without gate_weight; give both or neither")
    check_shape(op, "gate_weight", gate_weight, (distilled, distilled, 1, 1), x)
    check_shape(op, "gate_bias", gate_bias, (distilled,), x)


def _fake(
    x: Tensor,
    split: int | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    negative_slope: float,
    weight: Tensor | None,
    weight_bias: Tensor | None,
    distilled_activation: str,
    gate_weight: Tensor | None,
    gate_bias: Tensor | None,
    keep: bool,
    convolution: Tensor | None,
) -> tuple[Tensor, Tensor]:
    channels = x.shape[1] if convolution is None else convolution.shape[0]
    first, rest = (channels, channels) if split is None else (split, channels - split)
    distilled = first if weight is None else weight.shape[0]
    return empty_result(x, distilled), empty_result(x, rest if keep else 0)


def _autocast(
    dtype: torch.dtype,
    x: Tensor,
    split: int | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    negative_slope: float,
    weight: Tensor | None,
    weight_bias: Tensor | None,
    distilled_activation: str,
    gate_weight: Tensor | None,
    gate_bias: Tensor | None,
    keep: bool,
    convolution: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The kernels where eager code has one dtype throughout; the reference where, say, a bias has another."""
    if convolution is not None:
        with torch.autocast(x.device.type, dtype):
            y = convolved(x, convolution)
        ends: tuple[Any, ...] = (weight, weight_bias, distilled_activation, gate_weight, gate_bias, keep, None)
        return in_layout_of(x, _autocast(dtype, y, split, bias, residual, activation, negative_slope, *ends))
    first = [each for each in (x, bias, residual) if each is not None]
    if any(each.dtype != x.dtype for each in first) or (
        x.dtype != dtype and not (weight is None and gate_weight is None)
    ):
        with torch.autocast(x.device.type, dtype):
            args = (x, split, bias, residual, activation, negative_slope, weight, weight_bias, distilled_activation)
            return cast(tuple[Tensor, Tensor], run_reference(SPEC, *args, gate_weight, gate_bias, keep, convolution))
    return split_distillation(
        x,
        split,
        bias=bias,
        residual=residual,
        activation=activation,
        negative_slope=negative_slope,
        weight=autocast_to(weight, dtype),
        weight_bias=autocast_to(weight_bias, dtype),
        distilled_activation=distilled_activation,
        gate_weight=autocast_to(gate_weight, dtype),
        gate_bias=autocast_to(gate_bias, dtype),
        keep=keep,
    )


SPEC = register(
    OpSpec(
        name="split_distillation",
        schema="(Tensor x, int? split, Tensor? bias, Tensor? residual, str activation, float negative_slope, "
        "Tensor? weight, Tensor? weight_bias, str distilled_activation, Tensor? gate_weight, Tensor? gate_bias, "
        "bool keep, Tensor? convolution) -> (Tensor distilled, Tensor remaining)",
        source="Hui et al., IMDN, arXiv 1909.11856; Liu et al., RFDN, arXiv 2009.11551; "
        "Zhao et al., PAN, arXiv 2010.01073",
        reference=reference,
        check=_check,
        fake=_fake,
        samples=samples,
        bad_inputs=bad_inputs,
        bench=bench,
        cost=cost,
        backends=("cuda", "triton", "cpu", "reference"),
        native=("split_distillation", "dense_conv"),
        autocast=_autocast,
        exact_on_integers=True,
    )
)
