"""The build: what is compiled once and kept, what makes it be compiled anew, and how it fails."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from build_helpers import NEEDS_COMPILER, answer, counting_compiler, script, small_csrc

import lightsr.folders
from lightsr_kernels import build, build_plan, cache, compilers, prebuilt
from lightsr_kernels.build import BuildError

VARIABLES = ("CXX", "CUDACXX", "CUDA_HOME", "CUDA_PATH", "LIGHTSR_JIT", "LIGHTSR_CUDA_ARCHS", "MAX_JOBS")


@pytest.fixture(autouse=True)
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no answers remembered."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LIGHTSR_CACHE", str(tmp_path / "cache"))
    for name in ("_loaded", "_failed", "_reasons"):
        monkeypatch.setattr(build, name, {})
    return tmp_path / "cache"


@pytest.fixture
def csrc(tmp_path: Path) -> Path:
    return small_csrc(tmp_path / "csrc")


def logs(folder: Path) -> list[Path]:
    return list(folder.glob("kernels/*.log"))


@NEEDS_COMPILER
def test_compiled_once_and_kept(
    csrc: Path, cold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    compiler, count = counting_compiler(tmp_path)
    monkeypatch.setenv("CXX", str(compiler))
    assert [answer(csrc) for _ in range(3)] == [42] * 3
    assert count.read_text() == ".\n"
    said = capfd.readouterr().err
    assert said.startswith("lightsr_kernels: compiling the CPU kernels of op once, about ") and said.count("\n") == 1
    place = build.built("cpu", "op", csrc)
    assert str(place) in said
    assert sorted(path.name for path in place.iterdir()) == ["cpu.so", "record.json"]
    assert {path.suffix for path in place.parent.iterdir()} == {"", ".lock"}
    for folder in (cold, place.parent, place):
        assert folder.stat().st_mode & 0o777 == 0o700


@NEEDS_COMPILER
def test_a_changed_header_or_source_compiles_anew(csrc: Path) -> None:
    assert answer(csrc) == 42
    (csrc / "common" / "number.h").write_text("#define NUMBER 43\n")
    assert answer(csrc) == 43
    (csrc / "op" / "cpu.cpp").write_text((csrc / "op" / "cpu.cpp").read_text().replace("NUMBER", "NUMBER + 1"))
    assert answer(csrc) == 44
    (csrc / "op" / "README.md").write_text("not compiled")
    assert len({build.built("cpu", "op", csrc) for _ in range(2)}) == 1


@NEEDS_COMPILER
def test_an_op_is_compiled_anew_for_its_own_files_alone(csrc: Path) -> None:
    shutil.copytree(csrc / "op", csrc / "other")
    (csrc / "op" / "more.h").write_text("")
    own = csrc / "op" / "cpu.cpp"
    own.write_text('#include "more.h"\n' + own.read_text())
    before = {op: build_plan.plan("cpu", op, csrc).name for op in ("op", "other")}
    (csrc / "op" / "more.h").write_text("// changed")
    after = {op: build_plan.plan("cpu", op, csrc).name for op in ("op", "other")}
    assert after["op"] != before["op"] and after["other"] == before["other"]
    (csrc / "common" / "number.h").write_text("#define NUMBER 43\n")
    assert not {build_plan.plan("cpu", op, csrc).name for op in ("op", "other")} & {*before.values(), *after.values()}


@NEEDS_COMPILER
@pytest.mark.parametrize("op", build_plan.ops_of("cpu", build_plan.csrc_folder()))
def test_every_file_that_a_compiler_reads_is_known(op: str) -> None:
    csrc = build_plan.csrc_folder()
    found = set()
    for source in build_plan.sources_of("cpu", op, csrc):
        command = [
            *compilers.cxx(),
            "-std=c++20",
            "-MM",
            f"-I{compilers.TORCH}/include",
            *compilers.native_flags(compilers.cxx()),
        ]
        told = subprocess.run([*command, str(source)], capture_output=True, text=True, check=True).stdout
        words = told.replace("\\\n", " ").partition(":")[2].split()
        found |= {os.path.relpath(word, csrc) for word in words if Path(word).resolve().is_relative_to(csrc.resolve())}
    assert found and found <= build_plan.read_by("cpu", op, csrc).keys()


@NEEDS_COMPILER
@pytest.mark.parametrize("what", ["torch", "compiler", "flags", "processor"])
def test_what_the_name_hangs_on(csrc: Path, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build_plan.plan("cpu", "op", csrc)
    assert build_plan.plan("cpu", "op", csrc).name == before.name
    match what:
        case "torch":
            monkeypatch.setattr(torch, "__version__", "2.99.0")
        case "compiler":
            real = compilers.cxx()[0]
            other = script(tmp_path / "c++", f'[ "$1" = --version ] && echo other 1.0 || exec {real} "$@"')
            monkeypatch.setenv("CXX", str(other))
        case "flags":
            monkeypatch.setattr(build_plan, "TORCH_TARGET", "-DTORCH_TARGET_VERSION=0x020b000000000000")
        case "processor":
            told = compilers.macros(compilers.cxx(), compilers.native_flags(compilers.cxx()))
            monkeypatch.setattr(compilers, "macros", lambda *_: f"{told}#define __AVX1024__ 1\n")
    assert build_plan.plan("cpu", "op", csrc).name != before.name


@NEEDS_COMPILER
def test_the_same_elsewhere_has_the_same_name(csrc: Path, tmp_path: Path) -> None:
    assert build_plan.plan("cpu", "op", csrc).name == build_plan.plan("cpu", "op", small_csrc(tmp_path / "b $ c")).name


@NEEDS_COMPILER
def test_odd_folder_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTSR_CACHE", str(tmp_path / "a cache's $HOME: é"))
    assert answer(small_csrc(tmp_path / "the $csrc | of: 'ä'")) == 42


@NEEDS_COMPILER
@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "no record", "bad record", "a file"])
def test_a_damaged_library_is_built_again(csrc: Path, damage: str) -> None:
    place = build.built("cpu", "op", csrc)
    library, record = place / "cpu.so", place / cache.RECORD
    good = library.read_bytes()
    match damage:
        case "cut":
            library.write_bytes(good[:100])
        case "changed":
            library.write_bytes(good[:-1] + b"x")
        case "gone":
            library.unlink()
        case "no record":
            record.unlink()
        case "bad record":
            record.write_text('{"files": {}}')
        case "a file":
            shutil.rmtree(place)
            place.write_text("")
    assert not cache.whole(place)
    assert answer(csrc) == 42
    assert cache.whole(place) and library.read_bytes() == good
    assert sorted(path.suffix for path in place.parent.iterdir()) == ["", ".lock"]


@NEEDS_COMPILER
def test_the_record_tells_what_was_compiled(csrc: Path) -> None:
    place = build.built("cpu", "op", csrc)
    found = cache.record(place)
    assert found["torch"] == torch.__version__
    assert found["compiler"] == compilers.version(*compilers.cxx())
    assert "-DTORCH_TARGET_VERSION=0x020a000000000000" in found["flags"] and "-fvisibility=hidden" in found["flags"]
    assert found["files"]["cpu.so"][0] == (place / "cpu.so").stat().st_size


@NEEDS_COMPILER
def test_a_compiler_that_cannot_be_told_the_processor(csrc: Path, tmp_path: Path, monkeypatch: Any) -> None:
    real = compilers.cxx()[0]
    monkeypatch.setenv(
        "CXX", str(script(tmp_path / "old++", f'case "$*" in *=native*) exit 1;; esac\nexec {real} "$@"'))
    )
    assert answer(csrc) == 42
    assert "native" not in build_plan.plan("cpu", "op", csrc).facts["flags"]


@NEEDS_COMPILER
def test_a_source_with_an_error(csrc: Path, cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = (csrc / "op" / "cpu.cpp").read_text()
    (csrc / "op" / "cpu.cpp").write_text(good + "nonsense;")
    with pytest.raises(
        BuildError, match=r"compiling the CPU kernels of op failed \(.*error: .*nonsense.*\); see "
    ) as caught:
        build.built("cpu", "op", csrc)
    assert "\n" not in str(caught.value)
    (log,) = logs(cold)
    assert str(caught.value).endswith(f"see {log}")
    assert "cpu.cpp" in log.read_text() and "-O3" in log.read_text()
    assert not list(cold.glob("kernels/*.building-*"))
    # What helps, helps at once; and the log of the failure goes when the same build works.
    monkeypatch.setattr(compilers, "version", lambda *_: "as before")
    with pytest.raises(BuildError):
        build.built("cpu", "op", csrc)
    (csrc / "op" / "cpu.cpp").write_text(good)
    assert answer(csrc) == 42


@NEEDS_COMPILER
def test_a_compiler_that_hangs_is_ended(csrc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, _ = counting_compiler(tmp_path, before="sleep 60")
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(build_plan, "PATIENCE", 0.5)
    with pytest.raises(BuildError, match=r"not done after 0.5 s"):
        build.built("cpu", "op", csrc)


@NEEDS_COMPILER
def test_another_builder_that_hangs(csrc: Path, cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    place = build._place_of(build_plan.plan("cpu", "op", csrc))
    monkeypatch.setattr(cache, "PATIENCE", 0.2)
    with FileLock(f"{place}.lock"), pytest.raises(BuildError, match=r"another process has held .*\.lock for 0 s"):
        build.built("cpu", "op", csrc)


@NEEDS_COMPILER
@pytest.mark.parametrize("call", ["mkdtemp", "fsync", "rename"])
def test_a_full_disk(csrc: Path, cold: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    where = {"mkdtemp": tempfile, "fsync": os, "rename": Path}[call]
    with monkeypatch.context() as patch:
        patch.setattr(where, call, full)
        with pytest.raises(BuildError, match="No space left on device") as caught:
            build.built("cpu", "op", csrc)
    assert "\n" not in str(caught.value)
    assert not list(cold.glob("kernels/*.building-*"))
    assert answer(csrc) == 42


def test_no_compiler_no_ninja(csrc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert (
        build._why_not_compiled("cpu", "depthwise_conv")
        == "the C++ compiler that CXX names is not there: no-such-compiler"
    )
    with pytest.raises(BuildError, match="no-such-compiler"):
        build.built("cpu", "op", csrc)
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no C++ compiler" in str(build._why_not_compiled("cpu", "depthwise_conv"))
    script(tmp_path / "c++", "exit 1")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert "there is no ninja" in str(build._why_not_compiled("cpu", "depthwise_conv"))
    script(tmp_path / "ninja", "exit 1")
    assert build._why_not_compiled("cpu", "depthwise_conv") is None
    with pytest.raises(BuildError, match="does not work"):
        build.built("cpu", "op", csrc)


def test_compiling_switched_off(csrc: Path, cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value, words in {"off": "LIGHTSR_JIT=off", "no": "must be on or off; got 'no'"}.items():
        monkeypatch.setenv("LIGHTSR_JIT", value)
        assert words in str(build._why_not_compiled("cpu", "depthwise_conv"))
        with pytest.raises(BuildError, match=words):
            build.built("cpu", "op", csrc)
    assert not cold.exists()


def test_a_failure_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prebuilt, "FOLDER", tmp_path / "none")
    monkeypatch.setattr(build_plan, "csrc_folder", lambda: tmp_path / "csrc")
    assert build.why_not("cpu", "op") == "this version has no sources for the CPU kernels of op"
    small_csrc(tmp_path / "csrc")
    monkeypatch.setattr(build, "_reasons", {})
    calls = []

    def fails(part: str, op: str) -> Path:
        calls.append((part, op))
        raise BuildError("it went wrong")

    monkeypatch.setattr(build, "built", fails)
    monkeypatch.setattr(build, "_why_not_compiled", lambda part, op: None)
    for _ in range(3):
        with pytest.raises(BuildError, match="it went wrong"):
            build.load("cpu", "op")
    assert calls == [("cpu", "op")] and build.why_not("cpu", "op") == "it went wrong"
    with pytest.raises(BuildError, match="it went wrong"):  # nor is the next op's library tried with that compiler
        build.load("cpu", "another")
    assert len(calls) == 1


def test_cuda_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert build.why_not("cuda", "depthwise_conv") == "this torch is built without CUDA"
    with pytest.raises(BuildError, match="without CUDA"):
        build.load("cuda", "depthwise_conv")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(build, "_reasons", {})
    assert build.why_not("cuda", "depthwise_conv") == "torch finds no CUDA GPU"
    with pytest.raises(ValueError, match="part must be one of cpu, cuda; got 'gpu'"):
        build.why_not("gpu", "op")


def test_where_nvcc_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    nvcc = str(script(tmp_path / "bin" / "nvcc", "echo 'tools, release 13.0, V13.0.88'"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert compilers.nvcc() == nvcc
    assert compilers.version(nvcc) == "tools, release 13.0, V13.0.88"
    monkeypatch.setenv("CUDACXX", "/no/nvcc")
    with pytest.raises(BuildError, match="CUDACXX names is not there: /no/nvcc"):
        compilers.nvcc()
    monkeypatch.delenv("CUDACXX")
    monkeypatch.setenv("CUDA_HOME", "/no")
    with pytest.raises(BuildError, match="no nvcc in CUDA_HOME: /no"):
        compilers.nvcc()


@pytest.mark.parametrize(
    ("named", "found"),
    [("8.0", ["80"]), ("9.0", ["90a"]), ("sm_90a;8.0,sm_80", ["80", "90a"]), ("10.0 12.0a", ["100", "120a"])],
)
def test_architectures(named: str, found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTSR_CUDA_ARCHS", named)
    assert compilers.architectures() == found


def test_architectures_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTSR_CUDA_ARCHS", "hopper")
    with pytest.raises(BuildError, match=r"LIGHTSR_CUDA_ARCHS must be a list .* got 'hopper'"):
        compilers.architectures()
    monkeypatch.delenv("LIGHTSR_CUDA_ARCHS")
    monkeypatch.setattr(compilers, "gpus", lambda: {"90", "86"})
    assert compilers.architectures() == ["86", "90a"]
    monkeypatch.setattr(compilers, "gpus", set)
    with pytest.raises(BuildError, match="no CUDA GPU to compile for; name architectures"):
        compilers.architectures()


def test_max_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_JOBS", "3")
    assert build_plan.jobs() == 3
    monkeypatch.setenv("MAX_JOBS", "")
    assert build_plan.jobs() == len(os.sched_getaffinity(0))


def test_both_packages_mean_the_same_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "LIGHTSR_CACHE": "~/x",
        "XDG_CACHE_HOME": str(tmp_path),
        "HOME": str(tmp_path / "home"),
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("HOME", "LIGHTSR_CACHE", "XDG_CACHE_HOME"):
        assert cache.cache_folder() == lightsr.folders.cache_folder()
        monkeypatch.delenv(name)


@NEEDS_COMPILER
def test_build_info(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = build.build_info()
    assert info["torch"] == torch.__version__
    assert {"cpu", "cuda", "module", "version"} <= info.keys()
    if "why_not" not in info["module"]:  # Python's headers may be missing
        assert info["module"]["simd"] in (*compilers.SIMD, "portable")
    assert json.loads(json.dumps(info)) == info
    monkeypatch.setenv("LIGHTSR_JIT", "off")
    off = build.build_info()
    assert "LIGHTSR_JIT=off" in off["module"]["why_not"]


@NEEDS_COMPILER
def test_the_state_of_a_library(csrc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prebuilt, "FOLDER", tmp_path / "none")
    monkeypatch.setattr(build_plan, "csrc_folder", lambda: csrc)
    assert "not compiled yet" in build.state("cpu", "op")["why_not"]
    place = build.built("cpu", "op")
    assert build.states("cpu") == {"op": {**cache.record(place), "path": str(place)}}
    assert build.states("cuda") == {"why_not": "this version has no sources for the CUDA kernels"}
