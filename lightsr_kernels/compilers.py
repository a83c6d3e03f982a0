"""Finds the compilers and ninja, and asks them what they are. Whatever is missing raises BuildError, in one line."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path

import torch

from .cache import BuildError

PATIENCE = 15  # seconds a compiler gets to answer a question
TORCH = Path(torch.__file__).parent
SIMD = {"AVX-512": "__AVX512F__", "AVX2": "__AVX2__", "SSE2": "__SSE2__", "NEON": "__ARM_NEON"}  # best first
_WRAPPERS = ("ccache", "sccache", "distcc")  # stand before the compiler in CXX


def cxx() -> tuple[str, ...]:
    """The C++ compiler and its first arguments: CXX if that is set."""
    named = os.environ.get("CXX")
    for name in [named] if named else ["c++", "g++", "clang++"]:
        words = shlex.split(name)
        found = shutil.which(words[0]) if words else None
        if found:
            return (found, *words[1:])
    if named:
        raise BuildError(f"the C++ compiler that CXX names is not there: {named}")
    raise BuildError("there is no C++ compiler; install g++ or clang++, or name one in CXX")


def host_compiler() -> str:
    """The C++ compiler as nvcc wants it: the program alone."""
    words = [word for word in cxx() if Path(word).name not in _WRAPPERS]
    return words[0] if words else cxx()[0]


def nvcc() -> str:
    """nvcc: CUDACXX, else in CUDA_HOME, else on the PATH, else in /usr/local/cuda."""
    named = os.environ.get("CUDACXX")
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if named:
        places, missing = [named], f"the nvcc that CUDACXX names is not there: {named}"
    elif home:
        places, missing = [f"{home}/bin/nvcc"], f"there is no nvcc in CUDA_HOME: {home}"
    else:
        places = ["nvcc", "/usr/local/cuda/bin/nvcc"]
        missing = "there is no nvcc; install the CUDA toolkit, or name its folder in CUDA_HOME"
    found = next((path for path in map(shutil.which, places) if path), None)
    if found is None:
        raise BuildError(missing)
    return found


def ninja() -> str:
    """ninja: on the PATH, else beside this Python, where pip puts it."""
    found = shutil.which("ninja") or shutil.which("ninja", path=str(Path(sys.executable).parent))
    if found is None:
        raise BuildError("there is no ninja; run pip install ninja")
    return found


def python_includes() -> list[str]:
    """The flags for Python.h and pybind11's headers: that package's, else the copy that torch brings."""
    python = Path(sysconfig.get_path("include"))
    if not (python / "Python.h").is_file():
        raise BuildError(f"there is no Python.h in {python}; install the headers of Python")
    try:
        import pybind11

        headers = pybind11.get_include()
    except ImportError:
        headers = str(TORCH / "include")
    return [f"-I{python}", f"-I{headers}"]


@cache
def version(*program: str) -> str:
    """The line of a program's --version that has the version in it."""
    lines = [line.strip() for line in _answer(*program, "--version").splitlines() if line.strip()]
    return next((line for line in lines if "release" in line), lines[0] if lines else "unknown")


@cache
def native_flags(compiler: tuple[str, ...]) -> tuple[str, ...]:
    """What makes this compiler use all that this machine's processor can do; nothing where it cannot be asked to."""
    return next(((flag,) for flag in ("-march=native", "-mcpu=native") if accepts(compiler, flag)), ())


@cache
def accepts(compiler: tuple[str, ...], flag: str) -> bool:
    try:
        _answer(*compiler, flag, "-x", "c++", "-E", os.devnull)
    except BuildError:
        return False
    return True


@cache
def macros(compiler: tuple[str, ...], flags: tuple[str, ...]) -> str:
    """All that the compiler says about itself and the processor it compiles for."""
    return _answer(*compiler, *flags, "-x", "c++", "-dM", "-E", os.devnull)


def simd(macros: str) -> str:
    """The best instruction set among a compiler's macros."""
    return next((level for level, macro in SIMD.items() if f"#define {macro} " in macros), "portable")


def architectures() -> list[str]:
    """The GPU architectures to compile for, as nvcc has them: LIGHTSR_CUDA_ARCHS, else those of the GPUs here."""
    named = os.environ.get("LIGHTSR_CUDA_ARCHS")
    if named:
        words = [word for word in re.split(r"[\s,;]+", named) if word]
        found = [re.fullmatch(r"(?:sm_)?(\d+)\.?(\d)([af]?)", word) for word in words]
        names = {"".join(each.groups()) for each in found if each}
        if not all(found) or not names:
            raise BuildError(f"LIGHTSR_CUDA_ARCHS must be a list such as 8.0,9.0 or sm_80,sm_90a; got {named!r}")
    else:
        names = gpus()
        if not names:
            raise BuildError(
                "there is no CUDA GPU to compile for; name architectures in LIGHTSR_CUDA_ARCHS, as 8.0,9.0"
            )
    # 90a is 90 with the instructions that only that chip has.
    return sorted({"90a" if name == "90" else name for name in names}, key=lambda name: (int(name.rstrip("af")), name))


def gpus() -> set[str]:
    """The compute capabilities of the GPUs that torch sees: 80, 90."""
    count = torch.cuda.device_count() if torch.version.cuda else 0
    return {"{}{}".format(*torch.cuda.get_device_capability(index)) for index in range(count)}


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _answer(*command: str) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"{command[0]} does not work ({str(error).splitlines()[0]})") from error
    return done.stdout or done.stderr
