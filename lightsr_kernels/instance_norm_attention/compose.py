"""instance_norm_attention, instance_norm, channel_attention and spatial_attention out of one set of passes over x.

    y = scale (x - centre) + shift                        of every plane, from its moments and the small parameters
    out = y sigmoid(conv(pooled)) + x                     pooled: mean and maximum of y over the channels

An op that lacks a part leaves it out: no norm and no channel gate, then y = x; no spatial filter, then out = y; no
residual, then no x. Which backend runs the passes makes no difference here; the gradients of the numbers there are one
of for every plane are plain PyTorch in float64 (plane_gradients.py), where a backend has not all in one call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional import dense, dense_as, empty_gradient, empty_result
from .plane_gradients import plane_gradients

Affine = tuple[Tensor | None, Tensor | None, Tensor | None]  # centre, scale, shift: wide [N, C]; None: 0, 1, 0
Maps = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]  # gate, pooled, grad_pooled, share
OfPlanes = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]
OF_PLANES = ("norm_weight", "norm_bias", "down_weight", "down_bias", "up_weight", "up_bias")
MOST_TAPS = 31  # a side, of depthwise_conv's kernels


class Passes(Protocol):
    """The passes of a backend. "Wide" is float64 for float64, else float32; pictures are contiguous or channels_last.

    What they return is new and dense, and never aliases an argument. x has at least one number. A backend may have two
    more, which are several in one call, or None where that cannot be: `together(x, parts, keep)`, `forward_keeping`,
    and `backward_together(grad, x, parts, moments, (gate, pooled, grad_pooled, share), wants)`, from `affine_sums` on,
    by name the gradients that are wanted of x and of what planes have.
    """

    def moments(self, x: Tensor) -> Tensor:
        """Mean and variance of every plane, float64 [2, N, C]."""

    def factors(
        self,
        mean: Tensor,  # float64 [N, C]
        variance: Tensor,  # float64 [N, C]
        norm_weight: Tensor | None,  # [C]; these six have one dtype, whichever
        norm_bias: Tensor | None,  # [C]
        down_weight: Tensor | None,  # [R, C, 1, 1]
        down_bias: Tensor | None,  # [R]
        up_weight: Tensor | None,  # [C, R, 1, 1]
        up_bias: Tensor | None,  # [C]
        eps: float,
        statistic: str,  # "mean" or "mean+std"
        norm: bool,
        dtype: torch.dtype,  # the wide one
    ) -> tuple[Tensor, Tensor, Tensor]:
        """centre, scale and shift, wide [N, C]; without a norm centre and shift are 0."""

    def channel_pool(self, x: Tensor, affine: Affine) -> Tensor:
        """Mean and maximum of y over the channels, wide [N, 2, H, W], contiguous."""

    def gated_affine(
        self, x: Tensor, affine: Affine, pooled: Tensor | None, spatial_weight: Tensor | None, residual: bool
    ) -> tuple[Tensor, Tensor | None]:
        """out, laid out as x, and the gate, wide [N, 1, H, W] contiguous; spatial_weight [1, 2, K, K] in x's dtype."""

    def gate_gradient(
        self, grad: Tensor, x: Tensor, affine: Affine, gate: Tensor, pooled: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The gradient before the sigmoid, and 1 / (channels that are the maximum); wide [N, 1, H, W]."""

    def affine_sums(
        self,
        grad: Tensor,
        x: Tensor,
        affine: Affine,
        gate: Tensor | None,
        pooled: Tensor | None,
        grad_pooled: Tensor | None,  # wide [N, 2, H, W], contiguous
        share: Tensor | None,
    ) -> Tensor:
        """The sums of dy and dy (x - centre) over every plane, float64 [2, N, C]."""

    def affine_gradient(
        self,
        grad: Tensor,
        x: Tensor,
        affine: Affine,
        gate: Tensor | None,
        pooled: Tensor | None,
        grad_pooled: Tensor | None,
        share: Tensor | None,
        residual: bool,
        constant: Tensor | None,  # wide [N, C]
        slope: Tensor | None,  # wide [N, C]
    ) -> Tensor:
        """Gradient dy scale + constant + slope (x - centre), + grad where there is a residual; laid out as x."""

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, dilation: list[int], flip: bool) -> Tensor:
        """depthwise_conv's."""

    def weight_gradients(
        self, grad: Tensor, x: Tensor, size: tuple[int, int], dilation: list[int], bias: bool
    ) -> tuple[Tensor, Tensor | None]:
        """depthwise_conv's."""


@dataclass(slots=True, kw_only=True)  # not frozen, which takes three times as long to make
class Parts:
    """What an op is made of, its tensors in the order of its schema; None for those it lacks."""

    norm_weight: Tensor | None = None  # [C]
    norm_bias: Tensor | None = None  # [C]
    down_weight: Tensor | None = None  # [R, C, 1, 1]
    down_bias: Tensor | None = None  # [R]
    up_weight: Tensor | None = None  # [C, R, 1, 1]
    up_bias: Tensor | None = None  # [C]
    spatial_weight: Tensor | None = None  # [1, 2, K, K]
    norm: bool = False
    eps: float = 1.0
    statistic: str = "mean+std"
    residual: bool = False

    @property
    def has_planes(self) -> bool:
        """Whether y is another than x."""
        return self.norm or self.down_weight is not None

    def of_planes(self, x: Tensor) -> OfPlanes:
        """The parameters that planes have, as in OF_PLANES: contiguous, all of one dtype, with the wide type of x's."""
        found = [self.norm_weight, self.norm_bias, self.down_weight, self.down_bias, self.up_weight, self.up_bias]
        dtypes = {each.dtype for each in found if each is not None}
        if len(dtypes) > 1 or any(wide(each) != wide(x.dtype) for each in dtypes):  # under autocast
            found = [None if each is None else each.to(wide(x.dtype)) for each in found]
        return cast(OfPlanes, tuple([None if each is None else each.contiguous() for each in found]))

    def given(self, x: Tensor) -> dict[str, Tensor]:
        """The tensors of the call, by name and in order."""
        found = {name: getattr(self, name) for name in (*OF_PLANES, "spatial_weight")}
        return {"x": x} | {name: value for name, value in found.items() if value is not None}


def parts(
    norm_weight: Tensor,  # [C]
    norm_bias: Tensor,  # [C]
    down_weight: Tensor,  # [R, C, 1, 1]
    down_bias: Tensor,  # [R]
    up_weight: Tensor,  # [C, R, 1, 1]
    up_bias: Tensor,  # [C]
    spatial_weight: Tensor,  # [1, 2, K, K]
    eps: float,
) -> Parts:
    """What instance_norm_attention is made of, from its arguments after x."""
    return Parts(
        norm_weight=norm_weight,
        norm_bias=norm_bias,
        down_weight=down_weight,
        down_bias=down_bias,
        up_weight=up_weight,
        up_bias=up_bias,
        spatial_weight=spatial_weight,
        norm=True,
        eps=eps,
        residual=True,
    )


def wide(dtype: torch.dtype) -> torch.dtype:
    """What the passes compute in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def forward(passes: Passes, x: Tensor, parts: Parts) -> Tensor:
    return _forward(passes, x, parts, False)[0]


def forward_keeping(passes: Passes, x: Tensor, parts: Parts) -> tuple[Tensor, list[Tensor]]:
    """The result, and what spares `backward` passes: moments of planes, pooled maps and gate, where any."""
    return _forward(passes, x, parts, True)


def _forward(passes: Passes, x: Tensor, parts: Parts, keep: bool) -> tuple[Tensor, list[Tensor]]:
    x = dense(x)
    if x.numel() == 0:
        return empty_result(x, x.shape[1]), []
    together = getattr(passes, "together", None)
    if together is not None and (found := together(x, parts, keep)) is not None:
        return cast(tuple[Tensor, list[Tensor]], found)
    kept = [passes.moments(x)] if parts.has_planes else []
    affine = _affine(passes, x, parts, kept)
    if parts.spatial_weight is None:
        return passes.gated_affine(x, affine, None, None, parts.residual)[0], kept
    pooled = passes.channel_pool(x, affine)
    out, gate = passes.gated_affine(x, affine, pooled, parts.spatial_weight.to(x.dtype).contiguous(), parts.residual)
    assert gate is not None
    return out, [*kept, pooled, gate]


def _affine(passes: Passes, x: Tensor, parts: Parts, kept: list[Tensor]) -> Affine:
    if not parts.has_planes:
        return None, None, None
    mean, variance = kept[0]
    options = parts.eps, parts.statistic, parts.norm, wide(x.dtype)
    affine = passes.factors(mean, variance, *parts.of_planes(x), *options)
    return affine if parts.norm else (None, affine[1], None)


def backward(
    passes: Passes,
    grads: list[Tensor],  # of the one result, [N, C, H, W]
    wanted: list[bool],  # one flag for each tensor given, in order
    x: Tensor,  # [N, C, H, W]
    parts: Parts,
    kept: list[Tensor] | None = None,  # from `forward_keeping`
) -> list[Tensor]:
    given = parts.given(x)
    wants = {name for name, want in zip(given, wanted, strict=True) if want}
    x = dense(x)
    grad, found = dense_as(grads[0], x), dict[str, Tensor]()
    if kept is None:
        kept = [passes.moments(x)] if parts.has_planes else []

    gate = pooled = grad_pooled = share = affine = None
    if parts.spatial_weight is not None:
        affine = _affine(passes, x, parts, kept)
        weight = parts.spatial_weight.to(wide(x.dtype)).reshape(2, 1, *parts.spatial_weight.shape[2:])
        pooled, gate = kept[-2:] if kept[parts.has_planes :] else _maps(passes, x, affine, weight)
        grad_logit, share = passes.gate_gradient(grad, x, affine, gate, pooled)
        grad_pooled, found["spatial_weight"] = _filter_gradients(passes, grad_logit, pooled, weight, wants)

    maps = gate, pooled, grad_pooled, share
    if not parts.has_planes:
        if "x" in wants:
            none = None, None, None
            found["x"] = passes.affine_gradient(grad, x, none, *maps, parts.residual, None, None)
    elif wants != {"spatial_weight"}:
        together = getattr(passes, "backward_together", None)
        of_planes = None if together is None else together(grad, x, parts, kept[0], maps, wants)
        if of_planes is None:
            of_planes = _of_planes(passes, grad, x, parts, kept, affine or _affine(passes, x, parts, kept), maps, wants)
        found |= of_planes
    return [_own(found[name], value) for name, value in given.items() if name in wants]


def _of_planes(
    passes: Passes,
    grad: Tensor,
    x: Tensor,
    parts: Parts,
    kept: list[Tensor],
    affine: Affine,
    maps: Maps,
    wants: set[str],
) -> dict[str, Tensor]:
    """`backward_together` out of passes."""
    mean, variance = kept[0]
    if not parts.norm and maps[0] is None:
        # y = scale x: there is no centre in it, but sums of dy (x - centre) keep the digits that count.
        centre = mean.to(wide(x.dtype))
        affine = centre, affine[1], None if affine[1] is None else affine[1] * centre
    sums = passes.affine_sums(grad, x, affine, *maps)
    pixels = x.shape[2] * x.shape[3]
    centre = torch.zeros_like(mean) if affine[0] is None else affine[0].double()
    parameters = {name: each for name, each in zip(OF_PLANES, parts.of_planes(x), strict=True) if each is not None}
    by_mean, by_variance, found = plane_gradients(
        sums, mean, variance, centre, parameters, parts.eps, parts.statistic, parts.norm, pixels
    )
    if "x" in wants:
        if parts.norm and pixels == 1 and affine[1] is not None:  # the gradient is 0, and what cancels would not be
            affine = affine[0], torch.zeros_like(affine[1]), affine[2]
        constant, slope = by_mean / pixels, None
        if parts.norm or parts.statistic == "mean+std":  # a gate that reads the mean alone has none
            slopes = 2 / pixels * by_variance
            constant, slope = constant - slopes * (mean - centre), slopes.to(wide(x.dtype))
        constant = constant.to(wide(x.dtype))
        found["x"] = passes.affine_gradient(grad, x, affine, *maps, parts.residual, constant, slope)
    return found


def _maps(passes: Passes, x: Tensor, affine: Affine, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The pooled maps and the gate, once more."""
    pooled = passes.channel_pool(x, affine)
    if weight.shape[-1] > MOST_TAPS:
        logit = F.conv2d(pooled, weight.transpose(0, 1), padding=weight.shape[-1] // 2)
    else:
        logit = passes.convolve(pooled, weight, None, [1, 1], False).sum(1, keepdim=True)
    return pooled, logit.sigmoid_()


def _filter_gradients(
    passes: Passes,
    grad_logit: Tensor,  # [N, 1, H, W]
    pooled: Tensor,  # [N, 2, H, W]
    weight: Tensor,  # [2, 1, K, K]
    wants: set[str],
) -> tuple[Tensor, Tensor]:
    """The gradients of pooled and of the filter, where they are wanted; else what may not be used."""
    k = weight.shape[-1]
    need_maps, need_weight = wants != {"spatial_weight"}, "spatial_weight" in wants
    if k > MOST_TAPS:
        back = torch.ops.aten.convolution_backward
        options = [1, 1], [k // 2, k // 2], [1, 1], False, [0, 0], 1
        filters = weight.transpose(0, 1).contiguous()
        by_maps, by_weight, _ = back(grad_logit, pooled, filters, None, *options, [need_maps, need_weight, False])
        return by_maps if need_maps else grad_logit, by_weight if need_weight else weight
    both = grad_logit.expand(-1, 2, -1, -1).contiguous()
    by_maps = passes.convolve(both, weight, None, [1, 1], True) if need_maps else grad_logit
    by_weight = passes.weight_gradients(both, pooled, (k, k), [1, 1], False)[0] if need_weight else weight
    return by_maps, by_weight.reshape(1, 2, k, k)


def _own(value: Tensor, like: Tensor) -> Tensor:
    """`value` dense in the dtype and layout of its argument."""
    same = value.dtype == like.dtype and value.shape == like.shape
    if same and (value.stride() == like.stride() or value.stride() == empty_gradient(like).stride()):
        return value
    return empty_gradient(like).copy_(value.reshape(like.shape))
