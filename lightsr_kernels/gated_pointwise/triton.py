"""gated_pointwise on Triton, the portable path on GPUs, forward and backward.

triton_forward.py and triton_backward.py say how the kernels work. Nothing here waits for the GPU or measures, so calls
can be captured in a CUDA graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..attention_maps.gradients import own
from ..functional import dense, dense_as, layout_of
from .reference import reference
from .samples import NAMES
from .triton_gradients import gradients
from .triton_launch import Config, gate_maps, leave

MOST_GATE = 64  # channels of the gate, which a program holds all of


def forward(x: Tensor, *others: Any, config: Config | None = None) -> Tensor:
    """Arguments and result as the reference's."""
    given, eps = _named(others)
    if len(given["entry_bias"]) > MOST_GATE:
        return reference(x, *others).contiguous(memory_format=layout_of(x))
    x = dense(x)
    return leave(x, given, eps, gate_maps(x, given, eps), config)


def backward(
    grads: list[Tensor],  # of the one result, [N, C, H, W]
    wanted: list[bool],  # one flag for each tensor: x and those of NAMES
    x: Tensor,
    *others: Any,
) -> list[Tensor]:
    """What lies between the steps is computed again; nothing of E channels is in memory."""
    given, eps = _named(others)
    tensors = (x, *others[:-1])
    if len(given["entry_bias"]) > MOST_GATE:
        specification: Any = reference
        pull_back: Any = torch.func.vjp(lambda *each: specification(*each, eps), *tensors)[1]
        every = pull_back(grads[0])
    else:
        x = dense(x)
        found = gradients(dense_as(grads[0], x), x, given, eps, gate_maps(x, given, eps))
        every = [found["x"], *(found[name].reshape(given[name].shape) for name in NAMES)]
    return [own(each, like) for each, like, want in zip(every, tensors, wanted, strict=True) if want]


def _named(others: tuple[Any, ...]) -> tuple[dict[str, Tensor], float]:
    *weights, eps = others
    return {name: each.contiguous() for name, each in zip(NAMES, weights, strict=True)}, eps
