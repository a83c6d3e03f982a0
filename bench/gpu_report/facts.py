"""The device and the versions; and how long it takes to have kernels where nothing is compiled yet."""

from __future__ import annotations

import atexit
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

import torch

from lightsr_kernels import build_plan, compilers
from lightsr_kernels.cache import BuildError

from .store import Context

PACKAGES = ("torch", "triton", "numpy", "pytest", "pytest-xdist", "matplotlib", "ninja", "filelock")
COLD = """
import sys, time
import lightsr_kernels.build as build
start = time.monotonic()
build.load(sys.argv[1], sys.argv[2])
print(time.monotonic() - start)
"""


def device(context: Context) -> None:
    versions: dict[str, Any] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    context.put("versions", versions | {"python": platform.python_version(), "cuda": torch.version.cuda})
    context.put("cudnn", torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    context.put("platform", platform.platform())
    context.put("cores", os.cpu_count())
    context.put("commit", said("git", "rev-parse", "--short", "HEAD"))
    context.put("nvcc", nvcc())
    context.put("compute-sanitizer", shutil.which("compute-sanitizer"))
    if context.dry:
        context.put("name", "a dry run on the CPU: its figures mean nothing")
        return
    found = torch.cuda.get_device_properties(0)
    context.put("name", found.name)
    context.put("capability", f"{found.major}.{found.minor}")
    context.put("multiprocessors", found.multi_processor_count)
    context.put("memory", found.total_memory)
    context.put("L2 cache", found.L2_cache_size)
    asked = "driver_version,clocks.max.sm,clocks.max.mem,clocks.sm,power.limit,mig.mode.current"
    context.put("nvidia-smi", said("nvidia-smi", f"--query-gpu={asked}", "--format=csv"))


def nvcc() -> str | None:
    try:
        return compilers.version(compilers.nvcc())
    except BuildError:
        return None


def said(*words: str) -> str | None:
    """What a program prints; None where it is not there or fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def build(context: Context) -> None:
    """Both parts into an empty cache folder, which the other sections then use."""
    if context.dry:
        context.put("cuda", {"why_not": "a dry run compiles nothing"})
        return
    cache = tempfile.mkdtemp(prefix="lightsr-gpu-report-")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["LIGHTSR_CACHE"] = cache
    for part in ("cuda", "cpu"):
        if not context.reaches(part, 5):
            continue
        if part == "cpu" and "seconds" not in context.data["cuda"]:
            break
        context.put(part, cold(part, max(5.0, context.left())))
        if context.data[part].get("late"):
            context.missed.append(part)
    without_compiler(context.data)


def cold(part: str, limit: float) -> dict[str, Any]:
    """Seconds until all libraries of a part are there, a process for each, and of each of them."""
    start = time.monotonic()

    def one(op: str) -> float | str:
        words = [sys.executable, "-c", COLD, part, op]
        left = max(1.0, start + limit - time.monotonic())
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=left)
        if done.returncode == 0:
            return float(done.stdout.split()[-1])
        return (done.stderr.strip().splitlines() or ["no message"])[-1][:500]

    try:
        ops = build_plan.ops_of(part, build_plan.csrc_folder())
        with ThreadPoolExecutor(build_plan.jobs()) as pool:
            found = dict(zip(ops, pool.map(one, ops), strict=True))
    except BuildError as error:
        return {"why_not": str(error)}
    except subprocess.TimeoutExpired:
        return {"why_not": f"not done after {time.monotonic() - start:.0f} s", "late": True}
    failed = [each for each in found.values() if isinstance(each, str)]
    return {"why_not": failed[0]} if failed else {"seconds": time.monotonic() - start, "each": found}


def without_compiler(found: dict[str, Any]) -> None:
    """Where the CUDA kernels could not be had, the other sections are not to wait for a compiler, each anew."""
    if "seconds" not in found.get("cuda", {}):
        os.environ["LIGHTSR_JIT"] = "off"  # Triton alone
