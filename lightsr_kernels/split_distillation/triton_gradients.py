"""Launches the kernels of split_distillation's gradients: one pass, or several where the channels are too many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..depthwise_conv.backward import activation_gradient
from ..distillation_fusion import triton as fusion
from ..functional import activate
from ..triton_common import MOST_PROGRAMS, accumulator, device_of, factor, launches, options, up
from . import triton_backward
from .backward import Call
from .triton_tiles import add_up, far, stretched, strides_of, written


@dataclass(frozen=True)
class Config:
    """A tile: pixels by all channels, multiplied `rows` results or `depth` channels at a time.

    The matrices that are multiplied have at most `numbers` numbers together.
    """

    pixels: int
    rows: int
    depth: int
    numbers: int
    warps: int


CONFIGS = (
    Config(pixels=32, rows=128, depth=32, numbers=1024, warps=4),
    Config(pixels=32, rows=128, depth=32, numbers=4096, warps=8),
    Config(pixels=16, rows=128, depth=32, numbers=8192, warps=8),
    Config(pixels=16, rows=64, depth=32, numbers=16384, warps=8),
)
PLAIN_CONFIGS = (  # for types that tensor cores do not multiply
    Config(pixels=32, rows=16, depth=16, numbers=1024, warps=4),
    Config(pixels=16, rows=16, depth=16, numbers=4096, warps=8),
)
REST = 16  # channels of a tile of those that remain


def choose(call: Call) -> Config | None:
    """The tile that holds the matrices of this call; None where there is none."""
    given = CONFIGS if call.x.element_size() == 2 else PLAIN_CONFIGS
    return next((each for each in given if holds(each, call)), None)


def holds(config: Config, call: Call) -> bool:
    both = call.weight is not None and call.gate_weight is not None
    return _numbers(call) <= config.numbers and not (both and padded(call.distilled) > config.rows)


def _numbers(call: Call) -> int:
    channels, distilled = padded(call.split), padded(call.distilled)
    return distilled * (channels * (call.weight is not None) + distilled * (call.gate_weight is not None))


def padded(channels: int) -> int:
    """The least number of channels of a tile that holds so many."""
    return max(16, 1 << (channels - 1).bit_length())


def gradients(
    call: Call,
    grad: Tensor,  # of distilled
    grad_remaining: Tensor | None,
    found: dict[str, Tensor],
    config: Config | None = None,
) -> None:
    """Fills the gradients in `found`."""
    config = config or choose(call)
    if config is None:
        _several_passes(call, grad, grad_remaining, found)
    elif call.x.numel() == 0:
        for each in found.values():
            each.zero_()
    else:
        _one_pass(call, grad, grad_remaining, found, config)


def _one_pass(
    call: Call, grad: Tensor, grad_remaining: Tensor | None, found: dict[str, Tensor], config: Config
) -> None:
    x = call.x
    n, c, h, w = x.shape
    split, distilled, pixels = call.split, call.distilled, h * w
    shapes = {
        "bias": (c,),
        "weight": (distilled, split),
        "weight_bias": (distilled,),
        "gate_weight": (distilled, distilled),
        "gate_bias": (distilled,),
    }
    steps, stretches = stretched(x, config.pixels, sum(each.numel() for name, each in found.items() if name in shapes))
    kind: dict[str, Any] = {"dtype": torch.float64 if x.dtype == torch.float64 else torch.float32, "device": x.device}
    sums = {name: torch.empty((1, n * stretches, *shapes[name]), **kind) for name in shapes if name in found}
    results = {name: written(each) for name, each in found.items()}
    pictures = [results.get(name) for name in ("x", "residual")]
    picture = (
        x,
        strides_of(x, call.layout),
        call.bias,
        call.residual,
        strides_of(call.residual, call.layout),
    )
    wanted = [item for each in pictures for item in (each, strides_of(each, call.layout))]
    constants = {
        "ACTIVATION": call.activation,
        "SLOPE": call.negative_slope if "leaky_relu" in (call.activation, call.distilled_activation) else 0.0,
        "SUM": accumulator(x.dtype),
        "WIDE": far(x, call.residual, grad, grad_remaining, *pictures),
        "PIXELS": config.pixels,
        **options(config.warps),
    }
    with device_of(x):
        for first, count in launches(n * stretches, MOST_PROGRAMS):
            triton_backward.of_distilled[(count,)](
                grad,
                strides_of(grad, call.layout),
                grad_remaining if call.whole else None,
                strides_of(grad_remaining, call.layout) if call.whole else None,
                *picture,
                call.weight,
                call.weight_bias,
                call.gate_weight,
                call.gate_bias,
                *wanted,
                *(sums.get(name) for name in shapes),
                c,
                split,
                distilled,
                pixels,
                steps,
                stretches,
                first,
                DISTILLED_ACTIVATION=call.distilled_activation,
                FACTOR=factor(x.dtype),
                CHANNELS=padded(split),
                DISTILLED=padded(distilled),
                ROWS=min(config.rows, padded(distilled)),
                DEPTH=min(config.depth, padded(split)),
                **constants,
            )
        if split < c and found.keys() & {"x", "residual", "bias"}:
            blocks = up(c - split, REST)
            for first, count in launches(n * stretches * blocks, MOST_PROGRAMS):
                triton_backward.of_rest[(count,)](
                    grad_remaining,
                    strides_of(grad_remaining, call.layout),
                    *picture,
                    *wanted,
                    sums.get("bias"),
                    c,
                    split,
                    pixels,
                    steps,
                    stretches,
                    blocks,
                    first,
                    CHANNELS=REST,
                    **constants,
                )
        add_up(list(sums.values()), [results[name] for name in sums])
    for name, each in results.items():
        if each is not found[name]:
            found[name].copy_(each)


def _several_passes(call: Call, grad: Tensor, grad_remaining: Tensor | None, found: dict[str, Tensor]) -> None:
    """The same, a product at a time by the kernels of distillation_fusion, and what lies between them in memory."""
    u = call.x if call.bias is None else call.x + call.bias.view(1, -1, 1, 1)
    u = u if call.residual is None else u + call.residual
    h = activate(u, call.activation, call.negative_slope)
    z = h if call.whole else h[:, : call.split]
    d = z
    if call.weight is not None:
        z = fusion.forward([d], call.weight, call.weight_bias, None, [], None, None, None)
        d = activate(z, call.distilled_activation, call.negative_slope)
    if call.gate_weight is not None:
        gate = fusion.forward([d], call.gate_weight, call.gate_bias, None, [], None, None, None).sigmoid_()
        grad_s = grad * d * gate * (1 - gate)
        grad = grad * gate + _product_gradients(grad_s, d, call.gate_weight, call.gate_bias, "gate", found)
    if call.weight is not None:
        before = h if call.whole else h[:, : call.split]
        if call.distilled_activation != "none":
            grad = activation_gradient(grad, z, call.distilled_activation, call.negative_slope)
        grad = _product_gradients(grad, before, call.weight, call.weight_bias, "weight", found)
    if call.whole:
        grad = grad if grad_remaining is None else grad + grad_remaining
    else:
        rest = torch.zeros_like(h[:, call.split :]) if grad_remaining is None else grad_remaining
        grad = torch.cat([grad, rest], 1)
    if call.activation != "none":
        grad = activation_gradient(grad, u, call.activation, call.negative_slope)
    for name in found.keys() & {"x", "residual"}:
        found[name].copy_(grad)
    if "bias" in found:
        found["bias"].copy_(grad.sum((0, 2, 3), dtype=torch.promote_types(grad.dtype, torch.float32)))


def _product_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, name: str, found: dict[str, Tensor]
) -> Tensor:
    """The gradient of what a 1x1 convolution reads; those of its filter and bias go into `found`."""
    names = ("gate_weight", "gate_bias") if name == "gate" else ("weight", "weight_bias")
    wanted = [each for each, value in zip(names, (weight, bias), strict=True) if value is not None]
    flags = [True, *(each in found for each in wanted)]
    grad_x, *others = fusion.backward([grad], flags, [x], weight, bias, None, [], None, None, None)
    for each, value in zip([each for each in wanted if each in found], others, strict=True):
        found[each].copy_(value)
    return grad_x
