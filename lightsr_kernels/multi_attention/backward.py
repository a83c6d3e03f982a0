"""The gradients of multi_attention out of three passes over the pixels, which a backend has kernels for.

Between the passes stands what there is little of: the channel attention's gradients, float64 from sums over pixels, and
the spatial attention's, depthwise convolutions of maps.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional import empty_gradient
from ..split_distillation.backward import as_argument, dense_in, gradient_memory
from .arguments import Call, Found, call_of

_LISTS = ("part", "pixel_weight", "pixel_bias", "spatial_weight", "down_weight", "down_bias", "up_weight", "up_bias")
_ENDS = ("out_weight", "out_bias", "residual")


class Passes(Protocol):
    """The passes of a backend; they write into what they are given last. Constants stand as `Found.means` do, wide."""

    def maps(self, call: Call) -> Found:
        """What forward finds, once more."""

    def products(
        self,
        call: Call,
        found: Found,
        grad: Tensor,  # dense, in the layout of the call
        products: Tensor,  # float64 [N, C_out, sum of C_k]: sums over pixels of grad times the attended parts
        sums: Tensor | None,  # float64 [N, C_out]: of grad
    ) -> None:
        """Without out_weight products are [N, sum of C_k]: of grad times the same channel."""

    def logits(
        self,
        call: Call,
        found: Found,
        grad: Tensor,
        constants: Tensor,  # the gradient of a mean over the number of pixels
        grad_logits: Tensor,  # wide [N, parts, H, W]: of what the gates are the sigmoid of
        shares: Tensor,  # wide [N, parts, H, W]: 1 / (channels that are the maximum)
    ) -> None: ...

    def pixels(
        self,
        call: Call,
        found: Found,
        grad: Tensor,
        constants: Tensor,
        shares: Tensor,
        grad_pooled: Tensor,  # wide [N, 2 parts, H, W]
        grad_parts: list[Tensor | None],  # dense in the layout of the call; None: not wanted
        grad_pixel_weights: list[Tensor | None],  # float64
        grad_pixel_biases: list[Tensor | None],  # float64
    ) -> None: ...

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, dilation: list[int], flip: bool) -> Tensor:
        """depthwise_conv's."""

    def weight_gradients(
        self, grad: Tensor, x: Tensor, size: tuple[int, int], dilation: list[int], bias: bool
    ) -> tuple[Tensor, Tensor | None]:
        """depthwise_conv's."""


def backward(
    passes: Passes,
    grads: list[Tensor],  # of the one result, [N, C_out or sum of C_k, H, W]; it has at least one number
    wanted: list[bool],  # one flag for each tensor given, in order
    args: tuple[Any, ...],
    kept: list[Tensor] | None = None,  # the tensors of Found, where forward has kept them
) -> list[Tensor]:
    given = _named(args)
    wants = {name for name, want in zip(given, wanted, strict=True) if want}
    call = call_of(*args)
    grad = dense_in(grads[0], call.layout)
    found = dict[str, Tensor]()
    if "residual" in wants:
        found["residual"] = empty_gradient(given["residual"]).copy_(grad)
    inner = wants - set(_ENDS)
    if inner or wants & {"out_weight", "out_bias"}:
        known = Found(*kept) if kept else passes.maps(call)
        products = _products(passes, call, known, grad, wants, found)
        if inner:
            constants = _planes(call, known, products, found)
            _pixels(passes, call, known, grad, constants, wants, given, found)
    return [_own(found[name], value) for name, value in given.items() if name in wants]


def _named(args: tuple[Any, ...]) -> dict[str, Tensor]:
    """The tensors of the call by name, those of lists with their number."""
    found = {f"{name} {k}": each for name, values in zip(_LISTS, args, strict=False) for k, each in enumerate(values)}
    ends = zip(_ENDS, args[len(_LISTS) :], strict=True)
    return found | {name: value for name, value in ends if value is not None}


def _own(value: Tensor, like: Tensor) -> Tensor:
    """`value` dense in the dtype and layout of its argument."""
    if value.dim() == 4 and value.dtype == like.dtype and value.shape == like.shape:
        return as_argument(value, like)
    return empty_gradient(like).copy_(value.reshape(like.shape))


