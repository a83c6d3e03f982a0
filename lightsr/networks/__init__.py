"""The networks by name, and which of them a checkpoint belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .base import SCALES, SRNetwork
from .bicubic import Bicubic
from .hasn import HASN
from .idsa_net import IDSANet
from .lmswn import LMSWN
from .mafdn import MAFDN

REGISTRY: dict[str, type[SRNetwork]] = {cls.name: cls for cls in (Bicubic, LMSWN, MAFDN, HASN, IDSANet)}


def create(name: str, scale: int = 4, use_fused: bool = False, **config: Any) -> SRNetwork:
    """Builds a network by name with fresh weights.

    Args:
        name: one of bicubic, lmswn, mafdn, hasn, idsa_net.
        scale: 2, 3 or 4.
        use_fused: runs its blocks on `lightsr_kernels` ops; `net.set_fused()` switches later.
        config: the class's own arguments, such as `folded=True` or `blocks=8`.

    Example:
        >>> import lightsr
        >>> net = lightsr.create("hasn", scale=2)
    """
    return network_class(name)(scale, use_fused=use_fused, **config)


def network_class(name: str) -> type[SRNetwork]:
    """The class of a network's name; an InputError lists the names there are."""
    if name not in REGISTRY:
        raise InputError(f"network must be one of {', '.join(REGISTRY)}; got {name!r}")
    return REGISTRY[name]


def detect(state_dict: Mapping[str, Tensor]) -> tuple[type[SRNetwork], dict[str, Any]]:
    """Tells which network, with which constructor arguments (scale included), a state_dict belongs to.

    Every key and every shape must fit. Otherwise an InputError names the closest network and the first differences.
    """
    closest: tuple[float, str] = (-1.0, "")
    for cls in REGISTRY.values():
        renamed = cls.from_released(state_dict)
        config = cls.config_of(renamed)
        # A checkpoint of nobody's is compared with the network as its paper has it.
        shapes = _shapes(cls, config if config is not None else {"scale": 4})
        differences = _differences(shapes, {key: tuple(value.shape) for key, value in renamed.items()})
        if config is not None and not differences:
            return cls, config
        share = sum(key in shapes for key in renamed) / max(len(shapes | dict(renamed)), 1)
        if shapes and share > closest[0]:
            closest = (share, f"{cls.title} ({', '.join(differences[:3])}{', ...' if len(differences) > 3 else ''})")
    raise InputError(
        f"the weights fit none of {', '.join(cls.title for cls in REGISTRY.values() if cls.name != 'bicubic')}; "
        f"closest is {closest[1]}"
    )


def _shapes(cls: type[SRNetwork], config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in cls(**config).state_dict().items()}


def _differences(wanted: dict[str, tuple[int, ...]], got: dict[str, tuple[int, ...]]) -> list[str]:
    found = [f"{key} is missing" for key in wanted if key not in got]
    found += [f"{key} is unknown" for key in got if key not in wanted]
    found += [
        f"{key} is {list(got[key])}, not {list(wanted[key])}"
        for key in wanted
        if got.get(key, wanted[key]) != wanted[key]
    ]
    return found


__all__ = [
    "HASN",
    "LMSWN",
    "MAFDN",
    "REGISTRY",
    "SCALES",
    "Bicubic",
    "IDSANet",
    "SRNetwork",
    "create",
    "detect",
    "network_class",
]
