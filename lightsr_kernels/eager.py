"""The short way from an op's function to its kernels, past torch's dispatcher.

Light networks run in milliseconds and call dozens of ops, and the dispatcher costs a call some 30 microseconds, or 80
where a gradient is wanted. Eager code on plain tensors does not need it; tracing, transforms and modes do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .spec import OpSpec

_PLAIN = frozenset((Tensor, torch.nn.Parameter, type(None), bool, int, float, str))


def is_plain(args: tuple[Any, ...]) -> bool:
    """Whether these arguments are plain tensors, or lists of them, and nothing wants to see the operator."""
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
        if type(value) in _PLAIN:
            continue
        if isinstance(value, Tensor):
            return False
        if isinstance(value, list | tuple):
            for each in value:
                if type(each) not in _PLAIN and isinstance(each, Tensor):
                    return False
    return True


def run(spec: OpSpec, kernels: Any, args: tuple[Any, ...]) -> Any:
    """Runs a call on the kernels of a backend, with gradients where some are wanted."""
    recorded = _recorded(args)
    return _apply(spec, kernels, args, *recorded) if recorded else kernels.forward(*args)  # type: ignore[no-untyped-call]


def wants_gradients(args: tuple[Any, ...]) -> bool:
    """Whether autograd records a call with these arguments."""
    return bool(_recorded(args))


def _recorded(args: tuple[Any, ...]) -> list[Tensor]:
    """The tensors among the arguments, where autograd records the call; else none."""
    if not torch.is_grad_enabled():
        return []
    tensors = _tensors(args)
    return tensors if any(each.requires_grad for each in tensors) else []


def _tensors(args: tuple[Any, ...]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in args:
        if isinstance(value, Tensor):
            found.append(value)
        elif _of_tensors(value):
            found += value
    return found


def _of_tensors(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and isinstance(value[0], Tensor)


class _WithGradient(torch.autograd.Function):
    """What `register` gives the operator, at a fraction of the cost.

    A backend that has `forward_keeping` also hands over what it computed on the way, for its own backward to take. The
    gradients are computed by the backend of the result, whichever is asked for by then.
    """

    @staticmethod
    def forward(ctx: Any, spec: OpSpec, kernels: Any, args: tuple[Any, ...], *tensors: Tensor) -> Any:
        ctx.spec, ctx.kernels, ctx.kept = spec, kernels, 0  # how many tensors are kept behind the arguments
        ctx.added, needed = _without_added(spec, args)  # which of the tensors is left out
        ctx.others = [Blank(value) if isinstance(value, Tensor) or _of_tensors(value) else value for value in needed]
        keeping = getattr(kernels, "forward_keeping", None)
        if keeping is None:
            ctx.save_for_backward(*_tensors(needed))
            return kernels.forward(*args)
        result, kept = keeping(*args)
        ctx.kept = len(kept)
        ctx.save_for_backward(*_tensors(needed), *kept)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        saved = iter(ctx.saved_tensors)
        args = [each.fill(saved) if isinstance(each, Blank) else each for each in ctx.others]
        wanted = [bool(need) for need in ctx.needs_input_grad[3:]]
        flags = [want for place, want in enumerate(wanted) if place != ctx.added]
        # The operator refuses to be differentiated again, and so is the way where the gradients may be.
        plain = not torch.is_grad_enabled() and any(each.numel() for each in grads) and is_plain(grads)
        if not any(flags):
            found = iter(())
        elif plain and hasattr(ctx.kernels, "backward"):
            kept = {"kept": list(saved)} if ctx.kept else {}
            found = iter(ctx.kernels.backward(list(grads), flags, *args, **kept))
        else:
            found = iter(getattr(torch.ops.lightsr, f"{ctx.spec.name}_backward")(list(grads), flags, *args))
        each = (
            (grads[0] if place == ctx.added else next(found)) if want else None for place, want in enumerate(wanted)
        )
        return None, None, None, *each


# Past what Function.apply does for torch.func: no transform is active where `is_plain` says so.
_apply = super(torch.autograd.Function, _WithGradient).apply


def _without_added(spec: OpSpec, args: tuple[Any, ...]) -> tuple[int | None, tuple[Any, ...]]:
    """Of all tensors the place of the one that is added and left out, and the arguments without it."""
    place = spec.added(*args) if spec.added else None
    if place is None or args[place] is None:
        return None, args
    return len(_tensors(args[:place])), (*args[:place], None, *args[place + 1 :])


class Blank:
    """The place of a tensor, or of a list of tensors, among saved arguments."""

    def __init__(self, value: Tensor | Sequence[Tensor]) -> None:
        self.count = None if isinstance(value, Tensor) else len(value)

    def fill(self, saved: Iterator[Tensor]) -> Tensor | list[Tensor]:
        return next(saved) if self.count is None else [next(saved) for _ in range(self.count)]
