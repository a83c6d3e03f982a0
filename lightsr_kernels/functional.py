"""Small pieces of plain PyTorch that several reference files share."""

from __future__ import annotations

from typing import overload

import torch
import torch.nn.functional as F
from torch import Tensor

from .memory import empty

ACTIVATIONS = ("none", "relu", "leaky_relu", "gelu", "silu", "sigmoid")


def activate(x: Tensor, activation: str, negative_slope: float) -> Tensor:
    """Applies an activation by name; gelu is the exact (erf) one, `negative_slope` is leaky_relu's."""
    if activation == "none":
        return x
    if activation == "leaky_relu":
        return F.leaky_relu(x, negative_slope)
    if activation == "sigmoid":
        return torch.sigmoid(x)
    if activation == "relu":
        return F.relu(x)
    return F.gelu(x) if activation == "gelu" else F.silu(x)


def channel_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm over the channels of each pixel of [N, C, H, W], affine."""
    return F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), weight, bias, eps).permute(0, 3, 1, 2)


def layout_of(x: Tensor) -> torch.memory_format:
    """The layout an op gives its result: channels_last when x is, or is a slice of, a channels_last picture.

    What is plain contiguous as well counts as contiguous.
    """
    # Plain contiguous is asked first: vmap and export can answer that one for any x.
    return torch.channels_last if not x.is_contiguous() and _channels_inside(x) else torch.contiguous_format


def _channels_inside(x: Tensor) -> bool:
    """Whether the channels of a pixel of [N, C, H, W] are neighbours in memory, and pixels and rows lie in order."""
    _, channels, rows, columns = x.shape
    _, c, h, w = x.stride()
    if channels == 1 or c != 1 or rows * columns <= 1:
        return False
    return (columns == 1 or w >= channels) and (rows == 1 or h >= (channels if columns == 1 else columns * w))


def empty_result(x: Tensor, channels: int) -> Tensor:
    """An uninitialised [N, channels, H, W] with the dtype, device and layout of x: most ops' fake result."""
    n, _, h, w = x.shape
    return empty((n, channels, h, w), x.dtype, x.device, layout_of(x))


def empty_gradient(x: Tensor) -> Tensor:
    """An uninitialised tensor for the gradient of x: dense, in the layout of x."""
    layout = layout_of(x) if x.dim() == 4 else torch.contiguous_format
    return empty(x.shape, x.dtype, x.device, layout)


def dense(x: Tensor) -> Tensor:
    """Returns x as it is where it is contiguous or channels_last, which kernels take; other strides are copied once."""
    return x.contiguous(memory_format=layout_of(x))


def dense_as(value: Tensor, x: Tensor) -> Tensor:
    """`value` in the layout of x, as it is where it has that layout already."""
    return value.contiguous(memory_format=layout_of(x))


def under_autocast(device: str) -> bool:
    """Whether autocast is on for this kind of device; others than these have none, and torch would raise."""
    return device in ("cpu", "cuda") and torch.is_autocast_enabled(device)


@overload
def autocast_to(x: Tensor, dtype: torch.dtype) -> Tensor: ...


@overload
def autocast_to(x: None, dtype: torch.dtype) -> None: ...


def autocast_to(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Returns x as torch's autocast hands it to a convolution: in `dtype`, unless it is float64 or not there."""
    return x if x is None or x.dtype == torch.float64 else x.to(dtype)


def to_sets(x: Tensor, window: int, grid: bool) -> Tensor:
    """[N, C, H, W] -> [N*sets, window^2, C]: tokens of each window, or of each strided grid set.

    Sets are ordered (n, y, x), tokens (i, j). A window holds pixel (y*window + i, x*window + j); a grid set holds
    pixel (i*H/window + y, j*W/window + x), so it spreads over the whole picture. H and W are multiples of window.
    """
    n, c, h, w = x.shape
    rows, columns = h // window, w // window
    if grid:
        x = x.reshape(n, c, window, rows, window, columns).permute(0, 3, 5, 2, 4, 1)
    else:
        x = x.reshape(n, c, rows, window, columns, window).permute(0, 2, 4, 3, 5, 1)
    return x.reshape(n * rows * columns, window * window, c)


def from_sets(tokens: Tensor, shape: torch.Size, window: int, grid: bool) -> Tensor:
    """The inverse of `to_sets`: [N*sets, window^2, C'] -> [N, C', H, W] for a picture of `shape` [N, C, H, W]."""
    n, _, h, w = shape
    c = tokens.shape[-1]
    rows, columns = h // window, w // window
    tokens = tokens.reshape(n, rows, columns, window, window, c)
    order = (0, 5, 3, 1, 4, 2) if grid else (0, 5, 1, 3, 2, 4)
    return tokens.permute(order).reshape(n, c, h, w)
