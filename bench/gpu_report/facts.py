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
from importlib import metadata
from typing import Any

import torch

from lightsr_kernels import compilers
from lightsr_kernels.cache import BuildError

from .store import Context

PACKAGES = ("torch", "triton", "numpy", "pytest", "pytest-xdist", "matplotlib", "ninja", "filelock")
COLD = """
import sys, time
import lightsr_kernels.build as build
start = time.monotonic()
build.load(sys.argv[1])
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
        start = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, "-c", COLD, part],
                capture_output=True,
                text=True,
                check=False,
                timeout=max(5.0, context.left()),
            )
        except subprocess.TimeoutExpired:
            context.put(part, {"why_not": f"not done after {time.monotonic() - start:.0f} s"})
            context.missed.append(part)
            continue
        if done.returncode == 0:
            context.put(part, {"seconds": float(done.stdout.split()[-1]), "with python": time.monotonic() - start})
        else:
            context.put(part, {"why_not": (done.stderr.strip().splitlines() or ["no message"])[-1][:500]})
    if "seconds" not in context.data.get("cuda", {}):
        os.environ["LIGHTSR_JIT"] = "off"  # Triton alone: the other sections are not to wait for a compiler, each anew
