"""multi_attention on Triton, the portable path on GPUs, forward and backward.

Composed of passes that other ops have: pixel attention is split_distillation's gate, the pooled maps and the spatial
gate are instance_norm_attention's, and the last 1x1 convolution takes in maps, channel scales and the residual as
distillation_fusion does, so neither the gated parts nor their concatenation are stored. For each part that moves its
numbers five times (read; z written, and read for the maps, the sums and the convolution), where step by step it is at
least eleven. Without out_weight the products with maps and scales are PyTorch's. Channel attention's two layers see one
number a plane; they are PyTorch's, in float64.

Nothing here waits for the GPU or measures, so calls can be captured in a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..attention_maps.gradients import own
from ..depthwise_conv.triton import convolve, weight_gradients
from ..distillation_fusion import triton as fusion
from ..functional import empty_result, layout_of
from ..instance_norm_attention.triton import channel_pool, spatial_gate
from ..split_distillation import triton as distillation
from .triton_launch import gated_sums, map_gradients, pixel_gradients

_PLAIN = (None, None, None, "none", 0.0, None, None, "none")  # of split_distillation: all but the gate


@dataclass(frozen=True)
class _Part:
    """A part on its way, and what its gradients take."""

    x: Tensor  # [N, C, H, W], dense, in the layout of the first part
    z: Tensor  # behind pixel attention
    pooled: Tensor  # [N, 2, H, W]
    gate: Tensor  # [N, 1, H, W]
    mean: Tensor  # float64 [N, C], behind spatial attention
    scale: Tensor  # [N, C, 1, 1]


def forward(
    parts: list[Tensor],  # each [N, C_k, H, W]
    *others: Any,
) -> Tensor:  # [N, C_out or sum of C_k, H, W]
    """Arguments and result as the reference's."""
    *layers, out_weight, out_bias, residual = others
    if parts[0].numel() == 0:
        return empty_result(parts[0], sum(each.shape[1] for each in parts) if out_weight is None else len(out_weight))
    given = _attended(parts, layers)
    zs, maps, scale = [each.z for each in given], [each.gate for each in given], _scales(given)
    if out_weight is not None:
        return fusion.forward(zs, out_weight, out_bias, scale, maps, None, residual, None)
    out = torch.cat([each.z * each.gate * each.scale for each in given], 1)
    out = out if residual is None else out + residual
    return out.to(parts[0].dtype).contiguous(memory_format=layout_of(parts[0]))


def backward(grads: list[Tensor], wanted: list[bool], parts: list[Tensor], *others: Any) -> list[Tensor]:
    """What lies between the steps is computed again."""
    *layers, out_weight, out_bias, residual = others
    ends = [each for each in (out_weight, out_bias, residual) if each is not None]
    tensors = [*parts, *(each for layer in layers for each in layer), *ends]
    inner = any(wanted[: len(tensors) - len(ends)])
    given, count = _attended(parts, layers), len(parts)
    zs, maps, scale = [each.z for each in given], [each.gate for each in given], _scales(given)
    grad = grads[0]
    found: list[Any] = [None] * len(tensors)
    if out_weight is not None:
        wants = wanted[len(tensors) - len(ends) :]
        bias, rest = (wants[1:2], wants[2:]) if out_bias is not None else ([], wants[1:])
        flags = [*[inner] * count, wants[0], *bias, inner, *[inner] * count, *rest]
        results = iter(fusion.backward([grad], flags, zs, out_weight, out_bias, scale, maps, None, residual, None))
        grad_zs = [next(results) for _ in zs] if inner else []
        for place, want in zip(range(len(tensors) - len(ends), len(tensors)), [wants[0], *bias], strict=False):
            found[place] = next(results) if want else None
        if inner:
            grad_scale, grad_maps = next(results), [next(results) for _ in maps]
        if rest and rest[0]:
            found[-1] = next(results)
    else:
        if residual is not None and wanted[-1]:
            found[-1] = grad.clone(memory_format=layout_of(residual))
        if inner:
            grad_zs, grad_scale, grad_maps = _side_by_side(grad, given)
    if inner:
        scales = torch.split(grad_scale.flatten(1), [each.x.shape[1] for each in given], 1)
        for k, part in enumerate(given):
            found[k : len(tensors) - len(ends) : count] = _of_part(
                part, [layer[k] for layer in layers], grad_zs[k], grad_maps[k], scales[k]
            )
    return [own(each, like) for each, like, want in zip(found, tensors, wanted, strict=True) if want]


