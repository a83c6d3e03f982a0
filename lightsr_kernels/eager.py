"""The short way from an op's function to its kernels, past torch's dispatcher.

Light networks run in milliseconds and call dozens of ops, and the dispatcher costs a call some 30 microseconds, or 80
where a gradient is wanted. Eager code on plain tensors does not need it; tracing, transforms and modes do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .spec import OpSpec

_PLAIN = (Tensor, torch.nn.Parameter)


def is_plain(args: tuple[Any, ...]) -> bool:
    """Whether these arguments are plain tensors (none in a list) and nothing wants to see the operator."""
    if (
        torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.is_autocast_enabled("cpu")
        or torch.is_autocast_enabled("cuda")
        or torch._C._get_tracing_state() is not None
        or forward_ad._current_level >= 0
    ):
        return False
    for value in args:
        if isinstance(value, Tensor):
            if type(value) not in _PLAIN:
                return False
        elif isinstance(value, list | tuple) and any(isinstance(each, Tensor) for each in value):
            return False
    return True


def run(spec: OpSpec, kernels: Any, args: tuple[Any, ...]) -> Any:
    """Runs a call on the kernels of a backend, with gradients where some are wanted."""
    if torch.is_grad_enabled() and any(isinstance(each, Tensor) and each.requires_grad for each in args):
        return _WithGradient.apply(spec, kernels, *args)  # type: ignore[no-untyped-call]
    return kernels.forward(*args)


class _WithGradient(torch.autograd.Function):
    """What `register` gives the operator, at a fraction of the cost."""

    @staticmethod
    def forward(ctx: Any, spec: OpSpec, kernels: Any, *args: Any) -> Any:
        ctx.spec = spec
        ctx.save_for_backward(*[each for each in args if isinstance(each, Tensor)])
        ctx.others = [None if isinstance(each, Tensor) else (each,) for each in args]
        return kernels.forward(*args)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        saved = iter(ctx.saved_tensors)
        args = [next(saved) if other is None else other[0] for other in ctx.others]
        needed = ctx.needs_input_grad[2:]
        wanted = [bool(need) for need, other in zip(needed, ctx.others, strict=True) if other is None]
        found = iter(getattr(torch.ops.lightsr, f"{ctx.spec.name}_backward")(list(grads), wanted, *args))
        return (None, None, *(next(found) if need else None for need in needed))
