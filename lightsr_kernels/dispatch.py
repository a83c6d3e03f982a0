"""Chooses which implementation runs a call, and says why.

`LIGHTSR_BACKEND` (auto, reference, cpu, triton, cuda) sets the choice for the process, `with backend("reference"):` for
a stretch of code. auto takes the first usable one of cuda, triton, cpu, reference. A backend that was asked for by name
and cannot run raises BackendUnavailableError: it never falls back unasked. A function under torch.compile compiles anew
where `backend()` changes the choice; the variable it reads once, when it is compiled.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch.autograd import forward_ad

from . import build, eager
from .cache import BuildError
from .functional import layout_of, under_autocast
from .spec import SPECS, OpSpec

BACKENDS = ("cuda", "triton", "cpu", "reference")  # fastest first
_VARIABLE = getattr(os.environ, "encodekey", str)("LIGHTSR_BACKEND")
_ONLY_BY_NAME = (("triton", "cpu"),)  # the interpreter: for tests
_loaded: set[tuple[str, str]] = set()  # ops and the kinds of devices whose own kernels have been loaded
_forced: str | None = None  # a plain global, because torch.compile guards on it and recompiles when it changes


class BackendUnavailableError(RuntimeError):
    """The backend asked for by name cannot run this call; the message says why and what to do."""


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Runs the ops inside the `with` block on one backend: auto, reference, cpu, triton or cuda.

    Process-wide, as torch.backends.cudnn.flags is: other threads see it too.
    """
    global _forced  # noqa: PLW0603
    _check_name(name, "backend")
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


def requested() -> str:
    """The backend asked for: by `backend()`, else by LIGHTSR_BACKEND, else auto."""
    if _forced is not None:
        return _forced
    # For a variable that is not set os.environ.get() raises and catches KeyError, at every call of every op. CPython's
    # dictionary behind it tells at once; where there is none, the long way.
    there = getattr(os.environ, "_data", None)
    if there is None or _VARIABLE in there or torch.compiler.is_compiling():
        name = os.environ.get("LIGHTSR_BACKEND") or "auto"
        _check_name(name, "LIGHTSR_BACKEND")
        return name
    return "auto"


def call(spec: OpSpec, *args: Any) -> Any:
    """Checks the arguments and runs the op on the chosen backend."""
    spec.check(*args)
    x = _picture(args)
    device = "cpu" if x.is_cpu else x.device.type  # the quickest to ask for
    if spec.composed is not None and _is_composed(spec, device, args):
        return spec.composed(*args)
    if torch.compiler.is_compiling():
        plain = _plain_when_traced(spec, device)
        return run_reference(spec, *args) if plain else spec.op(*args)
    name = requested()
    if spec.backends == ("reference",) or name == "reference":
        plain = choose(spec, device, name=name) == "reference"
    elif eager.is_plain(args):
        kernels = _kernels(choose(spec, device, args, name), spec.name)
        # Kernels without a backward would have the reference compute all of it again for its gradients.
        plain = kernels is None or (not hasattr(kernels, "backward") and eager.wants_gradients(args))
        return run_reference(spec, *args) if plain else eager.run(spec, kernels, args)
    elif forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None:
        # The operators have no forward-mode derivative, and torch would take it for zero; nor rules for torch.func.
        plain = True
    else:
        plain = choose(spec, device, name=name) == "reference"
    return run_reference(spec, *args) if plain else spec.op(*args)


def _is_composed(spec: OpSpec, device: str, args: tuple[Any, ...]) -> bool:
    """Whether an op that can be put together of others is, because its own kernels cannot run this call."""
    name = requested()
    if name == "reference":
        return False
    if eager.wants_gradients(args) or under_autocast(device):
        return True
    if name != "auto":
        return False
    return _plain_when_traced(spec, device) if torch.compiler.is_compiling() else choose(spec, device) == "reference"


def keeping_kernels(spec: OpSpec, args: tuple[Any, ...]) -> Any:
    """The kernels for `eager.run`, where they keep for their gradients what they computed on the way; else None."""
    if torch.compiler.is_compiling() or requested() == "reference" or not eager.is_plain(args):
        return None
    kernels = kernels_for(spec, args)
    return kernels if hasattr(kernels, "forward_keeping") else None


def _plain_when_traced(spec: OpSpec, device: str) -> bool:
    """What is traced must not depend on sizes, or on a compiler being there: the operator chooses when it runs."""
    name = requested()
    if name == "auto":
        return not any(_fits(each, spec, device) for each in BACKENDS if (each, device) not in _ONLY_BY_NAME)
    if name != "reference" and not _fits(name, spec, device):
        choose(spec, device, name=name)  # which raises
    return name == "reference"


def kernels_for(spec: OpSpec, args: tuple[Any, ...], gradients: bool = False) -> Any:
    """The module whose `forward` and `backward` run this call, or None where it is the reference's.

    Whether a kernel is worth it is asked for the result alone: where gradients are wanted, the backend decides itself.
    """
    return _kernels(choose(spec, _picture(args).device.type, None if gradients else args), spec.name)


