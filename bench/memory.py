"""How much memory a call takes: the high-water mark of the process's resident set, which counts native code too."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lightsr_kernels import release_memory

STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def keep_freed() -> None:
    """Has glibc keep what calls free, where it otherwise hands some of it back, by how its heap happens to lie.

    A call whose result lies in new pages takes up to three times as long, and which one that is would be chance.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 32 << 20)  # the most it takes


def peak_of(work: Callable[[], Any], device: str) -> tuple[Any, int | None]:
    """What `work` returns, and by how many bytes it filled memory at most while it ran (None where none can tell).

    Memory that earlier work has freed is given back to the system first, so that using it again counts. Code that
    is loaded on first use counts too: call `work` on something small before.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        return work(), torch.cuda.max_memory_allocated() - held
    before = _reset()
    result = work()
    return result, None if before is None else max(0, _resident("VmHWM") - before)


def _reset() -> int | None:
    """Sets the mark to what is resident now, and returns that in bytes."""
    if not sys.platform.startswith("linux"):
        return None
    release_memory()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        REFERENCES.write_text("5")
    except OSError:  # some containers forbid it
        return None
    return _resident("VmRSS")


def _resident(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
