"""The calls the op matrix is made of: every spec on every backend usable here, in every layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

import lightsr_kernels
from lightsr_kernels.dispatch import BACKENDS, call, why_not
from lightsr_kernels.spec import SPECS, Make, OpSpec, Sample

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
LAYOUTS = ("contiguous", "channels_last", "sliced", "expanded")


@dataclass(frozen=True)
class Runner:
    """One way to run one op: through a backend, or as torch.ops.lightsr.<name> ("operator")."""

    spec: OpSpec
    device: str
    backend: str

    def __call__(self, *args: Any) -> tuple[Tensor, ...]:
        if self.backend == "operator":
            return outputs(self.spec.op(*args))
        with lightsr_kernels.backend(self.backend):
            return outputs(call(self.spec, *args))

    def samples(self, dtype: torch.dtype = torch.float32, **options: bool) -> list[Sample]:
        return list(self.spec.samples(Make(dtype, self.device, **options)))


RUNNERS = [
    Runner(spec, device, name)
    for spec in SPECS.values()
    for device in DEVICES
    for name in ("operator", *BACKENDS)
    # Triton's interpreter is too slow for all of it; test_triton_*.py have what it can run in a minute.
    if name == "operator" or (why_not(name, spec, device) is None and (name, device) != ("triton", "cpu"))
]
each_op = pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.name)
each_runner = pytest.mark.parametrize("run", RUNNERS, ids=lambda run: f"{run.spec.name}-{run.device}-{run.backend}")


def outputs(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def tensors(args: Any) -> list[Tensor]:
    """The tensors among arguments, those inside lists included."""
    return [each for each in tree_flatten(args)[0] if isinstance(each, Tensor)]


def change(args: Any, how: Callable[[Tensor], Tensor]) -> Any:
    """The arguments with every tensor changed."""
    return tree_map(lambda each: how(each) if isinstance(each, Tensor) else each, args)


def of_tensors(function: Callable[..., Any], args: Any) -> Callable[..., tuple[Tensor, ...]]:
    """`function` as a function of the tensors among its arguments alone, which is what torch's checkers take."""
    leaves, structure = tree_flatten(args)
    others = [Tensor if isinstance(each, Tensor) else each for each in leaves]

    def flat(*values: Tensor) -> tuple[Tensor, ...]:
        given = iter(values)
        return outputs(
            function(*tree_unflatten([next(given) if each is Tensor else each for each in others], structure))
        )

    return flat


def picture(args: Any) -> Tensor:
    """The first picture of a call: x, or parts[0]."""
    return tensors(args)[0]


def filled(samples: Iterable[Sample]) -> Iterator[Sample]:
    """The samples whose tensors all have values."""
    return (sample for sample in samples if all(each.numel() for each in tensors(sample.args)))


def largest(samples: Iterable[Sample]) -> Sample:
    """The sample with the largest picture, whose sizes are the least likely to be special."""
    return max(samples, key=lambda sample: picture(sample.args).shape[2:].numel())


def lay_out(args: Any, layout: str) -> Any:
    """The arguments with every 4-D tensor in another memory layout; "expanded" repeats the first row of each.

    "channels_of_wider" are some channels of a channels_last picture.
    """

    def change_layout(value: Tensor) -> Tensor:
        if value.dim() != 4 or value.numel() == 0:
            return value
        data = value.detach()
        if layout == "channels_last":
            data = data.contiguous(memory_format=torch.channels_last)
        elif layout == "sliced":
            data = torch.nn.functional.pad(data, (1, 2, 1, 1))[:, :, 1:-1, 1:-2]
        elif layout == "channels_of_wider":
            wide = torch.nn.functional.pad(data, (0, 0, 0, 0, 1, 2))
            data = wide.contiguous(memory_format=torch.channels_last)[:, 1:-2]
        elif layout == "expanded":
            data = data[:, :, :1].expand_as(data)
        return data.requires_grad_(value.requires_grad)

    return change(args, change_layout)


def doubled(args: Any) -> Any:
    """The arguments for a picture of twice the height: the same picture below itself, and twice the attention sets."""
    n, _, h, w = picture(args).shape

    def double(value: Tensor) -> Tensor:
        if value.dim() == 3:
            return torch.cat([value, value], 0)
        return (
            torch.cat([value, value], 2)
            if value.dim() == 4 and (value.shape[0], *value.shape[2:]) == (n, h, w)
            else value
        )

    return change(args, double)
