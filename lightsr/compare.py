"""Picks the region of a picture where results differ most, and cuts it out of every one of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .evaluation import Comparison
from .metrics import luma
from .resize import imresize

SHOWN = 3  # pictures a data set
SIDE = 96  # of a region, in high-resolution pixels
THUMBNAIL = 384  # longer side in pixels, at most


def compare(
    dataset: str,
    picture: str,
    hr: Tensor,  # [3, H, W] uint8
    bicubic: Tensor,  # [3, H, W] uint8
    outputs: Mapping[str, Tensor],  # label -> [3, H, W] uint8; bicubic may be among them
    border: int,  # pixels a side that the metrics leave out, and so does the region
) -> Comparison:
    """Cuts out the square where the networks' luma differs most from bicubic's.

    With bicubic alone it is the square where its luma is furthest from the original's.
    """
    others = [output for output in outputs.values() if output is not bicubic]
    if others:
        reason = "where the networks differ most from bicubic"
        distance = torch.stack([(luma(output) - luma(bicubic)).abs() for output in others]).mean(0)
    else:
        reason = "where bicubic is furthest from the original"
        distance = (luma(bicubic) - luma(hr)).abs()
    height, width = distance.shape
    side = min(SIDE, height - 2 * border, width - 2 * border)
    left, top, strength = _strongest_square(distance, side, border)
    images = {"HR": hr, "bicubic": bicubic, **outputs}
    return Comparison(
        dataset,
        picture,
        reason,
        strength,
        (left, top, side),
        (width, height),
        imresize(hr, min(THUMBNAIL / max(height, width), 1)),
        {label: image[:, top : top + side, left : left + side].clone() for label, image in images.items()},
    )


def _strongest_square(distance: Tensor, side: int, border: int) -> tuple[int, int, float]:  # left, top, mean
    """Sums of all squares at once, from sums of all rectangles that begin at the corner."""
    height, width = distance.shape
    inside = distance[border : height - border, border : width - border]
    corner = F.pad(inside, (1, 0, 1, 0)).cumsum(0).cumsum(1)
    squares = corner[side:, side:] - corner[:-side, side:] - corner[side:, :-side] + corner[:-side, :-side]
    top, left = divmod(int(squares.argmax()), squares.shape[1])
    return left + border, top + border, float(squares.max()) / side**2
