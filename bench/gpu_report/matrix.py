"""The whole op matrix on the GPU, by pytest in a process of its own, and the smallest calls under compute-sanitizer."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from lightsr_kernels.spec import SPECS

from .store import Context
from .stream import VARIABLE

ROOT = Path(__file__).resolve().parents[2]
TESTS = ("tests/test_ops.py", "tests/test_gpu_report_ops.py", "tests/test_capture.py")
WORKERS = 6  # each has a CUDA context of its own
TOOLS = ("memcheck", "racecheck")
TAIL = 2000  # characters of output that are kept of what went wrong


def matrix(context: Context) -> None:
    """The dtypes, layouts and gradients of tests/test_ops.py; captures, streams and far offsets beside it."""
    record = (context.folder / "matrix.jsonl").resolve()
    record.unlink(missing_ok=True)
    chosen = ("-k", "test_no_pictures and pixel_attention and cpu-reference") if context.dry else ("-k", "cuda or gpu")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "bench.gpu_report.stream", "-p", "no:cacheprovider", *chosen]
    if importlib.util.find_spec("xdist") and not context.dry:
        words += ["-n", str(min(WORKERS, os.cpu_count() or 1))]
    # Not those of a pytest-xdist that runs this very code: the process below is nobody's worker.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment |= {VARIABLE: str(record), "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    code, told = run([*words, *(TESTS[:1] if context.dry else TESTS)], environment, context)
    for key, value in tally(record).items():
        context.put(key, value)
    context.put("exit", code)
    if code not in (0, None):
        context.put("output", told[-TAIL:])
    if code is not None and (code not in (0, 1) or not context.data["outcomes"]):  # 1: some failed, and are told
        raise RuntimeError(f"pytest ended with {code}: {(told.strip().splitlines() or ['no message'])[-1]}")


def tally(record: Path) -> dict[str, Any]:
    """Counts of outcomes, in all and by op and backend, and every failure with its last line."""
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    tests = [json.loads(line) for line in lines if line.endswith("}")]
    by_op: dict[str, Counter[str]] = {}
    for each in tests:
        found = re.search(r"([a-z_]+-cuda-(?:operator|cuda|triton|reference))\b", each["id"])
        by_op.setdefault(found[1] if found else "other", Counter())[each["outcome"]] += 1
    return {
        "outcomes": dict(Counter(each["outcome"] for each in tests)),
        "by op": {name: dict(counts) for name, counts in sorted(by_op.items())},
        "failures": [each for each in tests if each["outcome"] == "failed"],
    }


def sanitizer(context: Context) -> None:
    """Memory errors and races, in one process for each tool: starting one takes longer than the calls."""
    program = shutil.which("compute-sanitizer")
    if program is None or context.dry:
        context.put("why_not", "compute-sanitizer is not on the PATH" if program is None else "a dry run needs none")
        return
    for place, tool in enumerate(TOOLS):
        if not context.reaches(tool, 10):
            continue
        words = [program, "--tool", tool, "--error-exitcode", "86", "--print-limit", "20"]
        words += [sys.executable, "-m", "bench.gpu_report.smallest", *SPECS]
        part = Context("", context.store, context.folder, context.device, context.until)
        part.until = time.monotonic() + context.left() / (len(TOOLS) - place)
        # Each allocation by itself: inside the allocator's large blocks a read beyond one's own end is none of CUDA's.
        code, told = run(words, os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, part)
        done = re.findall(r"^done (\S+)$", told, re.MULTILINE)
        summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", told)
        clean = code == 0
        context.put(tool, {"clean": clean, "exit": code, "done": done, "summary": summary})
        if code is None:
            context.missed += [f"{tool} {name}" for name in SPECS if name not in {each.split("-")[0] for each in done}]
        elif not clean:
            context.data[tool]["output"] = told[-TAIL:]


def run(words: list[str], environment: dict[str, str], context: Context) -> tuple[int | None, str]:
    """Exit code and output of a command; no code where the section's time ran out and it was ended."""
    with subprocess.Popen(
        words,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            told = process.communicate(timeout=max(1.0, context.left()))[0]
            return process.returncode, told
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and all that it has started
            context.missed.append("the rest of " + " ".join(Path(each).name for each in words[:4]))
            return None, process.communicate()[0] or ""
        except BaseException:  # Ctrl-C does not reach a session of its own
            os.killpg(process.pid, signal.SIGKILL)
            raise
