"""distillation_fusion: the 1x1 convolution that joins distilled parts, without making their concatenation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ..checks import (
    check_choice,
    check_number,
    check_parts,
    check_pointwise,
    check_required,
    check_shape,
    check_tensors,
)
from ..dispatch import call, run_reference
from ..functional import ACTIVATIONS, autocast_to, empty_result
from ..register import register
from ..spec import BadInput, Cost, Make, OpSpec, Sample, other_dtype
from .reference import reference


def distillation_fusion(
    parts: Sequence[Tensor],  # each [N, C_k, H, W]
    weight: Tensor,  # [C_out, sum of C_k, 1, 1]
    bias: Tensor | None = None,  # [C_out]
    *,
    scale: Tensor | None = None,  # [N, sum of C_k, 1, 1]
    maps: Sequence[Tensor] | None = None,  # one [N, 1, H, W] a part
    gain: Tensor | None = None,  # [] or [1]
    residual: Tensor | None = None,  # [N, C_out, H, W]
    residual_gain: Tensor | None = None,  # [] or [1]
    activation: str = "none",
    negative_slope: float = 0.01,
) -> Tensor:  # [N, C_out, H, W]
    """Joins parts with a 1x1 convolution, with attention scales and maps, weighted residual and activation around it.

    Equivalent to::

        joined = torch.cat([part * each for part, each in zip(parts, maps)], 1) * scale
        act(gain * F.conv2d(joined, weight, bias) + residual_gain * residual)

    Args:
        parts: pictures [N, C_k, H, W], at least one; their channels may differ; contiguous and channels_last are taken
            as they are.
        weight: [C_out, sum of C_k, 1, 1], input channels in the order of the parts.
        bias: [C_out].
        scale: one factor a picture and input channel (channel attention), [N, sum of C_k, 1, 1].
        maps: one factor a pixel for each part (spatial attention), each [N, 1, H, W]; None or empty for none.
        gain: factor of the convolution with its bias, shape [] or [1].
        residual: added before the activation, [N, C_out, H, W].
        residual_gain: factor of the residual, shape [] or [1]; needs residual.
        activation: none, relu, leaky_relu, gelu (exact, erf), silu or sigmoid.
        negative_slope: leaky_relu's slope below zero.

    Returns:
        [N, C_out, H, W] in the dtype and layout of parts[0].

    Dtypes: float32, float64, float16, bfloat16, the same for all arguments. Gradients: of every tensor argument; twice
    on the reference backend. Deterministic. Raises ValueError or TypeError in one line for arguments that do not fit.

    Source: the fusion convolution of RFDN (Liu et al., arXiv 2009.11551); the two gains are AWSRN's adaptive weights
    (Wang et al., arXiv 1904.02358).

    Example:
        >>> import torch, lightsr_kernels
        >>> parts = [torch.randn(1, 4, 16, 16) for _ in range(3)]
        >>> x, gain = torch.randn(1, 8, 16, 16), torch.ones(1)
        >>> lightsr_kernels.distillation_fusion(parts, torch.randn(8, 12, 1, 1), gain=gain, residual=x).shape
        torch.Size([1, 8, 16, 16])
    """
    maps, ends = [] if maps is None else maps, (activation, negative_slope)
    return cast(Tensor, call(SPEC, parts, weight, bias, scale, maps, gain, residual, residual_gain, *ends))


def _check(
    parts: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    maps: Sequence[Tensor],
    gain: Tensor | None,
    residual: Tensor | None,
    residual_gain: Tensor | None,
    activation: str,
    negative_slope: float,
) -> None:
    op = "distillation_fusion"
    check_parts(op, parts)
    n, _, h, w = parts[0].shape
    channels = sum(part.shape[1] for part in parts)
    if channels < 1:
        raise ValueError(f"{op}: parts must have at least one channel together, got {channels}")
    channels_out = check_pointwise(op, "weight", weight, channels, parts[0])
    if channels_out < 1:
        raise ValueError(f"{op}: weight must have at least one filter, got shape {list(weight.shape)}")
    check_shape(op, "bias", bias, (channels_out,), parts[0])
    check_shape(op, "scale", scale, (n, channels, 1, 1), parts[0])
    check_tensors(op, "maps", maps, len(parts) if len(maps) else 0)
    for i, each in enumerate(maps):
        check_required(op, f"maps[{i}]", each, (n, 1, h, w), parts[0])
    for name, value in {"gain": gain, "residual_gain": residual_gain}.items():
        if isinstance(value, Tensor) and value.dim() == 1:
            check_shape(op, name, value, (1,), parts[0])
        else:
            check_shape(op, name, value, (), parts[0])
    check_shape(op, "residual", residual, (n, channels_out, h, w), parts[0])
    if residual_gain is not None and residual is None:
        raise ValueError(f"{op}: residual_gain was given without residual; give both or neither")
    check_choice(op, "activation", activation, ACTIVATIONS)
    check_number(op, "negative_slope", negative_slope)


def _added(*args: Any) -> int | None:
    *_, residual_gain, activation, _ = args
    return 6 if residual_gain is None and activation == "none" else None


def _fake(parts: Sequence[Tensor], weight: Tensor, *_: object) -> Tensor:
    return empty_result(parts[0], weight.shape[0])


def _autocast(
    dtype: torch.dtype,
    parts: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    maps: Sequence[Tensor],
    gain: Tensor | None,
    residual: Tensor | None,
    residual_gain: Tensor | None,
    activation: str,
    negative_slope: float,
) -> Tensor:
    """The kernels where eager code has one dtype throughout; where maps, scale or gains have another, the reference."""
    others = [each for each in (scale, gain, residual, residual_gain, *maps) if each is not None]
    kinds = {each.dtype for each in (*others, *(parts if scale is not None or maps else ()))}
    if kinds - {dtype} or torch.float64 in {each.dtype for each in (*parts, weight)}:
        with torch.autocast(weight.device.type, dtype):
            ends = (gain, residual, residual_gain, activation, negative_slope)
            return cast(Tensor, run_reference(SPEC, parts, weight, bias, scale, maps, *ends))
    parts = [autocast_to(part, dtype) for part in parts]
    return distillation_fusion(
        parts,
        autocast_to(weight, dtype),
        autocast_to(bias, dtype),
        scale=scale,
        maps=maps,
        gain=gain,
        residual=residual,
        residual_gain=residual_gain,
        activation=activation,
        negative_slope=negative_slope,
    )


def _cost(
    parts: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    maps: Sequence[Tensor],
    gain: Tensor | None,
    residual: Tensor | None,
    residual_gain: Tensor | None,
    activation: str,
    negative_slope: float,
) -> Cost:
    n, _, h, w = parts[0].shape
    channels_out, channels = weight.shape[:2]
    planes = channels + len(maps) + channels_out * (1 + (residual is not None))
    flops = 2 * weight.numel() + channels * (len(maps) > 0)
    return Cost(bytes=(planes * n * h * w + weight.numel()) * weight.element_size(), flops=flops * n * h * w)


def _call(
    make: Make,
    name: str,
    widths: Sequence[int],
    channels_out: int,
    picture: tuple[int, int, int] = (2, 9, 7),
    *,
    bias: bool = True,
    scale: bool = False,
    maps: bool = False,
    gain: tuple[int, ...] | None = None,
    residual: bool = False,
    residual_gain: tuple[int, ...] | None = None,
    activation: str = "none",
) -> Sample:
    n, h, w = picture
    parts = [make(n, width, h, w) for width in widths]
    weight = make(channels_out, sum(widths), 1, 1)
    factors = make(n, sum(widths), 1, 1) if scale else None, [make(n, 1, h, w) for _ in widths] if maps else []
    ends = (
        make(*gain) if gain is not None else None,
        make(n, channels_out, h, w) if residual else None,
        make(*residual_gain) if residual_gain is not None else None,
    )
    return Sample(name, (parts, weight, make(channels_out) if bias else None, *factors, *ends, activation, 0.25))


def _samples(make: Make) -> Iterator[Sample]:
    yield _call(make, "parts", (2, 3), 4)
    yield _call(make, "gains", (2, 1, 3), 4, gain=(1,), residual=True, residual_gain=(1,))
    yield _call(make, "scale-maps", (2, 3), 4, scale=True, maps=True, residual=True)
    yield _call(make, "everything", (3, 3), 2, scale=True, maps=True, gain=(), residual=True, residual_gain=())
    yield _call(make, "one-part-no-bias", (3,), 2, bias=False, gain=())
    yield _call(make, "odd-sides", (1, 2), 3, (1, 6, 11), maps=True)
    yield _call(make, "1-channel", (1, 1), 1, residual=True)
    yield _call(make, "1x1-picture", (2, 3), 4, (1, 1, 1), scale=True, maps=True, residual=True)
    for activation in ("relu", "leaky_relu", *(() if make.integers else ("gelu", "silu", "sigmoid"))):
        yield _call(make, activation, (3, 2), 4, gain=(1,), residual=True, activation=activation)
    yield _call(make, "no-pictures", (2, 3), 4, (0, 9, 7), scale=True, maps=True, residual=True)


def _bad_inputs(make: Make) -> Iterator[BadInput]:
    x = make(1, 2, 4, 3)

    def bad(name: str, position: int, value: object, error: type[Exception], match: str) -> BadInput:
        options: dict[str, Any] = {"scale": True, "maps": True, "residual": True}
        args = list(_call(make, "", (2, 3), 4, (1, 4, 3), gain=(), residual_gain=(), **options).args)
        args[position] = value
        return BadInput(name, tuple(args), error, match)

    yield bad("no-parts", 0, [], ValueError, "parts must hold at least one tensor")
    yield bad("a-tensor", 0, x, TypeError, "parts must be a list of tensors, got Tensor")
    yield bad("3-d", 0, [x[0], x[0]], ValueError, r"parts\[0\] must have 4 dimensions")
    yield bad("whole-numbers", 0, [x.long()], TypeError, r"parts\[0\] must be float32")
    yield bad("sizes-differ", 0, [x, make(1, 3, 4, 4)], ValueError, r"parts\[1\] must have shape \[1, 3, 4, 3\]")
    yield bad("dtypes-differ", 0, [x, x.to(other_dtype(x))], TypeError, r"parts\[1\] is")
    yield bad("no-channels", 0, [make(1, 0, 4, 3)] * 2, ValueError, "parts must have at least one channel")
    yield bad("weight-channels", 1, make(4, 4, 1, 1), ValueError, r"weight must have shape \[4, 5, 1, 1\]")
    yield bad("weight-no-filters", 1, make(0, 5, 1, 1), ValueError, "weight must have at least one filter")
    yield bad("weight-missing", 1, None, TypeError, "weight must be a torch.Tensor")
    yield bad("bias", 2, make(5), ValueError, r"bias must have shape \[4\]")
    yield bad("scale", 3, make(1, 4, 1, 1), ValueError, r"scale must have shape \[1, 5, 1, 1\]")
    yield bad("maps-count", 4, [make(1, 1, 4, 3)], ValueError, "maps must have one entry a part, 2 in all; got 1")
    yield bad("maps-shape", 4, [x, x], ValueError, r"maps\[0\] must have shape \[1, 1, 4, 3\]")
    yield bad("maps-a-tensor", 4, x, TypeError, "maps must be a list of tensors, got Tensor")
    yield bad("gain", 5, make(2), ValueError, r"gain must have shape \[1\]")
    yield bad("gain-a-number", 5, 1.0, TypeError, "gain must be a torch.Tensor, got float")
    yield bad("gain-2-d", 5, make(1, 1), ValueError, r"gain must have shape \[\]")
    yield bad("residual", 6, x, ValueError, r"residual must have shape \[1, 4, 4, 3\]")
    yield bad("residual-gain", 7, make(4), ValueError, r"residual_gain must have shape \[1\]")
    yield bad("activation", 8, "tanh", ValueError, "activation must be one of none, relu")
    yield bad("slope", 9, "steep", TypeError, "negative_slope must be a number, got str")
    yield bad("residual-gain-alone", 6, None, ValueError, "residual_gain was given without residual")


def _bench(make: Make) -> Iterator[Sample]:
    for n, h, w in ((1, 45, 80), (1, 180, 320), (16, 64, 64)):
        size = (n, h, w)
        yield _call(make, f"4x{n}x26x{h}x{w}-to-52", (26,) * 4, 52, size, scale=True, maps=True, residual=True)
        gains: dict[str, Any] = {"gain": (1,), "residual_gain": (1,)}
        yield _call(make, f"4x{n}x16x{h}x{w}-to-64-gains", (16,) * 4, 64, size, residual=True, **gains)
        yield _call(make, f"6x{n}x64x{h}x{w}-to-64", (64,) * 6, 64, size)


SPEC = register(
    OpSpec(
        name="distillation_fusion",
        schema="(Tensor[] parts, Tensor weight, Tensor? bias, Tensor? scale, Tensor[] maps, Tensor? gain, "
        "Tensor? residual, Tensor? residual_gain, str activation, float negative_slope) -> Tensor",
        source="Liu et al., RFDN, arXiv 2009.11551; Wang et al., AWSRN, arXiv 1904.02358",
        reference=reference,
        check=_check,
        fake=_fake,
        samples=_samples,
        bad_inputs=_bad_inputs,
        bench=_bench,
        cost=_cost,
        backends=("cuda", "triton", "cpu", "reference"),
        autocast=_autocast,
        added=_added,
        exact_on_integers=True,
    )
)
