"""large_kernel_attention: two depthwise convolutions, a 1x1 and a gate, with the 1x1 and residual that often follow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_depthwise, check_picture, check_required, check_shape
from ..depthwise_conv import depthwise_conv
from ..dispatch import call
from ..functional import autocast_to, empty_result
from ..register import register
from ..spec import BadInput, Cost, Make, OpSpec, Sample, other_dtype
from .reference import joined, reference


def large_kernel_attention(
    x: Tensor,  # [N, C, H, W]
    weight1: Tensor,  # [C, 1, KH1, KW1]
    bias1: Tensor | None,  # [C]
    weight2: Tensor,  # [C, 1, KH2, KW2]
    bias2: Tensor | None,  # [C]
    mix_weight: Tensor,  # [C, C, 1, 1]
    mix_bias: Tensor | None,  # [C]
    *,
    dilation: int = 3,
    out_weight: Tensor | None = None,  # [C, C, 1, 1]
    out_bias: Tensor | None = None,  # [C]
    residual: Tensor | Sequence[Tensor] | None = None,  # [N, C, H, W], or parts of it: each [N, C_k, H, W]
) -> Tensor:  # [N, C, H, W]
    """Multiplies a picture by its own wide-field view: depthwise, dilated depthwise and 1x1 convolutions of it.

    Equivalent to::

        t = F.conv2d(x, weight1, bias1, padding="same", groups=C)
        t = F.conv2d(t, weight2, bias2, padding="same", dilation=dilation, groups=C)
        y = x * F.conv2d(t, mix_weight, mix_bias)
        F.conv2d(y, out_weight, out_bias) + residual

    Each depthwise convolution pads with zeros on its own: what lies between them is zero outside the picture.

    Args:
        x: picture [N, C, H, W]; any N, H and W, 0 included; contiguous and channels_last are taken as they are.
        weight1: the near filter of each channel, [C, 1, KH1, KW1], sides odd from 1 to 31 (5 x 5 in VAN).
        bias1: [C] or None.
        weight2: the far filter of each channel, [C, 1, KH2, KW2], sides odd from 1 to 31 (7 x 7 in VAN).
        bias2: [C] or None.
        mix_weight: the 1x1 convolution over channels that makes the gate, [C, C, 1, 1].
        mix_bias: [C] or None.
        dilation: distance between the far filter's taps in pixels, at least 1.
        out_weight: the 1x1 convolution after the gate, [C, C, 1, 1]; left out when None.
        out_bias: [C]; needs out_weight.
        residual: added last, shape of x; or its parts [N, C_k, H, W], which the CPU kernels read where they lie,
            up to 8 of them; elsewhere they are joined.

    Returns:
        [N, C, H, W] in the dtype and layout of x.

    Dtypes: float32, float64, float16, bfloat16, the same for all arguments. Gradients: of every tensor argument; twice
    on the reference backend. Deterministic. Raises ValueError or TypeError in one line for arguments that do not fit.

    Source: LKA of the Visual Attention Network (Guo et al., arXiv 2202.09741).

    Example:
        >>> import torch, lightsr_kernels
        >>> x, near, far = torch.randn(1, 8, 16, 16), torch.randn(8, 1, 5, 5), torch.randn(8, 1, 7, 7)
        >>> mix = torch.randn(8, 8, 1, 1)
        >>> lightsr_kernels.large_kernel_attention(x, near, None, far, None, mix, None, residual=x).shape
        torch.Size([1, 8, 16, 16])
    """
    parts = [] if residual is None else residual if isinstance(residual, list | tuple) else [residual]
    args = (x, weight1, bias1, weight2, bias2, mix_weight, mix_bias, dilation, out_weight, out_bias, parts)
    return cast(Tensor, call(SPEC, *args))


def _check(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    mix_weight: Tensor,
    mix_bias: Tensor | None,
    dilation: int,
    out_weight: Tensor | None,
    out_bias: Tensor | None,
    residual: Sequence[Tensor],
) -> None:
    op = "large_kernel_attention"
    check_picture(op, "x", x)
    channels = x.shape[1]
    check_depthwise(op, "weight1", weight1, x)
    check_depthwise(op, "weight2", weight2, x)
    check_required(op, "mix_weight", mix_weight, (channels, channels, 1, 1), x)
    for name, bias in {"bias1": bias1, "bias2": bias2, "mix_bias": mix_bias, "out_bias": out_bias}.items():
        check_shape(op, name, bias, (channels,), x)
    if not isinstance(dilation, int | torch.SymInt) or not 0 < dilation < 2**62:
        raise ValueError(f"{op}: dilation must be a whole number from 1 up, got {dilation}")
    check_shape(op, "out_weight", out_weight, (channels, channels, 1, 1), x)
    if out_bias is not None and out_weight is None:
        raise ValueError(f"{op}: out_bias was given without out_weight; give both or neither")
    if len(residual) == 1:
        check_required(op, "residual", residual[0], x.shape, x)
        return
    for i, part in enumerate(residual):
        check_picture(op, f"residual[{i}]", part)
        check_shape(op, f"residual[{i}]", part, (x.shape[0], part.shape[1], *x.shape[2:]), x)
    together = sum(part.shape[1] for part in residual)
    if residual and together != channels:
        raise ValueError(f"{op}: residual must have {channels} channels in all its parts together, got {together}")


def _fake(x: Tensor, *_: object) -> Tensor:
    return empty_result(x, x.shape[1])


def _autocast(
    dtype: torch.dtype,
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    mix_weight: Tensor,
    mix_bias: Tensor | None,
    dilation: int,
    out_weight: Tensor | None,
    out_bias: Tensor | None,
    residual: Sequence[Tensor],
) -> Tensor:
    """Step by step, because eager code multiplies by x, and adds the residual, in the dtype these have."""
    if 0 in x.shape[1:]:
        return x.clone()
    t = depthwise_conv(autocast_to(x, dtype), autocast_to(weight1, dtype), autocast_to(bias1, dtype))
    t = depthwise_conv(t, autocast_to(weight2, dtype), autocast_to(bias2, dtype), dilation=dilation)
    out = x * F.conv2d(t, autocast_to(mix_weight, dtype), autocast_to(mix_bias, dtype))
    if out_weight is not None:
        out = F.conv2d(autocast_to(out, dtype), autocast_to(out_weight, dtype), autocast_to(out_bias, dtype))
    return out + joined(list(residual)) if residual else out


def _cost(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    mix_weight: Tensor,
    mix_bias: Tensor | None,
    dilation: int,
    out_weight: Tensor | None,
    out_bias: Tensor | None,
    residual: Sequence[Tensor],
) -> Cost:
    filters = [weight1, weight2, mix_weight] + ([] if out_weight is None else [out_weight])
    moved = (2 + (len(residual) > 0)) * x.numel() + sum(each.numel() for each in filters)
    taps = sum(each[0].numel() for each in filters)
    return Cost(bytes=moved * x.element_size(), flops=(2 * taps + 1) * x.numel())


def _call(
    make: Make,
    name: str,
    shape: tuple[int, int, int, int],
    near: tuple[int, int] = (5, 5),
    far: tuple[int, int] = (7, 7),
    dilation: int = 3,
    bias: bool = True,
    out: bool = False,
    residual: tuple[int, ...] | bool = False,
) -> Sample:
    c = shape[1]

    def vector() -> Tensor | None:
        return make(c) if bias else None

    weights = make(c, 1, *near, scale=0.2), vector(), make(c, 1, *far, scale=0.2), vector()
    parts = [c] if residual is True else residual or ()
    ends = make(c, c, 1, 1) if out else None, vector() if out else None, [make(shape[0], k, *shape[2:]) for k in parts]
    return Sample(name, (make(*shape), *weights, make(c, c, 1, 1), vector(), dilation, *ends))


def _samples(make: Make) -> Iterator[Sample]:
    yield _call(make, "k5-k7d3", (2, 3, 9, 7))
    yield _call(make, "no-biases", (1, 3, 9, 7), bias=False, out=True)
    yield _call(make, "out-residual", (1, 3, 9, 7), out=True, residual=True)
    yield _call(make, "residual", (1, 2, 8, 8), (3, 3), (3, 3), dilation=2, residual=True)
    yield _call(make, "residual-parts", (2, 6, 8, 9), out=True, residual=(3, 1, 2))
    yield _call(make, "rectangular", (1, 3, 6, 11), (1, 3), (5, 3), dilation=1)
    yield _call(make, "k1", (2, 2, 4, 5), (1, 1), (1, 1), out=True)
    yield _call(make, "1-channel", (2, 1, 5, 6), out=True, residual=True)
    yield _call(make, "1x1-picture", (1, 2, 1, 1), out=True)
    yield _call(make, "no-pictures", (0, 3, 9, 7), out=True, residual=True)
    yield _call(make, "no-rows", (2, 3, 0, 7), out=True, residual=True)


def _bad_inputs(make: Make) -> Iterator[BadInput]:
    x, near, far, mix, bias = make(1, 3, 5, 5), make(3, 1, 5, 5), make(3, 1, 7, 7), make(3, 3, 1, 1), make(3)
    usual = (near, bias, far, bias, mix, bias)
    ends: tuple[object, ...] = (None, None, [])

    def bad(name: str, position: int, value: object, error: type[Exception], match: str) -> BadInput:
        args: list[object] = [x, *usual, 3, *ends]
        args[position] = value
        return BadInput(name, tuple(args), error, match)

    yield bad("3-d", 0, x[0], ValueError, "x must have 4 dimensions")
    yield bad("not-a-tensor", 0, [1.0], TypeError, "x must be a torch.Tensor")
    yield bad("whole-numbers", 0, x.long(), TypeError, "x must be float32")
    yield bad("weight1-even", 1, make(3, 1, 4, 5), ValueError, "weight1 must be odd from 1 to 31")
    yield bad("weight1-channels", 1, make(2, 1, 5, 5), ValueError, r"weight1 must have shape \[3, 1, 5, 5\]")
    yield bad("weight1-dtype", 1, near.to(other_dtype(x)), TypeError, "weight1 is")
    yield bad("bias1", 2, make(4), ValueError, r"bias1 must have shape \[3\]")
    yield bad("weight2-huge", 3, make(3, 1, 33, 3), ValueError, "weight2 must be odd from 1 to 31")
    yield bad("weight2-channels", 3, make(3, 3, 7, 7), ValueError, r"weight2 must have shape \[3, 1, 7, 7\]")
    yield bad("bias2", 4, make(3, 1), ValueError, r"bias2 must have shape \[3\]")
    yield bad("mix-shape", 5, make(3, 3, 3, 3), ValueError, r"mix_weight must have shape \[3, 3, 1, 1\]")
    yield bad("mix-missing", 5, None, TypeError, "mix_weight must be a torch.Tensor")
    yield bad("mix-bias", 6, make(2), ValueError, r"mix_bias must have shape \[3\]")
    yield bad("dilation", 7, 0, ValueError, "dilation must be")
    yield bad("dilation-fraction", 7, 1.5, ValueError, "dilation must be")
    yield bad("out-shape", 8, make(4, 3, 1, 1), ValueError, r"out_weight must have shape \[3, 3, 1, 1\]")
    yield bad("out-bias-alone", 9, bias, ValueError, "out_bias was given without out_weight")
    yield bad("residual", 10, [make(1, 3, 5, 4)], ValueError, r"residual must have shape \[1, 3, 5, 5\]")
    yield bad("residual-a-number", 10, [1.0], TypeError, "residual must be a torch.Tensor, got float")
    parts = [make(1, 2, 5, 5), make(1, 1, 5, 4)]
    yield bad("residual-sizes-differ", 10, parts, ValueError, r"residual\[1\] must have shape \[1, 1, 5, 5\]")
    parts = [make(1, 2, 5, 5), make(1, 2, 5, 5)]
    yield bad("residual-channels", 10, parts, ValueError, "residual must have 3 channels in all its parts together")


def _bench(make: Make) -> Iterator[Sample]:
    for c, h, w in ((64, 45, 80), (64, 184, 320), (48, 184, 320)):
        yield _call(make, f"1x{c}x{h}x{w}", (1, c, h, w), out=True, residual=True)


SPEC = register(
    OpSpec(
        name="large_kernel_attention",
        schema="(Tensor x, Tensor weight1, Tensor? bias1, Tensor weight2, Tensor? bias2, Tensor mix_weight, "
        "Tensor? mix_bias, int dilation, Tensor? out_weight, Tensor? out_bias, Tensor[] residual) -> Tensor",
        source="Guo et al., Visual Attention Network, arXiv 2202.09741",
        reference=reference,
        check=_check,
        fake=_fake,
        samples=_samples,
        bad_inputs=_bad_inputs,
        bench=_bench,
        cost=_cost,
        backends=("cuda", "triton", "cpu", "reference"),
        native=("large_kernel_attention", "depthwise_conv"),
        autocast=_autocast,
        exact_on_integers=True,
    )
)
