"""`lightsr doctor`: what this machine has, and which kernels will run on it and why."""

from __future__ import annotations

import os
import platform
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from . import __version__
from .folders import cache_folder

PACKAGES = ("filelock", "ninja", "numpy", "pillow", "pybind11", "pyvips", "safetensors", "tqdm")
OPTIONAL = ("onnx", "onnxruntime", "onnxscript", "matplotlib", "spandrel")
VARIABLES = (
    "CUDACXX",
    "CUDA_HOME",
    "CUDA_VISIBLE_DEVICES",
    "CXX",
    "MAX_JOBS",
    "OMP_NUM_THREADS",
    "TRITON_INTERPRET",
)
KERNEL_FACTS = ("simd", "architectures", "compiler", "cuda", "torch", "date", "path")
PATIENCE = 5  # seconds a compiler gets to tell its version


def doctor() -> dict[str, Any]:
    """Facts about this machine for a bug report, ready for JSON. It never raises: a part that fails tells its error.

    Returns:
        lightsr, python, platform and torch versions; devices; tools (C++ compiler, nvcc, ninja, Triton); the cache
        folder; which kernels are compiled, or why not; packages; environment variables; and for every op and kind of
        device the backend that would run, with the reason against each faster one.

    Example:
        >>> from lightsr.doctor import doctor
        >>> doctor()["ops"]["depthwise_conv"]["cpu"]["backend"] in ("cpu", "reference")
        True
    """
    return {
        "lightsr": __version__,
        "python": f"{platform.python_version()} at {sys.executable}",
        "platform": platform.platform(),
        "torch": _or_error(_torch),
        "devices": _or_error(_devices),
        "tools": {
            "c++": _or_error(_compiler),
            "nvcc": _or_error(_nvcc),
            "ninja": _or_error(lambda: _program(shutil.which("ninja"))),
            "triton": _or_error(lambda: _version("triton")),
        },
        "cache": _or_error(_cache),
        "kernels": _or_error(_kernels),
        "packages": {name: _version(name) for name in PACKAGES},
        "optional": {name: _version(name) for name in OPTIONAL},
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith("LIGHTSR_") or name in VARIABLES
        },
        "ops": _or_error(_ops),
    }


def _or_error(part: Callable[[], Any]) -> Any:
    """The part, or what went wrong with it: a doctor that dies of the disease is of no use."""
    try:
        return part()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}


def _torch() -> dict[str, Any]:
    import torch

    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "threads": torch.get_num_threads(),
    }


def _devices() -> list[dict[str, Any]]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpu = {"name": "cpu", "model": cpu_model(), "cores": cores, "simd": torch.backends.cpu.get_cpu_capability()}
    devices: list[dict[str, Any]] = [cpu]
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        devices.append(
            {
                "name": f"cuda:{index}",
                "model": found.name,
                "capability": f"{found.major}.{found.minor}",
                "memory_gib": round(found.total_memory / 2**30, 1),
            }
        )
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "model": platform.machine()})
    return devices


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def _compiler() -> dict[str, str] | None:
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        path = shutil.which(name) if name else None
        if path:
            return _program(path)
    path = shutil.which("cl")
    return {"path": path, "version": ""} if path else None


def _nvcc() -> dict[str, str] | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    found = shutil.which("nvcc", path=str(Path(home) / "bin")) if home else None
    return _program(found or shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin"))


def _program(path: str | None) -> dict[str, str] | None:
    """A program's path and the line of its --version that has the version in it."""
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=PATIENCE, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"path": path, "version": f"unknown ({type(error).__name__})"}
    lines = [line.strip() for line in (done.stdout or done.stderr).splitlines() if line.strip()]
    release = next((line for line in lines if "release" in line), lines[0] if lines else "unknown")
    return {"path": path, "version": release}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cache() -> dict[str, Any]:
    folder = cache_folder()
    facts: dict[str, Any] = {"path": str(folder), "exists": folder.is_dir()}
    if not folder.is_dir():
        nearest = next(each for each in folder.absolute().parents if each.exists())
        return facts | {"writable": nearest.is_dir() and os.access(nearest, os.W_OK)}
    status = folder.stat()
    mode = stat.S_IMODE(status.st_mode)
    return facts | {
        "writable": os.access(folder, os.W_OK),
        "owner": _owner(status.st_uid),
        "ours": not hasattr(os, "getuid") or status.st_uid == os.getuid(),
        "mode": f"{mode:04o}",
        "others_can_write": os.name == "posix" and bool(mode & (stat.S_IWGRP | stat.S_IWOTH)),
    }


