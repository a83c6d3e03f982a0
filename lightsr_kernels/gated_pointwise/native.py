"""gated_pointwise on the compiled kernels of csrc/gated_pointwise.

Two passes over the pixels, and between them one that makes the coarse map of the gate; the gradients likewise, the
other way round. Tensors of E channels are never made: the way back computes them again, a block of pixels at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..functional import dense, dense_as, empty_gradient, empty_result, layout_of
from ..memory import empty
from ..native import raw_operator
from .samples import NAMES

_CALL = "Tensor x, Tensor[] weights, float eps"
_entry = raw_operator(f"gated_pointwise_entry({_CALL}, Tensor weight, Tensor bias, Tensor(a!) entered) -> ()")
_coarse = raw_operator(f"gated_pointwise_coarse({_CALL}, Tensor entered, Tensor(a!) coarse) -> ()")
_exit = raw_operator(f"gated_pointwise_exit({_CALL}, Tensor entered, Tensor coarse, Tensor(a!) out) -> ()")
_inner = raw_operator(
    f"gated_pointwise_inner({_CALL}, Tensor entered, Tensor coarse, Tensor grad, Tensor(a!) grad_normal, "
    "Tensor(b!) grad_middle, Tensor(c!) grad_entered, Tensor(d!)? sums) -> ()"
)
_coarse_gradients = raw_operator(
    f"gated_pointwise_coarse_gradients({_CALL}, Tensor entered, Tensor grad_middle, Tensor(a!) grad_entered, "
    "Tensor(b!)? sums) -> ()"
)
_outer = raw_operator(
    f"gated_pointwise_outer({_CALL}, Tensor weight, Tensor grad_normal, Tensor grad_entered, Tensor(a!) grad_x, "
    "Tensor(b!)? sums) -> ()"
)
_LANES = 16  # the gate's maps have a multiple of so many channels, the last ones zero


def forward(x: Tensor, *others: Any) -> Tensor:
    """Arguments and result as the reference's."""
    return forward_keeping(x, *others)[0]


def forward_keeping(x: Tensor, *others: Any) -> tuple[Tensor, list[Tensor]]:
    """The result, and the two small maps of the gate."""
    *weights, eps = others
    call = (dense(x), [each.contiguous() for each in weights], eps)
    out = empty_result(call[0], x.shape[1])
    if x.numel() == 0:
        return out, []
    entered, coarse = _gate(call)
    _exit(*call, entered, coarse, out)
    return out, [entered, coarse]


def backward(
    grads: list[Tensor],  # of the one result, [N, C, H, W]
    wanted: list[bool],  # one flag for each tensor: x and those of NAMES
    x: Tensor,
    *others: Any,
    kept: list[Tensor] | None = None,  # what forward_keeping kept
) -> list[Tensor]:
    *weights, eps = others
    call = (dense(x), [each.contiguous() for each in weights], eps)
    entered, coarse = kept or _gate(call)
    grad_x, wide = empty_gradient(call[0]), entered.dtype
    grad_normal = grad_x if x.dtype == wide else empty(x.shape, wide, x.device, layout_of(grad_x))
    grad_middle, grad_entered = _map(entered.shape, weights, wide), _map(entered.shape, weights, wide)
    counts = [each.numel() for each in weights]
    sums = torch.empty(sum(counts), dtype=torch.float64) if any(wanted[1:]) else None
    _inner(*call, entered, coarse, dense_as(grads[0], call[0]), grad_normal, grad_middle, grad_entered, sums)
    _coarse_gradients(*call, entered, grad_middle, grad_entered, sums)
    _outer(*call, _joined(call[1])[0], grad_normal, grad_entered, grad_x, sums)
    found = [dense_as(grad_x, x)] if wanted[0] else []
    if sums is not None:
        parts = zip(weights, torch.split(sums, counts), wanted[1:], strict=True)
        found += [empty_gradient(each).copy_(part.view(each.shape)) for each, part, want in parts if want]
    return found


def _gate(call: tuple[Tensor, list[Tensor], float]) -> tuple[Tensor, Tensor]:  # [N, H, W, P], [N, h, w, P]
    """The gate's first map, and the coarse one made of it, with P rounded up."""
    x, weights, _ = call
    n, _, h, w = x.shape
    wide = torch.promote_types(x.dtype, torch.float32)
    lanes = -(-len(weights[NAMES.index("entry_bias")]) // _LANES) * _LANES
    entered = _map((n, h, w, lanes), weights, wide)
    _entry(*call, *_joined(weights), entered)
    height, width = (((side - 3) // 2 + 1 - 7) // 3 + 1 for side in (h, w))
    coarse = torch.empty((n, height, width, lanes), dtype=wide)
    _coarse(*call, entered, coarse)
    return entered, coarse


def _map(shape: Sequence[int], weights: list[Tensor], dtype: torch.dtype) -> Tensor:
    """Memory for a map of the gate's channels, those beyond the last one zero."""
    bias = weights[NAMES.index("entry_bias")]
    found = empty(shape, dtype, bias.device)
    return found if shape[3] == len(bias) else found.zero_()


def _joined(weights: list[Tensor]) -> tuple[Tensor, Tensor]:  # [P, C], [P]
    """The gated path's 1x1 convolution followed by the gate's entry, as one 1x1 convolution."""
    names = ("weight_c", "bias_c", "entry_weight", "entry_bias")
    weight, bias, entry_weight, entry_bias = (weights[NAMES.index(name)] for name in names)
    entry = entry_weight.flatten(1).double()  # so that the number of threads changes no bit of the rounded result
    joined, joined_bias = entry @ weight.flatten(1).double(), entry @ bias.double() + entry_bias
    return joined.to(weight.dtype), joined_bias.to(weight.dtype)
