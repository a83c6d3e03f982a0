"""multi_attention on the compiled kernels of csrc/multi_attention, on the CPU."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..depthwise_conv.native import convolve, weight_gradients
from ..memory import empty
from ..native import raw_operator
from . import backward as shared
from .arguments import Call, Found, call_of
from .reference import reference

# What forward makes, and backward reads, comes last: pooled is None where nobody wants it.
_ARGUMENTS = (
    "Tensor[] parts, Tensor[] pixel_weights, Tensor[] pixel_biases, Tensor[] spatial_weights, Tensor[] down_weights, "
    "Tensor[] down_biases, Tensor[] up_weights, Tensor[] up_biases, Tensor? out_weight, Tensor? out_bias, "
    "Tensor? residual, bool channels_last, Tensor(a!)? pooled, Tensor(b!) gates, Tensor(c!) means, Tensor(d!) scales"
)
_forward = raw_operator(f"multi_attention_forward({_ARGUMENTS}, Tensor(e!)? out) -> ()")
_products = raw_operator(
    f"multi_attention_products({_ARGUMENTS}, Tensor grad, Tensor(e!) products, Tensor(f!)? sums) -> ()"
)
_logits = raw_operator(
    f"multi_attention_logits({_ARGUMENTS}, Tensor grad, Tensor constants, Tensor(e!) grad_logits, "
    "Tensor(f!) shares) -> ()"
)
_pixels = raw_operator(  # the lists hold None where a gradient is not wanted
    f"multi_attention_pixels({_ARGUMENTS}, Tensor grad, Tensor constants, Tensor shares, Tensor grad_pooled, "
    "Tensor?[] grad_parts, Tensor?[] grad_pixel_weights, Tensor?[] grad_pixel_biases) -> ()"
)


def forward(*args: Any) -> Tensor:  # [N, C_out or sum of C_k, H, W]
    return _run(call_of(*args), False)[0]


def forward_keeping(*args: Any) -> tuple[Tensor, list[Tensor]]:
    """The result, and what spares `backward` a pass: pooled maps, gates, means and scales, where there are any."""
    out, found = _run(call_of(*args), True)
    return out, [] if found is None or found.pooled is None else [found.pooled, found.gates, found.means, found.scales]


def _run(call: Call, keep: bool) -> tuple[Tensor, Found | None]:
    n, _, h, w = call.parts[0].shape
    out = empty((n, call.out_channels, h, w), call.parts[0].dtype, call.parts[0].device, call.layout)
    if out.numel() == 0:
        return out, None
    if min(call.channels) == 0:
        return reference(*call.raw()[:-1]), None  # which says what is wrong with that
    found = call.to_find(keep)
    _forward(*call.raw(), *found.raw(), out)
    return out, found


class _Passes:
    """The passes of `shared.backward`."""

    convolve = staticmethod(convolve)
    weight_gradients = staticmethod(weight_gradients)

    @staticmethod
    def maps(call: Call) -> Found:
        found = call.to_find(True)
        _forward(*call.raw(), *found.raw(), None)
        return found

    @staticmethod
    def products(call: Call, found: Found, grad: Tensor, products: Tensor, sums: Tensor | None) -> None:
        _products(*call.raw(), *found.raw(), grad, products, sums)

    @staticmethod
    def logits(call: Call, found: Found, grad: Tensor, constants: Tensor, grad_logits: Tensor, shares: Tensor) -> None:
        _logits(*call.raw(), *found.raw(), grad, constants, grad_logits, shares)

    @staticmethod
    def pixels(
        call: Call,
        found: Found,
        grad: Tensor,
        constants: Tensor,
        shares: Tensor,
        grad_pooled: Tensor,
        grad_parts: list[Tensor | None],
        grad_pixel_weights: list[Tensor | None],
        grad_pixel_biases: list[Tensor | None],
    ) -> None:
        places = grad_parts, grad_pixel_weights, grad_pixel_biases
        _pixels(*call.raw(), *found.raw(), grad, constants, shares, grad_pooled, *places)


def backward(grads: list[Tensor], wanted: list[bool], *args: Any, kept: list[Tensor] | None = None) -> list[Tensor]:
    return shared.backward(_Passes(), grads, wanted, args, kept)
