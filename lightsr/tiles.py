"""Runs a network on a picture whole or in overlapping tiles, with as much memory as there is.

A tile is run with `net.radius` pixels of the picture around it and the result's own part is kept. For a network whose
output pixels see no further (`exact_tiles`) that is the result of the whole picture, bit for bit on the CPU. The others
pool over the whole picture, so that tiles are approximate, and at most 64 pixels around are taken.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lightsr_kernels import release_memory

from .captured import Repeated
from .errors import InputError
from .memory import bytes_per_pixel, is_out_of_memory, usable_memory
from .networks import SRNetwork

SMALLEST = 16  # a tile's side below which halving on would only lengthen the agony
# torch takes another CPU convolution for tensors of up to 20480 numbers, with other last bits; three channels of more
# pixels than this are above.
SMALLEST_PATCH = 8192  # pixels
# 468 channels, the widest tensor of the four networks, stay below 2^31 numbers, where 32-bit places in kernels end.
LARGEST_PATCH = 1 << 22  # pixels
# Where pooling makes tiles approximate anyway, more overlap than this costs much (IDSA-Net sees 399 pixels far) and
# does not make them exact.
APPROXIMATE_OVERLAP = 64
Progress = Callable[[float], object]  # told which further share of the picture is done


@dataclass
class PatchLimit:
    """The most pixels that memory held so far; one for all pictures of a folder, so that none tries too much again."""

    pixels: int = LARGEST_PATCH
    tiled: bool = False  # whether any picture was not run whole
    repeated: Repeated | None = None  # captures the network for pictures, or tiles, of one size

    @property
    def held(self) -> int:
        """Bytes that a capture takes, which are free for other sizes."""
        return 0 if self.repeated is None else self.repeated.held


@dataclass(frozen=True)
class Tile:
    """A rectangle of the picture in input pixels, end exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def pixels(self) -> int:
        """Its area."""
        return (self.bottom - self.top) * (self.right - self.left)

    def split(self, side: int) -> Iterator[Tile]:
        """Cuts it into tiles of at most this side."""
        for top in range(self.top, self.bottom, side):
            for left in range(self.left, self.right, side):
                yield Tile(top, left, min(top + side, self.bottom), min(left + side, self.right))

    def grown(self, by: int, multiple: int, height: int, width: int) -> Tile:
        """With `by` more pixels around it, origin and end at multiples, as far as the picture goes."""
        return Tile(
            max(0, (self.top - by) // multiple * multiple),
            max(0, (self.left - by) // multiple * multiple),
            min(height, _rounded_up(self.bottom + by, multiple)),
            min(width, _rounded_up(self.right + by, multiple)),
        )

    def filled(self, pixels: int, multiple: int, height: int, width: int) -> Tile:
        """Grown to at least so many pixels, about square, as far as the picture goes."""
        rows = min(height, math.isqrt(pixels) + 1)
        columns = min(width, -(-pixels // rows))
        rows = min(height, -(-pixels // columns))
        top = max(0, min(self.top, height - rows) // multiple * multiple)
        left = max(0, min(self.left, width - columns) // multiple * multiple)
        return Tile(
            top,
            left,
            min(height, _rounded_up(max(self.bottom, top + rows), multiple)),
            min(width, _rounded_up(max(self.right, left + columns), multiple)),
        )


def run_tiled(
    net: SRNetwork,
    x: Tensor,  # [N, 3, H, W]
    tile: str | int = "auto",
    progress: Progress | None = None,
    limit: PatchLimit | None = None,
) -> Tensor:  # [N, 3, scale*H, scale*W], on x's device
    """Enlarges a picture, in tiles where it does not fit into memory whole.

    Args:
        net: the network, in eval mode; its device may be another than x's.
        x: float, 0..1.
        tile: "auto" (whole if it fits, else the largest tile that does), "off" (whole), or a tile's side in input
            pixels, to which the overlap is added.
        progress: called with each share of the picture that is done; the shares sum to 1.
        limit: remembers what fitted, from one picture to the next.

    Running out of memory halves the tile and goes on with what is left of the picture; an InputError says so when the
    smallest tile (16) does not fit, or when tile is "off". Deterministic on the CPU.

    Example:
        >>> import torch, lightsr
        >>> from lightsr.tiles import run_tiled
        >>> run_tiled(lightsr.create("bicubic", scale=2), torch.rand(1, 3, 50, 70), tile=32).shape
        torch.Size([1, 3, 100, 140])
    """
    check_tile(tile)
    limit = limit or PatchLimit()
    height, width = x.shape[-2:]
    device = _device_of(net, x)
    side = _first_side(net, height, width, tile, limit, device)
    pending = list(Tile(0, 0, height, width).split(side))[::-1]
    out = x.new_empty(x.shape[0], 3, height * net.scale, width * net.scale)
    while pending:
        each = pending[-1]
        patch = _patch(net, each, height, width)
        if _run(net, x, each, patch, out, device, limit.repeated):
            pending.pop()
            limit.tiled |= patch.pixels < height * width
            if progress:
                progress(each.pixels / (height * width))
            continue
        if tile == "off":
            raise InputError(f"a {width}x{height} picture does not fit into memory whole; let it be cut (tile auto)")
        if side <= SMALLEST:
            raise InputError(
                f"out of memory on {device} even with tiles of {side} pixels; free some, or use another device"
            )
        side = max(SMALLEST, _rounded_up(min(side, max(height, width)) // 2, net.multiple))
        limit.pixels = min(limit.pixels, patch.pixels - 1, (side + 2 * _overlap(net)) ** 2)
        pending = [part for rest in pending for part in reversed(list(rest.split(side)))]
    return out


def check_tile(tile: str | int) -> None:
    """Raises InputError unless it is "auto", "off" or a side from 1 up."""
    whole = isinstance(tile, int) and not isinstance(tile, bool) and tile >= 1
    if not whole and tile not in ("auto", "off"):
        raise InputError(f"tile must be auto, off or a whole number from 1 up; got {tile!r}")


def _first_side(
    net: SRNetwork, height: int, width: int, tile: str | int, limit: PatchLimit, device: torch.device
) -> int:
    """The tile's side to begin with; as large as the picture when it is to be run whole."""
    whole = max(height, width, 1)
    if tile == "off" or height * width <= SMALLEST_PATCH:
        return whole
    if isinstance(tile, int):
        return _rounded_up(tile, net.multiple)
    usable = usable_memory(device, limit.held)
    pixels = min(limit.pixels, usable // bytes_per_pixel(net.name))
    if height * width <= pixels:
        return whole
    # Of tiles, the whole result must be held beside them.
    canvas = 3 * 4 * net.scale**2 * height * width if device.type == "cpu" else 0
    pixels = min(limit.pixels, max(0, usable - canvas) // bytes_per_pixel(net.name))
    side = math.isqrt(pixels) - 2 * _overlap(net)
    return min(whole, max(SMALLEST, side // net.multiple * net.multiple))


def _run(
    net: SRNetwork, x: Tensor, part: Tile, patch: Tile, out: Tensor, device: torch.device, repeated: Repeated | None
) -> bool:
    """Runs one patch and puts the part's own pixels into `out`; False when memory ran out, and is free again."""
    scale = net.scale
    try:
        with torch.no_grad():
            piece = x[..., patch.top : patch.bottom, patch.left : patch.right].to(device)
            # With channels last, torch's CPU convolutions add up in one order whatever the width of the picture.
            piece = piece.contiguous(memory_format=torch.channels_last)
            result = net(piece) if repeated is None else repeated(net, piece)
            rows = slice((part.top - patch.top) * scale, (part.bottom - patch.top) * scale)
            columns = slice((part.left - patch.left) * scale, (part.right - patch.left) * scale)
            out[..., part.top * scale : part.bottom * scale, part.left * scale : part.right * scale] = result[
                ..., rows, columns
            ]
        return True
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside the handler, where the exception and the tensors its frames hold are gone.
    if repeated is not None:
        repeated.forget()
    gc.collect()
    release_memory()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return False


def _patch(net: SRNetwork, part: Tile, height: int, width: int) -> Tile:
    """What the network is run on for a part of the picture."""
    if part.pixels == height * width:
        return part
    patch = part.grown(_radius(net), net.multiple, height, width)
    return patch if patch.pixels >= SMALLEST_PATCH else patch.filled(SMALLEST_PATCH, net.multiple, height, width)


def _overlap(net: SRNetwork) -> int:
    """The most a tile grows on one side."""
    return _radius(net) + net.multiple - 1


def _radius(net: SRNetwork) -> int:
    return net.radius if net.exact_tiles else min(net.radius, APPROXIMATE_OVERLAP)


def _device_of(net: SRNetwork, x: Tensor) -> torch.device:
    return next((each.device for each in net.parameters()), x.device)


def _rounded_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
