"""Many processes at once on a cold cache, and builders that are killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from build_helpers import NEEDS_COMPILER, answer, counting_compiler, process, small_csrc

from lightsr_kernels import build, build_plan, cache
from lightsr_kernels.build import BuildError

pytestmark = [NEEDS_COMPILER, pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork")]
LIMIT = 60  # seconds until a process is said to hang


@pytest.fixture
def csrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("LIGHTSR_JIT", raising=False)
    monkeypatch.setenv("LIGHTSR_CACHE", str(tmp_path / "cache"))
    return small_csrc(tmp_path / "csrc")


def build_and_write(csrc: Path, out: Path) -> None:
    out.write_text(str(answer(csrc)))


def leftovers(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "kernels").glob("*.building-*"))


def test_eight_processes_compile_once(csrc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, count = counting_compiler(tmp_path)
    monkeypatch.setenv("CXX", str(compiler))
    for turn in range(20):
        outs = [tmp_path / f"{turn}-{index}" for index in range(8)]
        started = [process(build_and_write, csrc, out) for out in outs]
        for each in started:
            each.join(LIMIT)
            assert each.exitcode == 0
        assert [out.read_text() for out in outs] == ["42"] * 8
        assert count.read_text() == ".\n" * (turn + 1)
        assert not leftovers(tmp_path)
        shutil.rmtree(tmp_path / "cache")


def test_eight_processes_and_the_real_kernels(tmp_path: Path) -> None:
    code = """
import hashlib, torch, lightsr_kernels
x = torch.arange(2 * 8 * 20 * 30.0).view(2, 8, 20, 30).cos()
with lightsr_kernels.backend("cpu"):
    out = lightsr_kernels.depthwise_conv(x, x[:1, :, :9, :9].reshape(8, 1, 9, 9), None)
print(hashlib.sha256(out.numpy().tobytes()).hexdigest())
"""
    environment = {**os.environ, "LIGHTSR_CACHE": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("LIGHTSR_JIT", None)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    told = [each.communicate(timeout=900) for each in started]
    assert [each.returncode for each in started] == [0] * 8, told
    assert len({out for out, _ in told}) == 1
    assert "".join(errors for _, errors in told).count("compiling the CPU kernels of depthwise_conv once") == 1


def test_eight_processes_and_a_broken_source(csrc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, count = counting_compiler(tmp_path, before=f"until [ -e {tmp_path}/go ]; do sleep 0.05; done")
    monkeypatch.setenv("CXX", str(compiler))
    (csrc / "op" / "cpu.cpp").write_text("nonsense;")
    real_lock = cache._lock

    def lock(path: Path) -> Any:
        (tmp_path / f"waiting-{os.getpid()}").touch()
        return real_lock(path)

    def fail(out: Path) -> None:
        try:
            build.built("cpu", "op", csrc)
        except BuildError as error:
            out.write_text(str(error))

    monkeypatch.setattr(cache, "_lock", lock)
    outs = [tmp_path / str(index) for index in range(8)]
    started = [process(fail, out) for out in outs]
    while len(list(tmp_path.glob("waiting-*"))) < 8:
        time.sleep(0.01)
    (tmp_path / "go").touch()
    for each in started:
        each.join(LIMIT)
    assert len({out.read_text() for out in outs}) == 1
    assert "nonsense" in outs[0].read_text()
    assert count.read_text() == ".\n"  # who waited did not try the same again


def test_a_killed_builder_leaves_nothing_in_the_way(
    csrc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler, _ = counting_compiler(tmp_path, before="sleep 0.1")  # most of the moments fall into the build
    monkeypatch.setenv("CXX", str(compiler))
    began = time.monotonic()
    assert answer(csrc) == 42
    usual = time.monotonic() - began
    moments = random.Random(0)
    killed_while_building = 0
    for turn in range(20):
        shutil.rmtree(tmp_path / "cache")
        victim = process(build_and_write, csrc, tmp_path / f"killed-{turn}")
        time.sleep(moments.uniform(0, usual))
        os.kill(victim.pid, signal.SIGKILL)
        victim.join(LIMIT)
        killed_while_building += bool(leftovers(tmp_path))
        out = tmp_path / f"after-{turn}"
        after = process(build_and_write, csrc, out)
        after.join(LIMIT)
        assert after.exitcode == 0
        assert out.read_text() == "42"
        assert not leftovers(tmp_path)
    assert killed_while_building  # else the moments were all too early or too late to show anything


def test_waiting_processes_survive_the_death_of_the_builder(
    csrc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler, _ = counting_compiler(tmp_path, before=f"[ -e {tmp_path}/quick ] || sleep 20")
    monkeypatch.setenv("CXX", str(compiler))
    victim = process(build_and_write, csrc, tmp_path / "killed")
    while not leftovers(tmp_path):
        time.sleep(0.01)
    outs = [tmp_path / str(index) for index in range(3)]
    waiting = [process(build_and_write, csrc, out) for out in outs]
    time.sleep(0.3)
    (tmp_path / "quick").touch()
    os.kill(victim.pid, signal.SIGKILL)
    for each in waiting:
        each.join(LIMIT)
    assert [out.read_text() for out in outs] == ["42"] * 3


def test_a_child_forked_during_a_build_can_build(csrc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, _ = counting_compiler(tmp_path, before="sleep 1")
    monkeypatch.setenv("CXX", str(compiler))
    entered = threading.Event()

    def in_a_thread() -> None:
        with build._guard:
            entered.set()
            answer(csrc)

    def in_the_child(out: Path) -> None:
        with build._guard:
            build_and_write(csrc, out)

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    assert entered.wait(LIMIT)
    time.sleep(0.3)
    child = process(in_the_child, tmp_path / "child")
    child.join(LIMIT)
    thread.join(LIMIT)
    assert child.exitcode == 0 and (tmp_path / "child").read_text() == "42"


def test_the_plan_is_the_same_in_every_process(csrc: Path, tmp_path: Path) -> None:
    def write(out: Path) -> None:
        out.write_text(build_plan.plan("cpu", "op", csrc).name)

    outs = [tmp_path / str(index) for index in range(2)]
    for out in outs:
        process(write, out).join(LIMIT)
    assert outs[0].read_text() == outs[1].read_text() == build_plan.plan("cpu", "op", csrc).name
