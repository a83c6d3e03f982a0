"""Our depthwise convolution as a contender: one for each backend usable here, in both layouts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

import lightsr_kernels
from lightsr_kernels.dispatch import BACKENDS, BackendUnavailableError, choose, why_not
from lightsr_kernels.spec import OpSpec

from .case import LAYOUTS, Case, Inputs
from .contender import Contender, Prepare

SPEC = lightsr_kernels.SPECS["depthwise_conv"]


def backends(device: str, spec: OpSpec = SPEC) -> list[str]:
    """The backends that run here; plain PyTorch only where there is no other."""
    usable = []
    for name in BACKENDS:
        interpreted = name == "triton" and device == "cpu"  # a tool for tests
        if name == "reference" or interpreted or why_not(name, spec, device) is not None:
            continue
        try:
            with lightsr_kernels.backend(name):
                choose(spec, device)  # builds the kernels
        except BackendUnavailableError:
            continue
        usable.append(name)
    return usable or ["reference"]


def contenders(device: str) -> Sequence[Prepare]:
    return [partial(ours, layout=layout, backend=backend) for backend in backends(device) for layout in LAYOUTS]


def ours(case: Case, given: Inputs, layout: str, backend: str) -> Contender:
    own = given.laid_out(layout)
    args = (own.x, own.weight, None, [case.dilation] * 2, "none", 0.01, None, None)
    wanted = [case.direction == "backward-data", case.direction == "backward-weight"]

    def run() -> torch.Tensor:
        with lightsr_kernels.backend(backend):
            if case.direction == "forward":
                return lightsr_kernels.depthwise_conv(own.x, own.weight, dilation=case.dilation)
            found: list[torch.Tensor] = torch.ops.lightsr.depthwise_conv_backward([own.grad], wanted, *args)
            return found[0]  # what autograd calls

    return Contender(f"lightsr {backend} {layout}", run)


def chosen(case: Case, given: Inputs) -> str:
    """The backend that a plain call takes for this case."""
    args = (given.x, given.weight, None, [case.dilation] * 2, "none", 0.01, None, None)
    return choose(SPEC, given.x.device.type, args)