def _kernels() -> dict[str, Any]:
    from lightsr_kernels import build

    table: dict[str, Any] = {}
    for part in build.PARTS:
        table[part] = _kernels_of(build.states(part))
    failures = ", ".join(sorted(map(str, (cache_folder() / "kernels").glob("*.log"))))
    return table | ({"logs of failures": failures} if failures else {})


def _kernels_of(states: dict[str, Any]) -> dict[str, Any]:
    """What the libraries of a part have in common, once, then which are compiled; or why there are none."""
    reasons = {op: each["why_not"] for op, each in states.items() if op != "why_not" and "why_not" in each}
    compiled = {op: each for op, each in states.items() if op not in reasons and op != "why_not"}
    if not compiled:
        return {"why_not": states.get("why_not") or "; ".join(dict.fromkeys(reasons.values()))}
    newest = max(compiled.values(), key=lambda each: str(each["date"]))
    facts = newest | {"architectures": ", ".join(newest["architectures"]), "path": str(Path(newest["path"]).parent)}
    table = {name: facts[name] for name in KERNEL_FACTS if facts[name]}
    table["compiled"] = ", ".join(compiled)
    for reason in dict.fromkeys(reasons.values()):
        table[reason] = ", ".join(op for op, each in reasons.items() if each == reason)
    return table


def _owner(user: int) -> str:
    try:
        import pwd

        return pwd.getpwuid(user).pw_name
    except (ImportError, KeyError):  # Windows, or a user of another machine on a shared disk
        return str(user)


def _ops() -> dict[str, Any]:
    import torch

    from lightsr_kernels import SPECS, explain

    kinds = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    table: dict[str, Any] = {}
    for name in SPECS:
        explanations = {kind: explain(name, kind) for kind in kinds}
        table[name] = {kind: {"backend": each.backend, "not": each.reasons} for kind, each in explanations.items()}
    return table


def as_text(facts: dict[str, Any]) -> str:
    """The facts as indented lines for the terminal."""
    plain = {name: value for name, value in facts.items() if name != "ops"}
    return "\n".join([*_lines(plain, ""), "ops:", *_op_lines(facts["ops"])])


def _lines(facts: dict[str, Any], indent: str) -> list[str]:
    lines: list[str] = []
    for name, value in facts.items():
        if isinstance(value, list):
            lines.append(f"{indent}{name}:")
            lines += [f"{indent}  {', '.join(f'{key} {_word(each)}' for key, each in row.items())}" for row in value]
        elif isinstance(value, dict) and set(value) == {"path", "version"}:
            lines.append(f"{indent}{name}: {value['version']} ({value['path']})")
        elif isinstance(value, dict) and value:
            lines += [f"{indent}{name}:", *_lines(value, f"{indent}  ")]
        else:
            lines.append(f"{indent}{name}: {_word(value)}")
    return lines


def _op_lines(ops: dict[str, Any]) -> list[str]:
    """Ops that take the same backend for the same reasons stand together."""
    if "error" in ops:
        return [f"  error: {ops['error']}"]
    groups: dict[tuple[str, ...], list[str]] = {}
    for op, kinds in ops.items():
        for kind, choice in kinds.items():
            reasons = [f"    not {name}: {reason}" for name, reason in choice["not"].items()]
            groups.setdefault((f"  on {kind}: {choice['backend']}", *reasons), []).append(op)
    return [
        line for (first, *reasons), names in groups.items() for line in (f"{first} for {', '.join(names)}", *reasons)
    ]


def _word(value: Any) -> str:
    if value is None:
        return "not found"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if value or value == 0 else "none"
