"""The command line as a process of its own: signals, pipes, and how quickly it starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import lightsr


def process(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    settings: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 120} | options
    folder = Path(lightsr.__file__).parents[1]
    return subprocess.run([sys.executable, "-c", code], check=False, cwd=folder, **settings)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_its_code_and_one_line_and_leaves_no_file(number: signal.Signals, tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
import lightsr.info
from lightsr.files import replacing
def write(*args):
    with replacing(Path({str(tmp_path / "result")!r})) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), {int(number)})
lightsr.info.info = write
from lightsr.cli import main
sys.exit(main(["info"]))
"""
    done = process(code)
    assert (done.returncode, done.stderr) == (128 + number, "lightsr: stopped\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="pipes of Unix")
def test_a_reader_that_leaves_is_no_error() -> None:
    code = """
import sys
import lightsr.info
lightsr.info.info = lambda *args: None
lightsr.info.as_text = lambda facts: "line\\n" * 100000
from lightsr.cli import main
sys.exit(main(["info"]))
"""
    reader, writer = os.pipe()
    os.close(reader)
    done = process(code, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_as_a_module() -> None:
    done = process("import runpy, sys; sys.argv[1:] = ['--version']; runpy.run_module('lightsr', run_name='__main__')")
    assert (done.returncode, done.stdout) == (0, f"lightsr {lightsr.__version__}\n")


def quickest(code: str, limit: float) -> float:
    """The least that `code` prints, in seconds of processor time, which other processes hardly lengthen."""
    least = float("inf")
    for _ in range(6):
        done = process(code)
        assert done.returncode == 0, done.stderr
        least = min(least, float(done.stdout.split()[-1]))
        if least < limit:
            break
        time.sleep(0.2)
    return least


def test_help_comes_at_once_without_torch() -> None:
    code = """
import contextlib, sys, time
with contextlib.suppress(SystemExit):
    from lightsr.cli import main
    main(["upscale", "--help"])
heavy = {"torch", "numpy", "PIL", "pyvips", "tqdm"} & set(sys.modules)
assert not heavy, heavy
print(time.process_time())
"""
    assert quickest(code, 0.3) < 0.3


@pytest.mark.parametrize("package", ["lightsr", "lightsr_kernels"])
def test_imports_add_little_to_torch_s(package: str) -> None:
    code = f"""
import time
import torch
start = time.process_time()
import {package}
print(time.process_time() - start)
"""
    assert quickest(code, 0.3) < 0.3


def test_importing_the_verbs_brings_nothing_heavy() -> None:
    code = """
import sys
import lightsr.upscale, lightsr.evaluate, lightsr.export, lightsr.info, lightsr.doctor, lightsr.checkpoint
heavy = {"PIL", "pyvips", "matplotlib", "onnx", "onnxruntime", "onnxscript", "tqdm", "triton", "spandrel"}
print(sorted(heavy & set(sys.modules)))
"""
    plain = process("import sys, torch; print(sorted({'triton', 'tqdm'} & set(sys.modules)))").stdout
    assert process(code).stdout == plain
