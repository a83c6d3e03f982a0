"""The doctor must answer on every machine, broken ones first of all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lightsr
import lightsr_kernels
from lightsr.doctor import OPTIONAL, PACKAGES, as_text, doctor

ON_POSIX = pytest.mark.skipif(os.name != "posix", reason="file modes and scripts of Unix")


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_it_says_what_is_here() -> None:
    facts = doctor()
    assert facts["lightsr"] == lightsr.__version__
    assert facts["torch"]["version"] == torch.__version__
    assert facts["torch"]["threads"] == torch.get_num_threads()
    assert facts["devices"][0]["simd"] == torch.backends.cpu.get_cpu_capability()
    assert len(facts["devices"]) == 1 + torch.cuda.device_count() + torch.backends.mps.is_available()
    assert facts["packages"]["pillow"]
    assert json.loads(json.dumps(facts)) == facts


def test_every_op_has_its_backend_and_the_reasons() -> None:
    ops = doctor()["ops"]
    assert ops.keys() == lightsr_kernels.SPECS.keys()
    for name, kinds in ops.items():
        found = lightsr_kernels.explain(name, "cpu")
        assert kinds["cpu"] == {"backend": found.backend, "not": found.reasons}
    text = as_text(doctor())
    assert "on cpu: reference for " in text or "on cpu: cpu for " in text
    assert all(name in text for name in ops)


def test_variables_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTSR_BACKEND", "reference")
    monkeypatch.setenv("LIGHTSR_SOMETHING", "new")
    monkeypatch.setenv("SECRET_TOKEN", "hidden")
    facts = doctor()
    assert facts["environment"]["LIGHTSR_BACKEND"] == "reference"
    assert facts["environment"]["LIGHTSR_SOMETHING"] == "new"
    assert "hidden" not in json.dumps(facts)
    assert "LIGHTSR_BACKEND: reference" in as_text(facts)


def test_a_wrong_backend_is_told_and_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTSR_BACKEND", "fastest")
    facts = doctor()
    assert "got 'fastest'" in facts["ops"]["error"]
    assert "error: ValueError: LIGHTSR_BACKEND" in as_text(facts)


@pytest.mark.parametrize("part", ["torch.cuda.device_count", "torch.backends.cpu.get_cpu_capability"])
def test_a_broken_part_leaves_the_others(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("driver mismatch\nand more")

    monkeypatch.setattr(part, fails)
    facts = doctor()
    assert facts["devices"] == {"error": "RuntimeError: driver mismatch"}
    assert facts["torch"]["version"] == torch.__version__
    assert "driver mismatch" in as_text(facts)


def test_several_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name, major, minor, total_memory = "Some GPU", 9, 0, 80 * 2**30

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    facts = doctor()
    assert facts["devices"][2] == {"name": "cuda:1", "model": "Some GPU", "capability": "9.0", "memory_gib": 80.0}
    assert facts["ops"]["depthwise_conv"].keys() == {"cpu", "cuda"}
    assert "name cuda:1, model Some GPU, capability 9.0, memory_gib 80.0" in as_text(facts)


@ON_POSIX
def test_compilers_are_asked_for_their_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = script(tmp_path / "my++", "echo 'my++ 1.2.3'; echo more")
    (tmp_path / "bin").mkdir()
    nvcc = script(tmp_path / "bin" / "nvcc", "echo NVIDIA; echo 'tools, release 13.0, V13.0.88'")
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    facts = doctor()
    assert facts["tools"]["c++"] == {"path": str(compiler), "version": "my++ 1.2.3"}
    assert facts["tools"]["nvcc"] == {"path": str(nvcc), "version": "tools, release 13.0, V13.0.88"}
    assert f"c++: my++ 1.2.3 ({compiler})" in as_text(facts)


@ON_POSIX
def test_a_compiler_that_hangs_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightsr.doctor.PATIENCE", 0.2)
    monkeypatch.setattr("lightsr_kernels.compilers.PATIENCE", 0.2)
    monkeypatch.setenv("CXX", str(script(tmp_path / "c++", "sleep 20")))
    monkeypatch.setenv("LIGHTSR_CACHE", str(tmp_path))
    (tmp_path / "kernels").mkdir(mode=0o700)
    assert doctor()["tools"]["c++"]["version"] == "unknown (TimeoutExpired)"


def test_nothing_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = doctor()
    assert facts["tools"]["c++"] is None and facts["tools"]["ninja"] is None
    assert "c++: not found" in as_text(facts)


def test_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "deep" / "cache"
    monkeypatch.setenv("LIGHTSR_CACHE", str(folder))
    assert doctor()["cache"] == {"path": str(folder), "exists": False, "writable": True}
    folder.mkdir(parents=True)
    folder.chmod(0o700)
    found = doctor()["cache"]
    assert (found["exists"], found["writable"], found["ours"], found["others_can_write"]) == (True, True, True, False)
    folder.chmod(0o777)
    found = doctor()["cache"]
    if os.name == "posix":
        assert (found["mode"], found["others_can_write"]) == ("0777", True)


def test_a_file_in_the_place_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIGHTSR_CACHE", str(tmp_path / "file" / "cache"))
    found = doctor()["cache"]
    assert (found["exists"], found["writable"]) == (False, False)


def test_the_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record: dict[str, object] = {"simd": "AVX2", "architectures": ["80", "90a"], "date": "2026-01-02", "flags": "-O3"}
    record |= {
        "files": {},
        "compiler": "g++ 12",
        "cuda": None,
        "torch": "2.13.0",
        "path": str(tmp_path / "kernels" / "1"),
    }
    older, missing = record | {"date": "2026-01-01", "simd": "SSE2"}, {"why_not": "not compiled yet"}
    states = {
        "cpu": {"why_not": "there is no C++ compiler"},
        "cuda": {"a": older, "b": record, "c": missing, "d": missing},
    }
    monkeypatch.setattr("lightsr_kernels.build.states", states.__getitem__)
    monkeypatch.setenv("LIGHTSR_CACHE", str(tmp_path))
    facts = doctor()
    wanted = {"simd": "AVX2", "architectures": "80, 90a", "compiler": "g++ 12", "torch": "2.13.0", "date": "2026-01-02"}
    wanted |= {"path": str(tmp_path / "kernels"), "compiled": "a, b", "not compiled yet": "c, d"}
    assert facts["kernels"] == {"cpu": {"why_not": "there is no C++ compiler"}, "cuda": wanted}
    assert "kernels:\n  cpu:\n    why_not: there is no C++ compiler\n  cuda:\n    simd: AVX2\n" in as_text(facts)
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "cpu-1.log").write_text("error")
    assert doctor()["kernels"]["logs of failures"] == str(tmp_path / "kernels" / "cpu-1.log")


def test_the_kernels_are_asked_for_and_not_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTSR_CACHE", str(tmp_path / "cache"))
    assert doctor()["kernels"].keys() == {"cpu", "cuda"}
    assert not (tmp_path / "cache").exists()


def test_nothing_optional_is_needed() -> None:
    absent = [*OPTIONAL, "triton", "tqdm", "PIL", "pyvips", "safetensors", "filelock"]
    code = f"""
import sys
from importlib import metadata
for name in {absent!r}:
    sys.modules[name] = None
real = metadata.version
def version(name):
    if name not in ("torch",):
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.version = version
from lightsr.doctor import as_text, doctor
facts = doctor()
print(as_text(facts))
assert set(facts["optional"].values()) == set(facts["packages"].values()) == {{None}}
assert facts["tools"]["triton"] is None
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(lightsr.__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    for name in (*PACKAGES, *OPTIONAL, "triton"):
        assert f"{name}: not found" in done.stdout
