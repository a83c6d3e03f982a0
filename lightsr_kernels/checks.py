"""Argument checks shared by the ops. Every message is one line: op, argument, what was got, what is accepted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .functional import under_autocast

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_picture(op: str, name: str, x: Tensor) -> None:
    """Requires a 4-D floating-point tensor [N, C, H, W]."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor, got {type(x).__name__}")
    if x.dim() != 4:
        raise ValueError(f"{op}: {name} must have 4 dimensions [N, C, H, W], got shape {list(x.shape)}")
    if x.dtype not in DTYPES:
        raise TypeError(f"{op}: {name} must be float32, float64, float16 or bfloat16, got {x.dtype}")


def check_shape(op: str, name: str, value: Tensor | None, shape: Sequence[int], like: Tensor) -> None:
    """Requires `value` (where given) to have this shape, and the dtype and device of `like`."""
    if value is None:
        return
    # All is well, in the fewest looks, since networks call dozens of ops with many arguments; below, what is not.
    if (
        isinstance(value, Tensor)
        and value.shape == shape
        and value.dtype == like.dtype
        and ((value.is_cpu and like.is_cpu) or value.device == like.device)
    ):
        return
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor, got {type(value).__name__}")
    if list(value.shape) != list(shape):
        raise ValueError(f"{op}: {name} must have shape {list(shape)}, got {list(value.shape)}")
    if value.device != like.device:
        raise ValueError(f"{op}: {name} is on {value.device} but x is on {like.device}; move one with .to()")
    if value.dtype != like.dtype and not under_autocast(like.device.type):
        raise TypeError(f"{op}: {name} is {value.dtype} but x is {like.dtype}; convert one with .to(), or use autocast")


def check_required(op: str, name: str, value: Tensor, shape: Sequence[int], like: Tensor) -> None:
    """Requires what `check_shape` does, and that `value` is there."""
    if value is None:
        raise TypeError(f"{op}: {name} must be a torch.Tensor, got NoneType")
    check_shape(op, name, value, shape, like)


def check_tensors(op: str, name: str, values: Sequence[Tensor], count: int) -> None:
    """Requires a list of `count` tensors."""
    if not isinstance(values, list | tuple):
        raise TypeError(f"{op}: {name} must be a list of tensors, got {type(values).__name__}")
    if len(values) != count:
        raise ValueError(f"{op}: {name} must have one entry a part, {count} in all; got {len(values)}")


def check_parts(op: str, parts: Sequence[Tensor]) -> None:
    """Requires a list of at least one picture, all of the same N, H, W, dtype and device; channels may differ."""
    if not isinstance(parts, list | tuple):
        raise TypeError(f"{op}: parts must be a list of tensors, got {type(parts).__name__}")
    if not parts:
        raise ValueError(f"{op}: parts must hold at least one tensor, got an empty list")
    for i, part in enumerate(parts):
        check_picture(op, f"parts[{i}]", part)
        n, _, h, w = parts[0].shape
        check_shape(op, f"parts[{i}]", part, (n, part.shape[1], h, w), parts[0])


def check_depthwise(op: str, name: str, weight: Tensor, x: Tensor) -> None:
    """Requires one odd-sided filter a channel of x: [C, 1, KH, KW], sides from 1 to 31."""
    check_picture(op, name, weight)
    kh, kw = weight.shape[2:]
    check_shape(op, name, weight, (x.shape[1], 1, kh, kw), x)
    if not all(side % 2 == 1 and side <= 31 for side in (kh, kw)):
        raise ValueError(f"{op}: {name} must be odd from 1 to 31 a side, got {kh} x {kw}")


def check_pointwise(op: str, name: str, weight: Tensor, channels: int, like: Tensor) -> int:
    """Requires a 1x1 filter that reads `channels` channels, [C_out, channels, 1, 1], and returns its C_out."""
    check_picture(op, name, weight)
    check_shape(op, name, weight, (weight.shape[0], channels, 1, 1), like)
    return weight.shape[0]


def check_choice(op: str, name: str, value: str, choices: Sequence[str]) -> None:
    """Requires one of a few words."""
    if value not in choices:
        raise ValueError(f"{op}: {name} must be one of {', '.join(choices)}; got {value!r}")


def check_number(op: str, name: str, value: float) -> None:
    """Requires a number that is no tensor."""
    if not isinstance(value, int | float | torch.SymFloat):
        raise TypeError(f"{op}: {name} must be a number, got {type(value).__name__}")


def check_together(op: str, **values: Tensor | None) -> None:
    """Requires all of these tensors, or none."""
    given = [name for name, value in values.items() if value is not None]
    if given and len(given) != len(values):
        missing = ", ".join(name for name, value in values.items() if value is None)
        raise ValueError(f"{op}: {', '.join(values)} go together; {missing} was not given")
