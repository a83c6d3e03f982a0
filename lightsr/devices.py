"""Where things run: the device of a name, what to call it, and the backend of the ops."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lightsr_kernels import BackendUnavailableError
from lightsr_kernels import backend as kernel_backend
from lightsr_kernels.dispatch import BACKENDS, requested

from .doctor import cpu_model
from .errors import InputError
from .files import reason


def choose_device(name: str | torch.device) -> torch.device:
    """The device of a name such as cuda:1; auto is a GPU when torch sees one. InputError when it cannot be used."""
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # back again too, which "meta" cannot
    except (RuntimeError, AssertionError) as error:  # torch's ways to say that a device is not there
        raise InputError(f"device {str(name)!r} cannot be used: {reason(error)}") from error
    return device


def machine(device: torch.device) -> str:
    """What times on a device were taken with, in one line."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        name = f"{cpu_model()}, {torch.get_num_threads()} threads"
    else:
        name = str(device)
    return f"{name}, torch {torch.__version__}"


@contextmanager
def using_backend(name: str | None) -> Iterator[None]:
    """Runs the ops in the `with` block on a backend, None for LIGHTSR_BACKEND's.

    InputError for a wrong name and where the backend cannot run.
    """
    if name is None:
        try:
            name = requested()
        except ValueError as error:
            raise InputError(str(error)) from error
    elif name not in ("auto", *BACKENDS):
        raise InputError(f"backend must be one of auto, {', '.join(BACKENDS)}; got {name!r}")
    try:
        with kernel_backend(name):
            yield
    except BackendUnavailableError as error:
        raise InputError(str(error)) from error
