"""A small stand-in for csrc/, and processes that build it, for the tests of the build."""

from __future__ import annotations

import ctypes
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightsr_kernels import build, cache

NEEDS_COMPILER = pytest.mark.skipif(
    build._why_not_compiled("cpu", "depthwise_conv") is not None, reason="no C++ compiler or no ninja"
)

SOURCE = """
#include "../common/number.h"
extern "C" __attribute__((visibility("default"))) int answer() { return NUMBER; }
"""


def small_csrc(folder: Path, number: int = 42) -> Path:
    """A csrc folder whose CPU kernels, of one op, compile in no time and give a number."""
    (folder / "common").mkdir(parents=True)
    (folder / "op").mkdir()
    (folder / "common" / "number.h").write_text(f"#define NUMBER {number}\n")
    (folder / "op" / "cpu.cpp").write_text(SOURCE)
    return folder


def answer(csrc: Path) -> int:
    """What the compiled stand-in says; builds it where it is not built."""
    place = build.built("cpu", "op", csrc)
    return int(ctypes.CDLL(str(place / cache.record(place)["library"])).answer())


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def counting_compiler(folder: Path, before: str = "") -> tuple[Path, Path]:
    """A compiler that writes a line for each file it compiles, and the file of these lines."""
    count = folder / "compiled"
    count.touch()
    real = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    note = f'case " $* " in *" -c "*) echo . >> {count}; {before or ":"};; esac'
    return script(folder / "counting++", f'{note}\nexec {real} "$@"'), count


def process(work: Callable[..., Any], *arguments: Any) -> Any:
    """A process that has torch loaded, because it is a copy of this one, and has begun `work`."""
    started = multiprocessing.get_context("fork").Process(target=work, args=arguments, daemon=True)
    started.start()
    return started
