"""Makes an OpSpec an operator of torch: `torch.ops.lightsr.<name>`, with fake rules and gradients.

The operator is opaque to torch.compile and torch.export, which is what a fused kernel needs; its fake rule gives them
shapes and strides. Which backend runs it is chosen at each call.

Gradients come from `torch.ops.lightsr.<name>_backward`, so an op saves its inputs and nothing else: the kernels of
the chosen backend, or, where there are none or they have no backward, the reference computed again and
differentiated. Differentiating twice through the operator raises; the reference backend, being plain PyTorch,
differentiates any number of times.

Under autocast the operator is the reference, or what `OpSpec.autocast` makes of it, so that its result has the dtype
and the rounding that eager code gives.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from .dispatch import kernels_for, run_reference
from .eager import Blank
from .functional import empty_gradient, under_autocast
from .spec import SPECS, OpSpec

_library: Any = torch.library.Library("lightsr", "FRAGMENT")  # type: ignore[no-untyped-call]


def register(spec: OpSpec) -> OpSpec:
    """Defines the operator and its backward, and lists the spec in SPECS."""
    SPECS[spec.name] = spec
    name, backward = spec.name, f"{spec.name}_backward"
    arguments, results = re.fullmatch(r"\((.*)\) -> (.*)", spec.schema, re.DOTALL).groups()  # type: ignore[union-attr]

    _library.define(f"{name}({arguments}) -> {results}")
    _library.impl(name, _forward(spec), "CompositeExplicitAutograd")
    torch.library.register_fake(f"lightsr::{name}", spec.fake, lib=_library)
    for key in ("AutocastCPU", "AutocastCUDA"):
        _library.impl(name, _autocast(spec, key.removeprefix("Autocast").lower()), key)

    _library.define(f"{backward}(Tensor[] grad_results, bool[] wanted, {arguments}) -> Tensor[]")
    _library.impl(backward, _backward(spec), "CompositeExplicitAutograd")
    torch.library.register_fake(f"lightsr::{backward}", _fake_backward, lib=_library)

    def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*_tensors(inputs))
        # Tensors are saved through autograd (hooks, version checks); everything else is kept as it is.
        ctx.others = [Blank(value) if _tensors([value]) else value for value in inputs]

    def grad(ctx: Any, *grads: Tensor) -> Any:
        saved = iter(ctx.saved_tensors)
        args = [value.fill(saved) if isinstance(value, Blank) else value for value in ctx.others]
        needed = _needed(ctx.needs_input_grad, args)
        found = iter(getattr(torch.ops.lightsr, backward)(list(grads), needed, *args))
        flags = iter(needed)
        return tuple(_place(value, flags, found) for value in args)

    def refuse(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(
            f"{name}: the fused operator differentiates once; for second derivatives use "
            "`with lightsr_kernels.backend('reference'):`"
        )

    torch.library.register_autograd(f"lightsr::{name}", grad, setup_context=save, lib=_library)
    torch.library.register_autograd(f"lightsr::{backward}", refuse, lib=_library)
    return spec


def _tensors(args: Sequence[Any]) -> list[Tensor]:
    """The tensors among arguments, those inside lists included, in order."""
    flat: list[Tensor] = []
    for value in args:
        if isinstance(value, Tensor):
            flat.append(value)
        elif isinstance(value, list | tuple):
            flat += [each for each in value if isinstance(each, Tensor)]
    return flat


def _needed(needs_input_grad: Sequence[Any], args: Sequence[Any]) -> list[bool]:
    """One flag a tensor: whether its gradient is wanted (lists have a list of flags, or one for all)."""
    flags: list[bool] = []
    for need, value in zip(needs_input_grad, args, strict=True):
        if isinstance(value, Tensor):
            flags.append(bool(need))
        else:
            count = len(_tensors([value]))
            flags += [bool(each) for each in need] if count and isinstance(need, list) else [bool(need)] * count
    return flags


def _place(value: Any, flags: Any, found: Any) -> Any:
    """The gradient (or None, or a list of them) that stands where argument `value` stood."""
    if isinstance(value, Tensor):
        return next(found) if next(flags) else None
    if isinstance(value, list) and len(value) == len(_tensors([value])):
        return [next(found) if next(flags) else None for _ in value]
    return None


def _autocast(spec: OpSpec, device: str) -> Any:
    rule = spec.autocast
    if rule is None:
        return partial(run_reference, spec)

    def run(*args: Any) -> Any:
        dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            return rule(dtype, *args)

    return run


def _forward(spec: OpSpec) -> Any:
    def run(*args: Any) -> Any:
        kernels = kernels_for(spec, args)
        if kernels is not None:
            return kernels.forward(*args)
        out = spec.reference(*args)
        fake = spec.fake(*args)
        # An operator may not hand back its input or a view of its own other result, and its strides are a promise.
        if isinstance(out, Tensor) and out.stride() == fake.stride() and not _shares_memory(out, args):
            return out
        if isinstance(out, tuple):
            return tuple(torch.empty_like(like).copy_(each) for each, like in zip(out, fake, strict=True))
        return torch.empty_like(fake).copy_(out)

    return run


def _shares_memory(out: Tensor, args: Sequence[Any]) -> bool:
    memory = out.untyped_storage().data_ptr()
    return any(each.untyped_storage().data_ptr() == memory for each in _tensors(args))


def _backward(spec: OpSpec) -> Any:
    def run(grads: list[Tensor], wanted: list[bool], *args: Any) -> list[Tensor]:
        if under_autocast(grads[0].device.type):  # gradients have the dtype of their arguments
            with torch.autocast(grads[0].device.type, enabled=False):
                return run(grads, wanted, *args)
        kernels = kernels_for(spec, args, gradients=True) if any(each.numel() for each in grads) else None
        backward = getattr(kernels, "backward", None)
        if backward is not None:
            return cast(list[Tensor], backward(grads, wanted, *args))
        tensors = _tensors(args)
        chosen = [each for each, want in zip(tensors, wanted, strict=True) if want]

        def forward(*inputs: Tensor) -> tuple[Tensor, ...]:
            given = iter(inputs)
            mixed = iter([next(given) if want else each for each, want in zip(tensors, wanted, strict=True)])
            out = spec.reference(*[Blank(value).fill(mixed) if _tensors([value]) else value for value in args])
            return out if isinstance(out, tuple) else (out,)

        # torch.func, because torch.autograd.grad records nothing inside an operator.
        pull_back: Any = torch.func.vjp(forward, *chosen)[1]
        return [empty_gradient(x).copy_(grad) for x, grad in zip(chosen, pull_back(tuple(grads)), strict=True)]

    return run


def _fake_backward(grads: list[Tensor], wanted: list[bool], *args: Any) -> list[Tensor]:
    return [empty_gradient(value) for value, want in zip(_tensors(args), wanted, strict=True) if want]
