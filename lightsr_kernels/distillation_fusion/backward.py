"""The gradients of distillation_fusion out of one pass over the pixels, which each backend has its own kernel for.

With P[n, o, k] the sum over pixels of grad[n, o] times (part map)[n, k], and s[n, o] that of grad[n, o], the gradients
of weight, scale and gain are small sums: the forward product is not needed again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..functional import empty_gradient, layout_of
from ..split_distillation.backward import as_argument, dense_in, gradient_memory, sliced

MOST_PARTS = 16  # as many as a kernel takes


@dataclass(slots=True)  # not frozen, which takes three times as long to make
class Call:
    """The arguments of one call, with pictures as kernels take them."""

    parts: list[Tensor]  # each [N, C_k, H, W], sliced, in one layout; at most MOST_PARTS
    weight: Tensor  # [C_out, sum of C_k, 1, 1], contiguous
    bias: Tensor | None  # [C_out]
    scale: Tensor | None  # [N, sum of C_k, 1, 1], contiguous
    maps: list[Tensor]  # none, or one [N, 1, H, W] a part, contiguous
    gain: Tensor | None  # [] or [1]
    residual: Tensor | None  # [N, C_out, H, W], sliced
    residual_gain: Tensor | None  # [] or [1]
    layout: torch.memory_format  # of results and gradients


def call_of(
    parts: list[Tensor],  # each [N, C_k, H, W]
    weight: Tensor,  # [C_out, sum of C_k, 1, 1]
    bias: Tensor | None,  # [C_out]
    scale: Tensor | None,  # [N, sum of C_k, 1, 1]
    maps: list[Tensor],  # none, or one [N, 1, H, W] a part
    gain: Tensor | None,  # [] or [1]
    residual: Tensor | None,  # [N, C_out, H, W]
    residual_gain: Tensor | None,  # [] or [1]
) -> Call:
    layout = layout_of(parts[0])
    return Call(
        [sliced(part, layout) for part in parts],
        weight.contiguous(),
        None if bias is None else bias.contiguous(),
        None if scale is None else scale.contiguous(),
        [each.contiguous() for each in maps],
        gain,
        None if residual is None else sliced(residual, layout),
        residual_gain,
        layout,
    )


def shortened(
    parts: list[Tensor],  # each [N, C_k, H, W]
    maps: list[Tensor],  # none, or one [N, 1, H, W] a part
) -> tuple[list[Tensor], list[Tensor]]:  # at most MOST_PARTS each
    """Parts and maps for a kernel: where they are too many the last ones become one part, with its maps in it."""
    if len(parts) <= MOST_PARTS:
        return parts, maps
    first = MOST_PARTS - 1
    last = [part * each for part, each in zip(parts[first:], maps[first:], strict=True)] if maps else parts[first:]
    return [*parts[:first], torch.cat(last, 1)], [*maps[:first], torch.ones_like(maps[0])] if maps else []


@dataclass
class Found:
    """What a kernel fills; None where it is not wanted. Pictures are dense in the layout of the call."""

    parts: list[Tensor | None]  # each [N, C_k, H, W]
    maps: list[Tensor | None]  # each [N, 1, H, W]; none where the call has none
    residual: Tensor | None  # [N, C_out, H, W]: residual_gain grad
    products: Tensor | None  # float64 [N, C_out, sum of C_k] where there is a scale, else [1, ...]: over all pictures
    sums: Tensor | None  # float64 [N or 1, C_out], as products
    residual_product: Tensor | None  # float64 [1]: sum of grad times residual


# (call, grad dense in call.layout, found): fills the tensors of `found`.
Gradients = Callable[[Call, Tensor, Found], None]


def backward(
    gradients: Gradients,
    grads: list[Tensor],  # of the one result, [N, C_out, H, W]
    wanted: list[bool],  # one flag for each tensor given, lists flattened
    parts: list[Tensor],  # each [N, C_k, H, W]
    weight: Tensor,  # [C_out, sum of C_k, 1, 1]
    bias: Tensor | None,  # [C_out]
    scale: Tensor | None,  # [N, sum of C_k, 1, 1]
    maps: list[Tensor],  # none, or one [N, 1, H, W] a part
    gain: Tensor | None,  # [] or [1]
    residual: Tensor | None,  # [N, C_out, H, W]
    residual_gain: Tensor | None,  # [] or [1]
) -> list[Tensor]:
    ends = (gain, residual, residual_gain)
    if len(parts) > MOST_PARTS:
        return _of_many(gradients, grads, wanted, parts, weight, bias, scale, maps, *ends)
    call = call_of(parts, weight, bias, scale, maps, *ends)
    flags = iter(wanted)

    def place(value: Tensor | None) -> Tensor | None:
        return None if value is None or not next(flags) else gradient_memory(value, call.layout)

    grad_parts = [place(part) for part in parts]
    grad_weight, grad_bias, grad_scale = place(weight), place(bias), place(scale)
    grad_maps = [place(each) for each in maps]
    grad_gain, grad_residual, grad_residual_gain = place(gain), place(residual), place(residual_gain)

    def wide(needed: bool, *shape: int) -> Tensor | None:
        return torch.empty(shape, dtype=torch.float64, device=weight.device) if needed else None

    pictures = 1 if scale is None else len(scale)
    matrix = any(each is not None for each in (grad_weight, grad_scale, grad_gain))
    vector = grad_bias is not None or (grad_gain is not None and bias is not None)
    found = Found(
        grad_parts,
        grad_maps,
        grad_residual,
        wide(matrix, pictures, *weight.shape[:2]),
        wide(vector, pictures, len(weight)),
        wide(grad_residual_gain is not None, 1),
    )
    gradients(call, dense_in(grads[0], call.layout), found)
    _small(call, found, grad_weight, grad_bias, grad_scale, grad_gain)
    if grad_residual_gain is not None and found.residual_product is not None:
        grad_residual_gain.copy_(found.residual_product.view_as(grad_residual_gain))
    results = [
        *grad_parts,
        grad_weight,
        grad_bias,
        grad_scale,
        *grad_maps,
        grad_gain,
        grad_residual,
        grad_residual_gain,
    ]
    values = [*parts, weight, bias, scale, *maps, *ends]
    pairs = zip(results, values, strict=True)
    return [as_argument(result, value) for result, value in pairs if result is not None and value is not None]


def _small(
    call: Call,
    found: Found,
    grad_weight: Tensor | None,
    grad_bias: Tensor | None,
    grad_scale: Tensor | None,
    grad_gain: Tensor | None,
) -> None:
    """Fills the gradients of weight, bias, scale and gain from the sums over pixels."""
    gain = 1.0 if call.gain is None else call.gain.double().reshape(())
    total = torch.zeros((), dtype=torch.float64, device=call.weight.device)
    if found.products is not None:
        weight = call.weight.double().flatten(1)  # [C_out, K]
        scaled = found.products  # [N or 1, C_out, K]
        if call.scale is not None:
            if grad_scale is not None:
                grad_scale.copy_((gain * (scaled * weight).sum(1)).view_as(grad_scale))
            scaled = scaled * call.scale.double().flatten(1)[:, None]
        summed = scaled.sum(0)
        total = total + (summed * weight).sum()
        if grad_weight is not None:
            grad_weight.copy_((gain * summed).view_as(grad_weight))
    if found.sums is not None:
        sums = found.sums.sum(0)
        if call.bias is not None:
            total = total + (sums * call.bias.double()).sum()
        if grad_bias is not None:
            grad_bias.copy_(gain * sums)
    if grad_gain is not None:
        grad_gain.copy_(total.view_as(grad_gain))


def _of_many(
    gradients: Gradients,
    grads: list[Tensor],
    wanted: list[bool],
    parts: list[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    maps: list[Tensor],
    *ends: Tensor | None,
) -> list[Tensor]:
    """As `backward`, for more parts than a kernel takes."""
    single, count = MOST_PARTS - 1, len(parts)
    begin = count + 1 + (bias is not None) + (scale is not None)  # where the flags of maps begin
    end = begin + len(maps)
    want_parts, want_maps = wanted[:count], wanted[begin:end]
    joined = any(want_parts[single:] + want_maps[single:])
    short = [*want_parts[:single], joined, *wanted[count:begin], *want_maps[:single], *([False] if maps else [])]
    few_parts, few_maps = shortened(parts, maps)
    given = (few_parts, weight, bias, scale, few_maps, *ends)
    found = iter(backward(gradients, grads, [*short, *wanted[end:]], *given))  # type: ignore[arg-type]

    results = [next(found) for want in want_parts[:single] if want]
    tail = torch.split(next(found), [part.shape[1] for part in parts[single:]], 1) if joined else ()
    last = list(range(single, count))
    for k in last:
        if want_parts[k]:
            value = tail[k - single] * maps[k] if maps else tail[k - single]
            results.append(empty_gradient(parts[k]).copy_(value))
    results += [next(found) for want in wanted[count:begin] if want]
    if maps:
        results += [next(found) for want in want_maps[:single] if want]
        for k in last:
            if want_maps[k]:
                value = (tail[k - single] * parts[k]).sum(1, keepdim=True)
                results.append(empty_gradient(maps[k]).copy_(value))
    return [*results, *found]
