"""The gradients of gated_pointwise on Triton: what its kernels see of E channels, and the way back through its gate."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention_maps.triton_gradients import norm_gradients, product_sums
from ..attention_maps.triton_project import padded, project, strides_of, wide
from ..functional import dense_as, layout_of
from ..split_distillation.triton_tiles import add_up, stretched
from ..triton_common import MOST_PROGRAMS, accumulator, device_of, factor, launches, options, up
from . import triton_backward
from .triton_launch import BOTH, Maps, convolve, joined

SUMS = {"PIXELS": 16, "EXPANDED": 16, "DEPTH": 16}
PICTURES = {"EXPANDED": 16, "DEPTH": 16}
UNPOOL = 128


def gradients(
    grad: Tensor,  # [N, C, H, W], dense, in the layout of x
    x: Tensor,  # [N, C, H, W], dense
    given: dict[str, Tensor],  # the weights by name, contiguous
    eps: float,
    maps: Maps,
) -> dict[str, Tensor]:
    """All gradients by name; the sums among them in float64."""
    found = _weight_sums(grad, x, given, eps, maps)
    grad_n, grad_m = _pictures(grad, x, given, eps, maps)
    found["out_bias"] = grad.sum((0, 2, 3), dtype=torch.float64)
    grad_entered = _of_gate(grad_m, given, maps, found)

    norm, entry = (given["norm_weight"], given["norm_bias"]), given["entry_weight"].flatten(1).double()
    weight, bias = given["weight_c"].flatten(1).double(), given["bias_c"].double()
    joint, total = product_sums(grad_entered, x, norm, eps), grad_entered.sum((0, 2, 3), dtype=torch.float64)
    found["entry_weight"], found["entry_bias"] = joint @ weight.mT + total[:, None] * bias, total
    found["weight_c"] = found["weight_c"] + entry.mT @ joint
    found["bias_c"] = found["bias_c"] + entry.mT @ total
    grad_n = project(grad_entered, joined(given)[0].mT.contiguous(), added=grad_n, layout=layout_of(x))
    found["x"], found["norm_weight"], found["norm_bias"] = norm_gradients(grad_n, x, norm[0], eps, None, (True, True))
    return found


def _of_gate(grad_m: Tensor, given: dict[str, Tensor], maps: Maps, found: dict[str, Tensor]) -> Tensor:
    """The gradient of `entered`, through the skip and the coarse map; those of the gate's weights go into `found`."""
    entered, kind = maps.entered, grad_m.dtype
    found["skip_weight"] = product_sums(grad_m, entered.to(kind))
    found["skip_bias"] = grad_m.sum((0, 2, 3), dtype=torch.float64)

    rows, columns = (
        F.interpolate(torch.eye(small, dtype=kind, device=grad_m.device)[None], large, mode="linear")[0]
        for small, large in zip(maps.coarse.shape[2:], grad_m.shape[2:], strict=True)
    )  # [small, large]
    grad_coarse = (rows @ (grad_m.contiguous() @ columns.mT)).contiguous()
    found["pool_weight"] = _filter_gradients(grad_coarse, F.pad(maps.pooled, (1, 1, 1, 1)), 1)
    found["pool_bias"] = grad_coarse.sum((0, 2, 3), dtype=torch.float64)
    grad_pooled = convolve(grad_coarse, _turned(given["pool_weight"]), None, 1, 1)
    grad_strided = _unpool(grad_pooled, maps)
    found["stride_weight"] = _filter_gradients(grad_strided, entered.to(kind), 2)
    found["stride_bias"] = grad_strided.sum((0, 2, 3), dtype=torch.float64)
    n, gate, height, width = entered.shape
    spread = grad_strided.new_zeros((n, gate, height - 2, width - 2))
    spread[:, :, ::2, ::2] = grad_strided
    through = convolve(spread, _turned(given["stride_weight"]), None, 1, 2)
    return project(grad_m, given["skip_weight"].flatten(1).mT.contiguous(), added=dense_as(through, grad_m))


def _filter_gradients(
    grad: Tensor,  # [N, P, h, w], contiguous
    x: Tensor,  # [N, P, H, W], padded already
    stride: int,
) -> Tensor:  # float64 [P, P, 3, 3]
    height, width = ((side - 1) * stride + 1 for side in grad.shape[2:])
    taps = [
        product_sums(grad, x[:, :, i : i + height : stride, j : j + width : stride].contiguous())
        for i in range(3)
        for j in range(3)
    ]
    return torch.stack(taps, -1).view(*taps[0].shape, 3, 3)