def _attended(parts: list[Tensor], layers: list[list[Tensor]]) -> list[_Part]:
    layout, found = layout_of(parts[0]), []
    for x, pixel_weight, pixel_bias, spatial_weight, *channel in zip(parts, *layers, strict=True):
        x = x.contiguous(memory_format=layout)  # noqa: PLW2901
        z = distillation.forward(x, *_PLAIN, pixel_weight, pixel_bias, False)[0].contiguous(memory_format=layout)
        pooled = channel_pool(z, (None, None, None))
        gate = spatial_gate(pooled, spatial_weight)
        mean = gated_sums(z, gate) / (x.shape[2] * x.shape[3])
        found.append(_Part(x, z, pooled, gate, mean, _scale(mean, *channel).to(gate.dtype)[:, :, None, None]))
    return found


def _scale(
    mean: Tensor,  # float64 [N, C]
    down_weight: Tensor,  # [R, C, 1, 1]
    down_bias: Tensor,  # [R]
    up_weight: Tensor,  # [C, R, 1, 1]
    up_bias: Tensor,  # [C]
) -> Tensor:  # float64 [N, C]
    hidden = torch.relu(mean @ down_weight.flatten(1).double().mT + down_bias.double())
    return torch.sigmoid(hidden @ up_weight.flatten(1).double().mT + up_bias.double())


def _scales(given: list[_Part]) -> Tensor:  # [N, sum of C_k, 1, 1]
    return torch.cat([each.scale for each in given], 1)


def _side_by_side(grad: Tensor, given: list[_Part]) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """The gradients of the parts, the scales and the maps, where nothing joins the parts."""
    grads = torch.split(grad.to(given[0].gate.dtype), [each.x.shape[1] for each in given], 1)
    of_parts = [each * part.gate * part.scale for each, part in zip(grads, given, strict=True)]
    products = [each * part.z for each, part in zip(grads, given, strict=True)]
    of_scales = [(each * part.gate).sum((2, 3)) for each, part in zip(products, given, strict=True)]
    of_maps = [(each * part.scale).sum(1, keepdim=True) for each, part in zip(products, given, strict=True)]
    return of_parts, torch.cat(of_scales, 1), of_maps


def _of_part(part: _Part, layers: list[Tensor], grad_z: Tensor, grad_map: Tensor, grad_scale: Tensor) -> list[Tensor]:
    """The gradients of a part and of its layers."""
    pixel_weight, pixel_bias, spatial_weight, *channel = layers
    pull_back: Any = torch.func.vjp(_scale, part.mean, *channel)[1]
    grad_mean, *of_channel = pull_back(grad_scale.double())
    slope = (grad_mean / (part.x.shape[2] * part.x.shape[3])).to(part.gate.dtype)
    grad_logit, share = map_gradients(part.z, part.gate, part.pooled, grad_map.contiguous(), slope)
    both, side = grad_logit.expand(-1, 2, -1, -1).contiguous(), spatial_weight.shape[-1]
    weight = spatial_weight.to(both.dtype).reshape(2, 1, side, side)
    grad_pooled = convolve(both, weight, None, [1, 1], True)
    of_spatial = weight_gradients(both, part.pooled, (side, side), [1, 1], False)[0].view_as(spatial_weight)
    grad_z = grad_z.contiguous(memory_format=layout_of(part.z))
    grad_z = pixel_gradients(grad_z, part.z, part.gate, part.pooled, grad_pooled, share, slope)
    args = (part.x, *_PLAIN, pixel_weight, pixel_bias, False)
    of_pixel = distillation.backward([grad_z, part.x[:, :0]], [True, True, True], *args)
    return [*of_pixel, of_spatial, *of_channel]
