"""Lightweight image super-resolution: four reference networks, upscaling, evaluation and export.

>>> import lightsr
>>> net = lightsr.create("hasn", scale=4, use_fused=True)

Each verb is a module with a function of its name: `from lightsr.upscale import upscale`, likewise evaluate and export.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import InputError

if TYPE_CHECKING:
    from lightsr_kernels import __version__

    from .captured import capture
    from .checkpoint import fold, load
    from .networks import create

# Loaded when first used, so that `import lightsr` stays quick.
_HOMES = {
    "capture": "captured",
    "create": "networks",
    "fold": "checkpoint",
    "load": "checkpoint",
}

__all__ = ["InputError", "__version__", "capture", "create", "fold", "load"]


def __getattr__(name: str) -> Any:
    if name == "__version__":  # not imported above: that would import torch, even for --help
        return importlib.import_module("lightsr_kernels").__version__
    if name not in _HOMES:
        raise AttributeError(f"module 'lightsr' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
