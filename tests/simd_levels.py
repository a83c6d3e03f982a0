"""The levels of SIMD that the CPU kernels are tested at, each compiled on its own."""

from __future__ import annotations

import itertools
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

CSRC = Path(__file__).resolve().parents[1] / "csrc"
TORCH = Path(torch.__file__).parent

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


_libraries = itertools.count()


@contextmanager
def operators(
    level: str, folder: Path, op: str, native: ModuleType, names: Sequence[str], *more: str
) -> Iterator[None]:
    """The operators `op`_`name` of an op's native.py, its _`name`, replaced by those compiled for one level, with more
    flags, under names of their own."""
    compiler, flags = compiler_for(level)
    suffix = f"{level}_{next(_libraries)}"
    options = ["-std=c++20", "-O1", "-fPIC", "-w", "-DTORCH_TARGET_VERSION=0x020A000000000000", *flags, *more]
    includes: list[str | Path] = [f"-I{CSRC}/{op}", "-isystem", f"{TORCH}/include"]

    def build(source: str) -> Path:
        text = (CSRC / op / f"{source}.cpp").read_text()
        for each in names:
            text = text.replace(f'"{op}_{each}"', f'"{op}_{each}_{suffix}"')
        (folder / f"{source}.cpp").write_text(text)
        out = folder / f"{source}.o"
        subprocess.run([compiler, *options, "-c", folder / f"{source}.cpp", *includes, "-o", out], check=True)
        return out

    with ThreadPoolExecutor() as pool:
        sources = sorted(path.stem for path in (CSRC / op).glob("cpu*.cpp"))
        objects = list(pool.map(build, [*sources, "register"]))
    library = folder / "kernels.so"
    link = [f"-L{TORCH}/lib", f"-Wl,-rpath,{TORCH}/lib", "-ltorch_cpu"]
    subprocess.run([compiler, "-shared", *objects, *link, "-o", library], check=True)
    definitions: Any = torch.library.Library("lightsr", "FRAGMENT")  # type: ignore[no-untyped-call]
    for each in (f"{op}_{name}" for name in names):
        schema = str(getattr(torch.ops.lightsr, each).default._schema).removeprefix("lightsr::")
        definitions.define(schema.replace(each, f"{each}_{suffix}", 1))
    torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    with pytest.MonkeyPatch.context() as patch:
        for each in names:
            patch.setattr(native, f"_{each}", getattr(torch.ops.lightsr, f"{op}_{each}_{suffix}").default)
        yield
    definitions._destroy()
