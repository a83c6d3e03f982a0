"""What a training starts from: the network, its first weights, the machine."""

from __future__ import annotations

import ctypes
import random
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import read_state_dict
from ..errors import InputError
from ..files import reason
from ..networks import SRNetwork, create, network_class
from ..networks.base import FoldableConv2d
from .settings import Network

UPSAMPLER = "tail."  # the last convolution, which alone depends on the scale


def make_network(settings: Network, seed: int) -> SRNetwork:
    """The network with its first weights, which follow from the seed."""
    random.seed(seed)
    np.random.seed(seed)  # the global generator, for whoever uses it
    torch.manual_seed(seed)
    try:
        return create(settings.name, settings.scale, settings.use_fused, **settings.options)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"network.options do not fit {settings.name}: {reason(error)}") from error


def start_from(net: SRNetwork, path: Path) -> str:
    """Puts the weights of a file into a network, and returns a line about it.

    Another scale's weights are taken without the last convolution. Folded weights come back unfolded: the parameters
    that help training begin at their neutral values. Raises InputError when the file holds another network.
    """
    found = network_class(net.name).from_released(read_state_dict(path).tensors)
    wanted = net.state_dict()
    neutral = _neutral(net)
    taken: dict[str, Tensor] = {}
    left_out: list[str] = []
    for name, value in wanted.items():
        if name in found and found[name].shape == value.shape:
            taken[name] = found[name]
        elif name in neutral and name not in found:
            taken[name] = torch.zeros_like(value)
        elif name.startswith(UPSAMPLER) and name in found:
            left_out.append(name)
        else:
            got = "is missing" if name not in found else f"is {list(found[name].shape)}, not {list(value.shape)}"
            raise InputError(f"{path}: cannot start {net.title} x{net.scale}: {name} {got}")
    unknown = [name for name in found if name not in wanted]
    if unknown:
        raise InputError(f"{path}: cannot start {net.title} x{net.scale}: {unknown[0]} is unknown to it")
    net.load_state_dict({**wanted, **taken})
    return f"started from {path}" + (", the last convolution anew (another scale)" if left_out else "")


def warm_up(net: SRNetwork, device: torch.device) -> None:
    """One step on nothing, so that kernels are compiled before anything is timed; it leaves no trace."""
    net.to(device)
    net(torch.zeros(1, 3, 24, 24, device=device)).sum().backward()
    net.zero_grad(set_to_none=True)


def keep_freed_memory() -> None:
    """Lets glibc keep what is freed: giving pages back and getting them again at every step costs a CPU's training."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another libc
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD: 32 MiB, the most it takes
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def _neutral(net: SRNetwork) -> set[str]:
    return {
        f"{name}.{extra}"
        for name, layer in net.named_modules()
        if isinstance(layer, FoldableConv2d)
        for extra in layer.extra
    }
