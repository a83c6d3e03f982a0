"""The optimiser over a network's parameters."""

from __future__ import annotations

import torch
from torch import nn

from ..networks import SRNetwork
from ..networks.base import FoldableConv2d
from .settings import Optimiser


def optimiser_of(net: SRNetwork, settings: Optimiser) -> torch.optim.Optimizer:
    """The optimiser that settings describe, over a network's parameters."""
    free = {id(layer._parameters[name]) for layer in net.modules() for name in _extra(layer)}
    decaying = [each for each in net.parameters() if id(each) not in free]
    groups = [{"params": decaying, "weight_decay": settings.weight_decay}]
    if free:
        groups.append({"params": [each for each in net.parameters() if id(each) in free], "weight_decay": 0.0})
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=settings.lr, betas=settings.betas, fused=True)


def _extra(layer: nn.Module) -> list[str]:
    return [name for name in layer.extra if name in layer._parameters] if isinstance(layer, FoldableConv2d) else []