def run_reference(spec: OpSpec, *args: Any) -> Any:
    """Runs the reference; its results get the layout of the first picture, as every backend gives it to them."""
    result, x = spec.reference(*args), _picture(args)
    if isinstance(result, tuple):
        return tuple(_laid_out(each, x) for each in result)
    return _laid_out(result, x)


def _laid_out(result: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    # As a rule the result is laid out so already, and is returned as it is.
    return result.contiguous(memory_format=layout_of(x) if result.dim() == 4 else torch.contiguous_format)


def _picture(args: tuple[Any, ...]) -> torch.Tensor:
    first = args[0]  # a tensor, or a list of them
    return cast(torch.Tensor, first if isinstance(first, torch.Tensor) else first[0])


def choose(spec: OpSpec, device: str, args: tuple[Any, ...] | None = None, name: str | None = None) -> str:
    """The backend that runs `spec` on tensors of this kind of device; with `args`, the fastest for that very call.

    `name` is what was asked for, where the caller knows.
    """
    name = requested() if name is None else name
    if name == "auto":
        # A device's fastest backend has its name, and nothing takes kernels away that are loaded.
        loaded = (spec.name, device) in _loaded
        for each in BACKENDS[BACKENDS.index(device) if loaded else 0 : -1]:
            if (loaded and each == device) or _usable(each, spec, device):
                if each == device:
                    _loaded.add((spec.name, device))
                if _worth_it(each, spec, args):
                    return each
        return "reference"
    reason = why_not(name, spec, device)
    if reason is None:
        try:
            _kernels(name, spec.name)
        except BuildError as error:
            reason = str(error)
    if reason is not None:
        raise BackendUnavailableError(
            f"{spec.name}: backend {name!r} was asked for, but {reason}; use auto or reference"
        )
    return name


def _worth_it(name: str, spec: OpSpec, args: tuple[Any, ...] | None) -> bool:
    return name == "reference" or args is None or spec.faster is None or spec.faster(name, *args)


def _usable(name: str, spec: OpSpec, device: str) -> bool:
    """Whether this backend can run; builds its kernels where they are missing, and says once where that fails."""
    if why_not(name, spec, device) is not None or (name, device) in _ONLY_BY_NAME:
        return False
    try:
        _kernels(name, spec.name)
    except BuildError as error:  # which why_not says from now on
        warnings.warn(f"lightsr_kernels: no {name} kernels, plain PyTorch instead: {error}", stacklevel=5)
        return False
    return True


@cache
def _kernels(name: str, op: str) -> Any:
    if name == "reference":
        return None
    module = import_module(f".{op}.{'triton' if name == 'triton' else 'native'}", __package__)
    if name != "triton":
        for library in SPECS[op].libraries(name):
            build.load(name, library)
    return module


def why_not(name: str, spec: OpSpec, device: str) -> str | None:
    """Why this backend cannot run this op on this kind of device, or None when it can, as far as is known."""
    if name == "reference":
        return None
    if name not in spec.backends:
        return f"this version has no {name} kernel for it"
    if not _fits(name, spec, device):
        wanted = "cpu" if name == "cpu" else "cuda"
        hint = " (TRITON_INTERPRET=1 runs it there, slowly)" if name == "triton" else ""
        return f"it runs on {wanted} tensors and x is on {device}{hint}"
    if name == "triton":
        return None if find_spec("triton") else "triton is not installed; pip install triton"
    return next(filter(None, (build.why_not(name, each) for each in spec.libraries(name))), None)


def _fits(name: str, spec: OpSpec, device: str) -> bool:
    """Whether `spec` has a kernel for this backend and kind of device."""
    if name == "reference" or name not in spec.backends:
        return False
    interpreted = name == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    return device == ("cpu" if name == "cpu" else "cuda") or interpreted


@dataclass(frozen=True)
class Explanation:
    """Which backend an op takes on a device, and why each faster one was passed over."""

    op: str
    device: str
    backend: str
    reasons: dict[str, str]  # backend -> why not

    def __str__(self) -> str:
        lines = [f"{self.op} on {self.device}: {self.backend}"]
        lines += [f"  not {name}: {reason}" for name, reason in self.reasons.items()]
        return "\n".join(lines)


def explain(op: str, device: str | torch.device = "cpu") -> Explanation:
    """Says which backend `op` takes on `device` ("cpu" or "cuda") and why not another; print it, or read its fields."""
    if op not in SPECS:
        raise ValueError(f"explain: op must be one of {', '.join(SPECS)}; got {op!r}")
    spec, kind, name = SPECS[op], str(device).split(":", maxsplit=1)[0], requested()
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"explain: device must be cpu or cuda, got {str(device)!r}")
    reasons = {each: reason for each in BACKENDS if (reason := why_not(each, spec, kind)) is not None}
    if name == "auto":
        name = next(each for each in BACKENDS if each not in reasons and (each, kind) not in _ONLY_BY_NAME)
    elif name in reasons:
        name = f"none, because {name!r} was asked for"
    return Explanation(op, str(device), name, reasons)


def _check_name(name: str, where: str) -> None:
    if name not in ("auto", *BACKENDS):
        raise ValueError(f"{where} must be one of auto, {', '.join(BACKENDS)}; got {name!r}")