def _products(
    passes: Passes, call: Call, known: Found, grad: Tensor, wants: set[str], found: dict[str, Tensor]
) -> Tensor:  # float64 [N, sum of C_k]: the gradients of the scales
    """Finds the gradients of out_weight and out_bias, too."""
    n, channels, outs = len(grad), sum(call.channels), call.out_channels
    wide: dict[str, Any] = {"dtype": torch.float64, "device": grad.device}
    if call.out_weight is None:
        products = torch.empty((n, channels), **wide)
        passes.products(call, known, grad, products, None)
        return products
    products = torch.empty((n, outs, channels), **wide)
    sums = torch.empty((n, outs), **wide) if "out_bias" in wants else None
    passes.products(call, known, grad, products, sums)
    scales = torch.cat(call.by_part(known.scales), 1)
    if "out_weight" in wants:
        found["out_weight"] = (products * scales.double()[:, None]).sum(0)
    if sums is not None:
        found["out_bias"] = sums.sum(0)
    return (products * call.out_weight.double().flatten(1)).sum(1)


def _planes(call: Call, known: Found, by_scale: Tensor, found: dict[str, Tensor]) -> Tensor:
    """Finds the gradients of the channel attention's parameters; gives those of a mean over the number of pixels."""
    constants, begin = torch.empty_like(known.means), 0
    for k, (mean, constant) in enumerate(zip(call.by_part(known.means), call.by_part(constants), strict=True)):
        down, up = call.down_weights[k].double().flatten(1), call.up_weights[k].double().flatten(1)
        hidden = torch.addmm(call.down_biases[k].double(), mean, down.T).relu_()
        scale = torch.addmm(call.up_biases[k].double(), hidden, up.T).sigmoid_()
        by_up = by_scale[:, begin : begin + len(up)] * scale * (1 - scale)
        by_down = torch.where(hidden <= 0, 0.0, by_up @ up)
        found[f"up_weight {k}"], found[f"up_bias {k}"] = by_up.T @ hidden, by_up.sum(0)
        found[f"down_weight {k}"], found[f"down_bias {k}"] = by_down.T @ mean, by_down.sum(0)
        torch.mm(by_down, down, out=constant)
        begin += len(up)
    _, _, h, w = call.parts[0].shape
    return (constants / (h * w)).to(call.wide)


def _pixels(
    passes: Passes,
    call: Call,
    known: Found,
    grad: Tensor,
    constants: Tensor,
    wants: set[str],
    given: dict[str, Tensor],
    found: dict[str, Tensor],
) -> None:
    """Finds the gradients of the spatial and the pixel attention, and of the parts."""
    count = range(len(call.parts))
    before = any(f"{name} {k}" in wants for name in _LISTS[:3] for k in count)
    if not before and not any(f"spatial_weight {k}" in wants for k in count):
        return
    grad_logits, shares = torch.empty_like(known.gates), torch.empty_like(known.gates)
    passes.logits(call, known, grad, constants, grad_logits, shares)
    grad_pooled = _spatial(passes, call, known, grad_logits, before, wants, found)
    if grad_pooled is None:
        return

    def place(name: str, k: int) -> Tensor | None:
        if f"{name} {k}" not in wants:
            return None
        value = given[f"{name} {k}"]
        if name == "part":
            found[f"part {k}"] = gradient_memory(value, call.layout)
        else:
            found[f"{name} {k}"] = torch.empty(value.shape, dtype=torch.float64, device=value.device)
        return found[f"{name} {k}"]

    places = [[place(name, k) for k in count] for name in _LISTS[:3]]
    passes.pixels(call, known, grad, constants, shares, grad_pooled, *places)


def _spatial(
    passes: Passes,
    call: Call,
    known: Found,
    grad_logits: Tensor,  # [N, parts, H, W]
    need_maps: bool,
    wants: set[str],
    found: dict[str, Tensor],
) -> Tensor | None:  # [N, 2 parts, H, W]
    """Finds the gradients of spatial_weights, and of the pooled maps where needed; as one depthwise convolution."""
    sides = [each.shape[-1] for each in call.spatial_weights]
    most, count = max(sides), len(sides)
    both = grad_logits.repeat_interleave(2, 1)
    if any(f"spatial_weight {k}" in wants for k in range(count)):
        assert known.pooled is not None
        all_weights = passes.weight_gradients(both, known.pooled, (most, most), [1, 1], False)[0]
        for k, side in enumerate(sides):
            rim = (most - side) // 2
            own = all_weights[2 * k : 2 * k + 2, 0]
            found[f"spatial_weight {k}"] = own[:, rim : most - rim, rim : most - rim]
    if not need_maps:
        return None
    filters = [F.pad(each, [(most - each.shape[-1]) // 2] * 4) for each in call.spatial_weights]
    weight = torch.cat(filters).to(call.wide).view(2 * count, 1, most, most)
    return passes.convolve(both, weight, None, [1, 1], True)
