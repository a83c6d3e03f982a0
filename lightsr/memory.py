"""How much memory is free, and how much a network needs for a picture."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import torch

from lightsr_kernels.memory import idle_memory

# Peak bytes per input pixel at x4, measured on the CPU (docs/upscale.md says how); x2 and x3 need less.
BYTES_PER_PIXEL = {"bicubic": 800, "lmswn": 4300, "mafdn": 3900, "hasn": 4700, "idsa_net": 6200}
_UNKNOWN_NETWORK = 10000
_NO_FIGURE = 4 << 30  # bytes assumed free where the system does not say
GROUPS = Path("/sys/fs/cgroup")  # the tree of control groups, version 2
OWN_GROUP = Path("/proc/self/cgroup")
_SHARE = 0.75  # of what is free; the rest is for the estimate being off, and for others


def bytes_per_pixel(name: str) -> int:
    """Peak bytes a network needs per input pixel, its output included."""
    return BYTES_PER_PIXEL.get(name, _UNKNOWN_NETWORK)


def usable_memory(device: torch.device, held: int = 0) -> int:
    """Bytes that may be taken on a device without risking that the system ends the process.

    `held` is what the caller has on the CPU and gives back for something else.
    """
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        # What torch keeps for itself and does not use is free to us, though not to the driver.
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free * _SHARE)
    return int((_free_on_cpu() + idle_memory() + held) * _SHARE)  # what is kept for coming results is free to these


def shown(amount: float) -> str:
    """A number of bytes as messages tell it: 2.5 GB, or 31 MB below one GB.

    Example:
        >>> from lightsr.memory import shown
        >>> shown(2.5e9), shown(31e6)
        ('2.5 GB', '31 MB')
    """
    return f"{amount / 1e9:.1f} GB" if amount >= 1e9 else f"{amount / 1e6:.3g} MB"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out; on the CPU, torch says so in words alone."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    words = ("not enough memory", "DefaultCPUAllocator", "can't allocate memory", "out of memory")
    return isinstance(error, RuntimeError) and any(each in str(error) for each in words)


def _free_on_cpu() -> float:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return _NO_FIGURE
    # A container, or a service, may have less than the machine.
    return min([free, *(_free_in_group(group) for group in _own_groups())])


def _own_groups() -> list[Path]:
    """The process's control group and those around it; the outermost alone when it is not told, as in version 1."""
    try:
        lines = OWN_GROUP.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        lines = []
    told = next((PurePosixPath(line[3:]) for line in lines if line.startswith("0::/")), PurePosixPath("/"))
    if ".." in told.parts:  # outside of what a container shows
        told = PurePosixPath("/")
    return [GROUPS / each.relative_to("/") for each in (told, *told.parents)]


def _free_in_group(group: Path) -> float:
    """Bytes left below a control group's limit; infinity when it has none."""
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such file, or "max"
        return float("inf")
    # Files that were read or written stay in memory until somebody needs it; a long-running container is full of them.
    try:
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        counts = dict(line.split(maxsplit=1) for line in lines)
        used -= sum(int(counts.get(name, 0)) for name in ("inactive_file", "active_file"))
    except (OSError, ValueError):
        pass
    return min(limit, max(0, limit - used))
