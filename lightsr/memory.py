"""How much memory is free, and how much a network needs for a picture."""

from __future__ import annotations

from pathlib import Path

import torch

# Peak bytes per input pixel at x4, measured on the CPU (docs/upscale.md says how); x2 and x3 need less.
BYTES_PER_PIXEL = {"bicubic": 800, "lmswn": 4300, "mafdn": 3900, "hasn": 4700, "idsa_net": 6200}
_UNKNOWN_NETWORK = 10000
_NO_FIGURE = 4 << 30  # bytes assumed free where the system does not say
_SHARE = 0.75  # of what is free; the rest is for the estimate being off, and for others


def bytes_per_pixel(name: str) -> int:
    """Peak bytes a network needs per input pixel, its output included."""
    return BYTES_PER_PIXEL.get(name, _UNKNOWN_NETWORK)


def usable_memory(device: torch.device) -> int:
    """Bytes that may be taken on a device without risking that the system ends the process."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        # What torch keeps for itself and does not use is free to us, though not to the driver.
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free * _SHARE)
    return int(_free_on_cpu() * _SHARE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out; on the CPU, torch says so in words alone."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    words = ("not enough memory", "DefaultCPUAllocator", "can't allocate memory", "out of memory")
    return isinstance(error, RuntimeError) and any(each in str(error) for each in words)


def _free_on_cpu() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return _NO_FIGURE
    # A container may have less than the machine.
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        return min(free, max(0, limit - int((group / "memory.current").read_text(encoding="ascii"))))
    except (OSError, ValueError):  # no such file, or "max"
        return free
