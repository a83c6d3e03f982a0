"""Launches the kernel of distillation_fusion's gradients, and adds up the sums that it leaves in workspaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..split_distillation.triton_tiles import add_up, far, stretched, strides_of, written
from ..triton_common import MOST_PROGRAMS, accumulator, device_of, factor, launches, options, up
from . import triton_backward
from .backward import Call, Found


@dataclass(frozen=True)
class Config:
    """A tile: pixels by channels of a part and `out` channels of the result."""

    pixels: int
    channels: int
    out: int
    depth: int  # channels of the result that are multiplied at a time
    warps: int


CONFIGS = (
    Config(pixels=32, channels=16, out=16, depth=16, warps=4),
    Config(pixels=32, channels=16, out=64, depth=16, warps=4),
    Config(pixels=32, channels=32, out=64, depth=16, warps=4),
    Config(pixels=32, channels=64, out=64, depth=16, warps=4),
    Config(pixels=32, channels=32, out=128, depth=16, warps=8),
)
PLAIN_CONFIGS = tuple(replace(each, pixels=16) for each in CONFIGS)  # for types that tensor cores do not multiply


def choose(call: Call) -> Config:
    """The tile that holds the channels of the result, and no more of a part than the largest one has."""
    out, largest = len(call.weight), max(part.shape[1] for part in call.parts)
    given = CONFIGS if call.weight.element_size() == 2 else PLAIN_CONFIGS
    fitting = [each for each in given if each.out >= min(out, 128)]
    fitting = [each for each in fitting if each.out == fitting[0].out]
    return next((each for each in fitting if each.channels >= largest), fitting[-1])


def gradients(call: Call, grad: Tensor, found: Found, config: Config | None = None) -> None:
    """Fills the tensors of `found`."""
    config = config or choose(call)
    pictures = [each for each in (*found.parts, *found.maps, found.residual) if each is not None]
    totals = [each for each in (found.products, found.sums, found.residual_product) if each is not None]
    if grad.numel() == 0 or sum(part.shape[1] for part in call.parts) == 0:
        for each in (*pictures, *totals):
            each.zero_()
    else:
        _launch(call, grad, found, config)


def _launch(call: Call, grad: Tensor, found: Found, config: Config) -> None:
    x, joined, out = call.parts[0], call.weight.shape[1], len(call.weight)
    n, _, h, w = x.shape
    channels = [part.shape[1] for part in call.parts]
    blocks = [up(each, config.channels) for each in channels]
    totals = [found.products, found.sums, found.residual_product]
    out_blocks = up(out, config.out) if any(each is not None for each in (*totals, found.residual)) else 1
    programs = sum(blocks) * out_blocks
    steps, stretches = stretched(grad, config.pixels, out * joined, programs)

    kind: dict[str, Any] = {"dtype": torch.float64 if x.dtype == torch.float64 else torch.float32, "device": x.device}
    shapes = (out, joined), (out,), (out_blocks,)
    workspaces = [
        None if total is None else torch.empty((n * stretches, *shape), **kind)
        for total, shape in zip(totals, shapes, strict=True)
    ]
    grad_parts = [None if each is None else written(each) for each in found.parts]
    grad_residual = None if found.residual is None else written(found.residual)

    def map_of(each: Tensor, count: int) -> Tensor:
        """One for each block of channels, to be added up; the gradient itself where no part has two of them."""
        return written(each) if max(blocks) == 1 else torch.empty((count, *each.shape), **kind)

    counted = zip(found.maps, blocks[: len(found.maps)], strict=True)
    grad_maps = [None if each is None else map_of(each, count) for each, count in counted]
    with device_of(x):
        for first, count in launches(n * stretches * programs, MOST_PROGRAMS):
            triton_backward.of_parts[(count,)](
                grad,
                strides_of(grad, call.layout),
                tuple(call.parts),
                _strides(call.parts, call),
                tuple(channels),
                tuple(call.maps) or None,
                call.scale,
                call.weight,
                call.gain,
                call.residual,
                strides_of(call.residual, call.layout),
                call.residual_gain,
                *_targets(grad_parts, channels, call),
                *_targets(grad_maps, [h * w] * len(grad_maps), None),
                grad_residual,
                strides_of(grad_residual, call.layout),
                *workspaces,
                out,
                joined,
                n,
                h * w,
                sum(blocks),
                out_blocks,
                steps,
                stretches,
                first,
                SUM=accumulator(x.dtype),
                FACTOR=factor(x.dtype),
                WIDE=far(*call.parts, grad, call.residual, grad_residual, *grad_parts),
                PIXELS=config.pixels,
                CHANNELS=config.channels,
                OUT=config.out,
                DEPTH=config.depth,
                COUNT=len(channels),
                **options(config.warps),
            )
        _add_up(workspaces[:2], totals[:2])
        _add_up([None if each is None else each.view(-1, 1) for each in workspaces[2:]], totals[2:])
    added = [each if each is None or each.dim() == 4 else each.sum(0) for each in grad_maps]
    results = [*grad_parts, *added, grad_residual]
    for each, to in zip(results, (*found.parts, *found.maps, found.residual), strict=True):
        if to is not None and each is not None and each is not to:
            to.copy_(each)


def _add_up(workspaces: list[Tensor | None], totals: list[Tensor | None]) -> None:
    """Adds up what a kernel left: [N stretches, ...] to [N or 1, ...]."""
    pairs = [(one, to) for one, to in zip(workspaces, totals, strict=True) if one is not None and to is not None]
    add_up([one.view(len(to), -1, *one.shape[1:]) for one, to in pairs], [to for _, to in pairs])


def _strides(pictures: list[Tensor], call: Call) -> tuple[tuple[int, ...], ...]:
    """Those from picture to picture, from channel to channel, from pixel to pixel."""
    return tuple(zip(*(strides_of(each, call.layout) or () for each in pictures), strict=True))


def _targets(grads: Sequence[Tensor | None], sizes: list[int], call: Call | None) -> list[Any]:
    """Where a kernel writes gradients of parts or maps: pictures, their strides, and sizes, 0 where not wanted."""
    given = [each for each in grads if each is not None]
    if not given:
        return [None] * (2 if call is None else 3)
    pictures = [given[0] if each is None else each for each in grads]
    wanted = tuple(0 if each is None else size for each, size in zip(grads, sizes, strict=True))
    return [tuple(pictures), wanted] if call is None else [tuple(pictures), _strides(pictures, call), wanted]
