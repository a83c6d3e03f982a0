"""Chooses which implementation runs a call, and says why.

`LIGHTSR_BACKEND` (auto, reference, cpu, triton, cuda) sets the choice for the process, `with backend("reference"):` for
a stretch of code. auto takes the first usable one of cuda, triton, cpu, reference. A backend that was asked for by name
and cannot run raises BackendUnavailableError: it never falls back unasked. A function under torch.compile compiles anew
where `backend()` changes the choice; the variable it reads once, when it is compiled.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch

from .functional import layout_of
from .spec import SPECS, OpSpec

BACKENDS = ("cuda", "triton", "cpu", "reference")  # fastest first
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
    name = os.environ.get("LIGHTSR_BACKEND") or "auto"
    _check_name(name, "LIGHTSR_BACKEND")
    return name


def call(spec: OpSpec, *args: Any) -> Any:
    """Checks the arguments and runs the op on the chosen backend."""
    spec.check(*args)
    if choose(spec, _picture(args).device.type) == "reference":
        return run_reference(spec, *args)
    return spec.op(*args)


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


def choose(spec: OpSpec, device: str) -> str:
    """The backend that runs `spec` on tensors of this kind of device."""
    name = requested()
    if name == "auto":
        return next(each for each in BACKENDS if why_not(each, spec, device) is None)
    reason = why_not(name, spec, device)
    if reason is not None:
        raise BackendUnavailableError(
            f"{spec.name}: backend {name!r} was asked for, but {reason}; use auto or reference"
        )
    return name


def why_not(name: str, spec: OpSpec, device: str) -> str | None:
    """Why this backend cannot run this op on this kind of device, or None when it can."""
    if name == "reference":
        return None
    if name not in spec.backends:
        return f"this version has no {name} kernel for it"
    wanted = "cpu" if name == "cpu" else "cuda"
    if device != wanted:
        return f"it runs on {wanted} tensors and x is on {device}"
    return None


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
        name = next(each for each in BACKENDS if each not in reasons)
    elif name in reasons:
        name = f"none, because {name!r} was asked for"
    return Explanation(op, str(device), name, reasons)


def _check_name(name: str, where: str) -> None:
    if name not in ("auto", *BACKENDS):
        raise ValueError(f"{where} must be one of auto, {', '.join(BACKENDS)}; got {name!r}")