def _turned(weight: Tensor) -> Tensor:
    """The filters of the way back: turned round, from results to what they read."""
    return weight.flip(2, 3).transpose(0, 1).contiguous()


def _unpool(grad: Tensor, maps: Maps) -> Tensor:
    out = torch.empty(maps.strided, dtype=grad.dtype, device=grad.device)
    with device_of(grad):
        for first, count in launches(up(out.numel(), UNPOOL), MOST_PROGRAMS):
            triton_backward.unpool[(count,)](
                grad,
                maps.indices,
                out,
                out.numel(),
                *out.shape[2:],
                *grad.shape[2:],
                first,
                WIDE=wide(out),
                SIZE=UNPOOL,
                **options(4),
            )
    return out


def _call(grad: Tensor, x: Tensor, given: dict[str, Tensor], maps: Maps) -> tuple[Any, ...]:
    """What both kernels are given before what they write."""
    norm = given["norm_weight"], given["norm_bias"]
    return (x, *norm, maps.entered, maps.coarse, *(given[name] for name in BOTH), grad)


def _sizes(x: Tensor, given: dict[str, Tensor], maps: Maps) -> tuple[int, ...]:
    gate = len(given["entry_bias"])
    sides = (*x.shape[2:], *maps.coarse.shape[2:])
    return (x.shape[1], len(given["bias_c"]), gate, *sides, *strides_of(x, x.shape[1]), *strides_of(x, gate))


def _constants(x: Tensor, given: dict[str, Tensor], eps: float) -> dict[str, Any]:
    gate = len(given["entry_bias"])
    return {
        "EPS": eps,
        "SUM": accumulator(x.dtype),
        "FACTOR": factor(x.dtype),
        "WIDE": wide(x, gate),
        "GATE": padded(gate),
    }


def _pictures(grad: Tensor, x: Tensor, given: dict[str, Tensor], eps: float, maps: Maps) -> tuple[Tensor, Tensor]:
    n, channels, height, width = x.shape
    kind: dict[str, Any] = {"dtype": torch.promote_types(x.dtype, torch.float32), "device": x.device}
    grad_n, grad_m = (
        torch.empty((n, some, height, width), memory_format=layout_of(x), **kind)
        for some in (channels, len(given["entry_bias"]))
    )
    held = min(padded(channels), 64)
    pixels, warps = (64, 4) if x.element_size() == 2 else (32, 8)  # tensor cores take fewer registers
    pixel_blocks, channel_blocks = up(height * width, pixels), up(channels, held)
    with device_of(x):
        for first, count in launches(n * pixel_blocks * channel_blocks, MOST_PROGRAMS):
            triton_backward.pictures[(count,)](
                *_call(grad, x, given, maps),
                grad_n,
                grad_m,
                *_sizes(x, given, maps),
                pixel_blocks,
                channel_blocks,
                first,
                CHANNELS=held,
                PIXELS=pixels,
                **PICTURES,
                **_constants(x, given, eps),
                **options(warps),
            )
    return grad_n, grad_m


def _weight_sums(grad: Tensor, x: Tensor, given: dict[str, Tensor], eps: float, maps: Maps) -> dict[str, Tensor]:
    channels, expanded, gate = x.shape[1], len(given["bias_c"]), len(given["entry_bias"])
    held, across = min(padded(channels), 64), 4 * channels + gate + 4
    row_blocks, channel_blocks = up(expanded, SUMS["EXPANDED"]), up(channels, held)
    steps, stretches = stretched(x, SUMS["PIXELS"], expanded * across, row_blocks * channel_blocks)
    kind = torch.promote_types(x.dtype, torch.float32)
    parts = torch.empty((1, x.shape[0] * stretches, expanded, across), dtype=kind, device=x.device)
    total = torch.empty((expanded, across), dtype=torch.float64, device=x.device)
    with device_of(x):
        for first, count in launches(x.shape[0] * stretches * row_blocks * channel_blocks, MOST_PROGRAMS):
            triton_backward.sums[(count,)](
                *_call(grad, x, given, maps),
                parts,
                *_sizes(x, given, maps),
                row_blocks,
                channel_blocks,
                steps,
                stretches,
                first,
                CHANNELS=held,
                **SUMS,
                **_constants(x, given, eps),
                **options(4),
            )
        add_up([parts], [total])
    by_a, by_b, by_c, by_out, by_exit, biases = torch.split(total, [*[channels] * 4, gate, 4], 1)
    found = {"weight_a": by_a, "weight_b": by_b, "weight_c": by_c, "out_weight": by_out.mT, "exit_weight": by_exit}
    return found | dict(zip(("bias_a", "bias_b", "bias_c", "exit_bias"), biases.unbind(1), strict=True))
