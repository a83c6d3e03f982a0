"""Bicubic resizing as MATLAB's `imresize` does it: what super-resolution papers make their small pictures with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .errors import InputError


def imresize(
    x: Tensor,  # [..., H, W]
    scale: float,
) -> Tensor:  # [..., ceil(H*scale), ceil(W*scale)]
    """Resizes pictures by MATLAB's bicubic rule.

    The cubic has a = -0.5 and is widened by 1/scale when shrinking, so that it also smooths; the border is mirrored
    with its edge pixel repeated; rows are made first, then columns. A uint8 picture is worked on in float64, rounded
    (half up) and clipped to 0..255 after each of the two passes, as MATLAB does: this gives the very bytes of the
    published low-resolution test sets. Without the rounding between the passes, a tenth of the pixels differ.

    Args:
        x: [..., H, W], uint8 or floating point, H and W at least 1; any number of dimensions before them.
        scale: output side over input side, above 0: 1/4 shrinks four times, 4 enlarges four times.

    Returns:
        [..., ceil(H*scale), ceil(W*scale)], dtype and device of x. Floats are neither rounded nor clipped, so a picture
        in 0..1 can leave that range a little; float16 and bfloat16 are worked on in float32.

    Gradients: of a floating-point x, any number of times. Deterministic on the CPU; the gradient on CUDA adds in no
    fixed order unless torch.use_deterministic_algorithms is on. Raises InputError for other dtypes, sizes and scales.

    Source: MATLAB's documentation of imresize; R. Keys, Cubic convolution interpolation for digital image processing,
    IEEE TASSP 29(6), 1981.

    Example:
        >>> import torch
        >>> imresize(torch.full((3, 10, 9), 7, dtype=torch.uint8), 1 / 4).shape
        torch.Size([3, 3, 3])
    """
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise InputError(f"imresize: the picture must be uint8 or floating point; got {x.dtype}")
    if x.dim() < 2 or 0 in x.shape[-2:]:
        raise InputError(f"imresize: the picture must be [..., H, W] with H and W from 1 up; got {list(x.shape)}")
    if not 0 < scale < math.inf:
        raise InputError(f"imresize: scale must be a number above 0, such as 1/4 or 4; got {scale}")
    wide = x if x.dtype == torch.uint8 else x.to(torch.promote_types(x.dtype, torch.float32))
    return _resize_rows(_resize_rows(wide, scale).mT, scale).mT.contiguous().to(x.dtype)


def _resize_rows(x: Tensor, scale: float) -> Tensor:  # [..., H, W] -> [..., H', W]
    weights, taps = _taps(x.shape[-2], scale)
    weights = weights.to(x.device, torch.float64 if x.dtype == torch.uint8 else x.dtype)
    taps = taps.to(x.device)
    # A sum of gathered rows: one tap at a time, so that memory stays at twice the result whatever the kernel's width.
    out = weights[0] * x.index_select(-2, taps[0])
    for k in range(1, len(taps)):
        out = out.add_(weights[k] * x.index_select(-2, taps[k]))
    return _to_uint8(out) if x.dtype == torch.uint8 else out


def _taps(side: int, scale: float) -> tuple[Tensor, Tensor]:  # weights [K, side', 1] float64, rows [K, side'] int64
    """Which K input rows make up each output row, and by what weights; the weights of an output row sum to 1."""
    # The guard keeps a factor such as 1/3, which float64 holds inexactly, from making one row too many.
    out_side = side * scale if isinstance(scale, int) else max(math.ceil(side * scale - 1e-9), 1)
    widening = max(1 / scale, 1.0)
    width = 4 * widening
    centre = (torch.arange(out_side, dtype=torch.float64) + 0.5) / scale - 0.5
    first = torch.floor(centre - width / 2) + 1
    rows = first + torch.arange(math.ceil(width), dtype=torch.float64)[:, None]
    weights = _cubic((rows - centre) / widening)
    rows = rows.long() % (2 * side)  # the mirrored picture repeats every 2*side rows: 0 .. side-1, side-1 .. 0
    return (weights / weights.sum(0))[..., None], torch.minimum(rows, 2 * side - 1 - rows)


def _cubic(t: Tensor) -> Tensor:
    """Keys' cubic with a = -0.5: 1 at 0, 0 at 1 and from 2 on."""
    t = t.abs()
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return torch.where(t <= 1, near, torch.where(t <= 2, far, 0.0))


def _to_uint8(x: Tensor) -> Tensor:
    return (x + 0.5).floor_().clamp_(0, 255).to(torch.uint8)
