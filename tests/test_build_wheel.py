"""Kernels compiled ahead of time: into the wheel, for any Python and torch, the best level this machine has first."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from build_helpers import NEEDS_COMPILER, small_csrc

from lightsr_kernels import build, build_plan, cache, compilers, prebuilt

ROOT = Path(__file__).resolve().parents[1]
NEEDS_SETUPTOOLS = pytest.mark.skipif(
    find_spec("setuptools") is None or find_spec("setuptools.command.bdist_wheel") is None, reason="setuptools >= 70.1"
)
ON_X86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="levels of x86-64")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The CPU part of a small csrc, compiled ahead of time where the package looks for it."""
    csrc = small_csrc(tmp_path / "csrc")
    monkeypatch.setattr(build_plan, "csrc_folder", lambda: csrc)
    monkeypatch.setattr(prebuilt, "FOLDER", tmp_path / "lib")
    for name in ("_loaded", "_failed", "_reasons"):
        monkeypatch.setattr(build, name, {})
    prebuilt._sources_hash.cache_clear()
    prebuilt.make("cpu", tmp_path / "lib")
    yield tmp_path / "lib"
    prebuilt._sources_hash.cache_clear()


def found() -> str | None:
    place = prebuilt.find("cpu", "op")
    return None if place is None else place.parent.name


def change(place: Path, **facts: Any) -> None:
    cache.write_record(place, cache.record(place) | facts)


@ON_X86
@NEEDS_COMPILER
def test_the_best_level_of_this_machine(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {path.name for path in made.iterdir()} == {"cpu-x86-64-v4", "cpu-x86-64-v3", "cpu"}
    levels = {path.name: cache.record(path / "op")["simd"] for path in made.iterdir()}
    assert levels == {"cpu-x86-64-v4": "AVX-512", "cpu-x86-64-v3": "AVX2", "cpu": "SSE2"}
    v4, v3 = prebuilt.LEVELS.values()
    for flags, best in [(v4 | v3, "cpu-x86-64-v4"), (v3, "cpu-x86-64-v3"), (v4, "cpu"), (set(), "cpu")]:
        monkeypatch.setattr(prebuilt, "processor_flags", lambda flags=flags: frozenset(flags))
        assert found() == best


@NEEDS_COMPILER
def test_what_does_not_fit_is_passed_over(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build.why_not("cpu", "op") is None
    for level in prebuilt.LEVELS:
        shutil.rmtree(made / f"cpu-{level}", ignore_errors=True)
    assert found() == "cpu"
    change(made / "cpu" / "op", machine="riscv64")
    assert found() is None
    change(made / "cpu" / "op", machine=platform.machine())
    assert found() == "cpu"
    (build_plan.csrc_folder() / "common" / "number.h").write_text("#define NUMBER 7\n")
    prebuilt._sources_hash.cache_clear()
    assert found() is None  # the binary is older than the sources beside it
    (build_plan.csrc_folder() / "common" / "number.h").write_text("#define NUMBER 42\n")
    prebuilt._sources_hash.cache_clear()
    assert found() == "cpu"
    (made / "cpu" / "op" / "cpu.so").write_bytes(b"cut")
    assert found() is None


@NEEDS_COMPILER
def test_it_is_taken_where_nothing_can_be_compiled(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTSR_JIT", "off")
    assert build.why_not("cpu", "op") is None
    build.load("cpu", "op")
    assert Path(build.state("cpu", "op")["path"]).parents[1] == made
    shutil.rmtree(made)
    monkeypatch.setattr(build, "_loaded", {})
    monkeypatch.setattr(build, "_reasons", {})
    assert "LIGHTSR_JIT=off" in str(build.why_not("cpu", "op"))


@NEEDS_COMPILER
def test_one_that_cannot_be_loaded(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in made.glob("*/op"):
        (place / "cpu.so").write_bytes(b"for another system")
        change(place)
    monkeypatch.setenv("LIGHTSR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LIGHTSR_JIT", raising=False)
    build.load("cpu", "op")  # compiled here instead
    assert Path(build.state("cpu", "op")["path"]).is_relative_to(tmp_path / "cache")
    monkeypatch.setattr(build, "_loaded", {})
    monkeypatch.setenv("LIGHTSR_JIT", "off")
    with pytest.raises(build.BuildError, match=r"cannot be loaded .*(invalid ELF header|too short)"):
        build.load("cpu", "op")


def test_gpus_must_be_among_the_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prebuilt, "_sources_hash", lambda part, op: "1")
    facts = {"part": "cuda", "op": "op", "machine": platform.machine(), "sources": "1", "architectures": ["80", "90a"]}
    for gpus, fits in [({"90"}, True), ({"80", "90"}, True), ({"86"}, False), ({"90", "100"}, False)]:
        monkeypatch.setattr(compilers, "gpus", lambda gpus=gpus: gpus)
        assert prebuilt._fits(facts) == fits


def checkout(folder: Path) -> Path:
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("lightsr", "lightsr_kernels"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "lib"))
    small_csrc(folder / "csrc")
    return folder


def wheel(folder: Path, ahead: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "-d", str(folder / "wheels")]
    environment = {**os.environ, "LIGHTSR_AOT": ahead, "PYTHONPATH": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@NEEDS_COMPILER
@NEEDS_SETUPTOOLS
def test_the_wheel(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    done = wheel(folder, "cpu")
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "wheels").iterdir()
    assert path.name.endswith(f"-py3-none-linux_{platform.machine()}.whl")
    zipfile.ZipFile(path).extractall(folder / "installed")
    code = """
import json
from lightsr_kernels import build
build.load("cpu", "op")
print(json.dumps(build.state("cpu", "op")))
"""
    environment = {**os.environ, "LIGHTSR_JIT": "off", "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder / "installed",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["path"].startswith(str(folder / "installed" / "lightsr_kernels" / "lib"))
    # The next wheel, without LIGHTSR_AOT, has nothing of it and fits every system.
    done = wheel(folder, "")
    assert done.returncode == 0, done.stderr
    plain = next(each for each in (folder / "wheels").iterdir() if each != path)
    assert plain.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(plain).namelist() if "/lib/" in name]


@NEEDS_SETUPTOOLS
def test_a_wheel_of_something_else(tmp_path: Path) -> None:
    done = wheel(checkout(tmp_path), "gpu")
    assert done.returncode != 0
    assert "LIGHTSR_AOT must be cpu, cuda or cpu,cuda; got 'gpu'" in done.stderr
