"""The levels of SIMD that the CPU kernels are tested at, each compiled on its own."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

# Flags for the compiler, and what the processor must have. At one level all results go past the caches.
LEVELS = {
    "portable": ([], []),
    "avx2": (["-mavx2", "-mfma", "-mf16c", "-DLIGHTSR_PAST_CACHE"], ["avx2", "fma", "f16c"]),
    "avx512": (["-march=native"], ["avx512bw", "avx512vl", "avx512dq"]),
}


def compiler_for(level: str) -> tuple[str, list[str]]:
    """The compiler and its flags for a level; skips the test where this machine lacks either."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    flags, needed = LEVELS[level]
    has = Path("/proc/cpuinfo").read_text().split() if platform.machine() == "x86_64" else []
    if any(flag not in has for flag in needed):
        pytest.skip(f"this machine has no {level}")
    return compiler, flags
