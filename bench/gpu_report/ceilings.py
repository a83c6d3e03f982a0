"""The machine's own limits: bytes a second by copying, and operations a second of each kind of unit."""

from __future__ import annotations

import ctypes
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch

from lightsr_kernels import compilers
from lightsr_kernels.cache import BuildError

from . import clock
from .store import Context

SOURCE = Path(__file__).with_name("ceilings.cu")
TIMES = 5


def ceilings(context: Context) -> None:
    device = context.device
    context.put("copy, bytes/s", copying(device))
    context.put("bfloat16 GEMM, FLOP/s", multiplying(device))
    try:
        library = compiled() if device == "cuda" else None
    except (BuildError, OSError, subprocess.SubprocessError) as error:
        context.put("why_not", f"the multiply-adds could not be compiled: {error}"[:500])
        return
    if library is None:
        context.put("why_not", "there is no GPU for the multiply-adds")
        return
    for name, function in (("FFMA, FLOP/s", library.ffma_rate), ("bfloat16 mma.sync, FLOP/s", library.mma_sync_rate)):
        function.restype = ctypes.c_double
        found = [float(function()) for _ in range(TIMES)]
        if min(found) <= 0:
            context.put("why_not", f"{name}: CUDA error {-min(found):.0f}")
        else:
            context.put(name, figures(found))


def copying(device: str) -> dict[str, Any]:
    count = (2 << 30 if device == "cuda" else 4 << 20) // 4  # bytes far more than any cache holds
    source, target = torch.randn(count, device=device), torch.empty(count, device=device)
    taken = clock.interleaved({"copy": [lambda: target.copy_(source)]}, device, 0.5)["copy"]
    return figures([2 * 4 * count / each for each in taken])


def multiplying(device: str) -> dict[str, Any]:
    side = 8192 if device == "cuda" else 128
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    taken = clock.interleaved({"gemm": [lambda: torch.mm(a, b)]}, device, 0.5)["gemm"]
    return figures([2 * side**3 / each for each in taken])


def figures(rates: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(rates), "least": min(rates), "most": max(rates)}


def compiled() -> ctypes.CDLL:
    major, minor = torch.cuda.get_device_capability()
    with tempfile.TemporaryDirectory(prefix="lightsr-gpu-report-") as folder:
        target = Path(folder) / "ceilings.so"
        subprocess.run(command(f"{major}{minor}", target), capture_output=True, check=True, timeout=120)
        return ctypes.CDLL(str(target))


def command(capability: str, target: Path) -> list[str]:
    code = f"-gencode=arch=compute_{capability},code=sm_{capability}"
    words = [compilers.nvcc(), "-O3", "-std=c++17", "-shared", "-Xcompiler=-fPIC", code]
    return [*words, f"-ccbin={compilers.host_compiler()}", str(SOURCE), "-o", str(target)]


def rate(found: dict[str, Any], name: str) -> float | None:
    """The median of a ceiling, where it was measured."""
    value = found.get(name, {}).get("median")
    return None if value is None else float(value)


def floor(found: dict[str, Any], dtype: str, size: int, operations: int) -> float | None:
    """The least seconds a call can take: its bytes by the copy, its operations by the fastest unit for the dtype."""
    copy = rate(found, "copy, bytes/s")
    names = ["FFMA, FLOP/s"] if dtype == "float32" else ["bfloat16 mma.sync, FLOP/s", "bfloat16 GEMM, FLOP/s"]
    rates = [each for name in names if (each := rate(found, name)) is not None]
    if copy is None or not size:
        return None
    return max([size / copy, *([operations / max(rates)] if rates else [])])
