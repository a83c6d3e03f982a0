"""Argument checks shared by the ops. Every message is one line: op, argument, what was got, what is accepted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor, got {type(value).__name__}")
    if list(value.shape) != list(shape):
        raise ValueError(f"{op}: {name} must have shape {list(shape)}, got {list(value.shape)}")
    if value.device != like.device:
        raise ValueError(f"{op}: {name} is on {value.device} but x is on {like.device}; move one with .to()")
    if value.dtype != like.dtype and not torch.is_autocast_enabled(like.device.type):
        raise TypeError(f"{op}: {name} is {value.dtype} but x is {like.dtype}; convert one with .to(), or use autocast")


def check_choice(op: str, name: str, value: str, choices: Sequence[str]) -> None:
    """Requires one of a few words."""
    if value not in choices:
        raise ValueError(f"{op}: {name} must be one of {', '.join(choices)}; got {value!r}")


def check_together(op: str, **values: Tensor | None) -> None:
    """Requires all of these tensors, or none."""
    given = [name for name, value in values.items() if value is not None]
    if given and len(given) != len(values):
        missing = ", ".join(name for name, value in values.items() if value is None)
        raise ValueError(f"{op}: {', '.join(values)} go together; {missing} was not given")
