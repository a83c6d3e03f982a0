"""What is compiled with which flags, as a file for ninja; and running it.

Parts: "cpu", "cuda" and "module". The first two are a library for each op, so that a call compiles what it needs and no
more. They know nothing of Python and call torch through LibTorch's stable ABI alone, so one binary serves every Python
and every torch from 2.10 on. "module" is the pybind11 module that tells what was compiled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sysconfig
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from . import cache, compilers
from .cache import BuildError

SOURCES = {  # compiled, of csrc/<op>; register_cuda.cpp takes register.cpp in
    "cpu": ("cpu*.cpp", "register.cpp"),
    "cuda": ("*.cu", "register_cuda.cpp"),
    "module": ("module.cpp",),  # of csrc itself: no op
}
INCLUDE = re.compile(rb'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)
NAMES = {"cpu": "CPU kernels", "cuda": "CUDA kernels", "module": "build_info module"}
PATIENCE = 900  # seconds a build gets
# The oldest torch whose stable ABI is used: its major version, then its minor one, from the left.
TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"


@dataclass(frozen=True)
class Plan:
    """One library to build. Its commands find `csrc` and `torch` as links beside them, wherever these lie."""

    part: str
    op: str  # its folder in csrc; "" for the module
    csrc: Path
    output: str  # the file name of the library
    commands: list[tuple[str, str]]  # object, command
    link: str
    facts: dict[str, Any]
    generated: dict[str, str] = field(default_factory=dict)  # file name -> text

    @property
    def name(self) -> str:
        """The same name for the same commands, sources, compilers, torch and processor, and for nothing else."""
        facts = [self.output, self.commands, self.link, self.facts, self.generated]
        hashed = compilers.short_hash(json.dumps(facts, sort_keys=True))
        return "-".join(filter(None, [self.part, self.op, hashed]))

    def ninja_file(self) -> str:
        lines = ["rule run", "  command = $command"]
        for name, command in self.commands:
            lines += [f"build {name}: run", f"  command = {command.replace('$', '$$')}"]
        objects = " ".join(name for name, _ in self.commands)
        return "\n".join(
            [*lines, f"build {self.output}: run {objects}", f"  command = {self.link.replace('$', '$$')}", ""]
        )


def csrc_folder() -> Path:
    """The sources: inside the installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "csrc"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "csrc"


def ops_of(part: str, csrc: Path) -> list[str]:
    """The folders of csrc that a part has a library for; BuildError where there are none."""
    found = sorted({path.parent.name for pattern in SOURCES[part] for path in csrc.glob(f"*/{pattern}")})
    if not found:
        raise BuildError(f"this version has no sources for the {NAMES[part]}")
    return found


def sources_of(part: str, op: str, csrc: Path) -> list[Path]:
    """The files of a library that are compiled; BuildError where there are none."""
    found = sorted({path for pattern in SOURCES[part] for path in (csrc / op).glob(pattern)})
    if not found:
        raise BuildError(f"this version has no sources for the {in_words(part, op)}")
    return found


def read_by(part: str, op: str, csrc: Path) -> dict[str, bytes]:
    """All files in csrc that compiling a library reads, by their path there: its sources and what they include."""
    found: dict[str, bytes] = {}
    waiting = sources_of(part, op, csrc)
    while waiting:
        path = waiting.pop()
        name = Path(os.path.relpath(path, csrc)).as_posix()
        if name not in found and path.is_file():  # what is no file of ours is the compiler's to find
            found[name] = path.read_bytes()
            waiting += [path.parent / each.decode() for each in INCLUDE.findall(found[name])]
    return found


def sources_hash(part: str, op: str, csrc: Path) -> str:
    """A hash of all that compiling a library reads in csrc."""
    digest = hashlib.sha256()
    for name, text in sorted(read_by(part, op, csrc).items()):
        digest.update(f"{name}\0{len(text)}\0".encode() + text)
    return digest.hexdigest()


def in_words(part: str, op: str) -> str:
    """What a library is called in a message."""
    return f"{NAMES[part]} of {op}" if op else NAMES[part]


def plan(
    part: str,
    op: str,
    csrc: Path,
    target: Sequence[str] | None = None,
    generated: dict[str, str] | None = None,
) -> Plan:
    """How the library of `op` is built from `csrc`; `target` replaces the flags for this machine's processor."""
    compiler = compilers.cxx()
    version = compilers.version(*compiler)  # asked first: one that hangs is left after one question
    processor = compilers.native_flags(compiler) if target is None else tuple(target)
    macros = compilers.macros(compiler, processor)
    facts: dict[str, Any] = {
        "part": part,
        "op": op,
        "sources": sources_hash(part, op, csrc),
        "torch": torch.__version__,
        "compiler": version,
        "macros": compilers.short_hash(macros),
        "simd": compilers.simd(macros),
        "cuda": None,
        "architectures": [],
    }
    flags = ["-O3", "-std=c++20", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", *processor]
    flags += [TORCH_TARGET, "-Itorch/include"]
    output = f"{part}.so"
    cuda: list[str] = []
    if part == "cuda":
        nvcc, targets = compilers.nvcc(), compilers.architectures()
        facts |= {"cuda": compilers.version(nvcc), "architectures": targets, "nvcc_flags": _nvcc_variables()}
        cuda = [nvcc, "-O3", "-std=c++20", f"-ccbin={compilers.host_compiler()}"]
        cuda += ["-Xcompiler=-fPIC,-fvisibility=hidden", f"--threads={len(targets)}"]
        cuda += [f"-gencode=arch=compute_{name},code=sm_{name}" for name in targets]
    elif part == "module":
        flags = ["-O1", "-std=c++17", "-fPIC", "-fvisibility=hidden", *processor, "-I.", *compilers.python_includes()]
        facts["python"] = sysconfig.get_config_var("SOABI")
        output = f"build_info{sysconfig.get_config_var('EXT_SUFFIX')}"
    facts["flags"] = " ".join(cuda[1:] if cuda else flags)
    commands = []
    for path in sources_of(part, op, csrc):
        source = path.relative_to(csrc).as_posix()
        name = source.replace("/", "_") + ".o"
        words = cuda if path.suffix == ".cu" else [*compiler, *flags]
        commands.append((name, shlex.join([*words, "-c", f"csrc/{source}", "-o", name])))
    link = shlex.join([*_linker(part, compiler), *(name for name, _ in commands), "-o", output])
    if part == "cuda" and not _torch_has_cuda():
        # A stand-in with the one function that is taken from it; the library loads the real one where it runs.
        generated = {"stand_in.cpp": 'extern "C" int aoti_torch_get_current_cuda_stream() { return 1; }\n'}
        words = ["-shared", "-fPIC", "-Wl,-soname,libtorch_cuda.so", "stand_in.cpp", "-o", "libtorch_cuda.so"]
        commands.append(("libtorch_cuda.so", shlex.join([*compiler, *words])))
    return Plan(part, op, csrc, output, commands, link, facts, generated or {})


def run(plan: Plan, work: Path, log: Path) -> dict[str, Any]:
    """Builds in the folder `work`, where the library alone is left, and gives the facts for its record.

    Where that fails, the compilers' whole output is in `log`, below the line that BuildError says.
    """
    began = time.monotonic()
    for name, text in {"build.ninja": plan.ninja_file(), **plan.generated}.items():
        (work / name).write_text(text, encoding="utf-8")
    for name, folder in {"csrc": plan.csrc.resolve(), "torch": compilers.TORCH}.items():
        (work / name).symlink_to(folder, target_is_directory=True)
    code, output = _ninja(work)
    if code != 0 or not (work / plan.output).is_file():
        found = re.search(r"^.*([Ee]rror: |fatal +: |No space left|undefined reference).*$", output, re.MULTILINE)
        what = found[0].strip() if found else f"ninja gave {code}"
        line = f"compiling the {in_words(plan.part, plan.op)} failed ({what[:200]})"
        try:
            log.unlink(missing_ok=True)
            log.write_text(f"{line}; see {log}\n{output}\n", encoding="utf-8")
        except OSError as error:
            raise BuildError(f"{line}; a log could not be kept ({cache.reason(error)})") from error
        raise BuildError(f"{line}; see {log}")
    for each in work.iterdir():
        if each.name != plan.output:
            each.unlink()
    now = float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    date = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    return {**plan.facts, "library": plan.output, "date": date, "seconds": round(time.monotonic() - began, 1)}


def _nvcc_variables() -> list[str]:
    """What the user's variables add to every call of nvcc."""
    return [os.environ.get(name, "") for name in ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS")]


def jobs() -> int:
    """How many compilers run at once: MAX_JOBS, else one for each core this process may use."""
    named = os.environ.get("MAX_JOBS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(named) if named.isdigit() and int(named) else cores


def _ninja(work: Path) -> tuple[int, str]:
    # How many threads compile says nothing of the result, so it is no flag of the plan.
    nvcc_flags = f"{os.environ.get('NVCC_APPEND_FLAGS', '')} --split-compile={jobs()}".strip()
    # A group of its own, so that the compilers go with ninja when this build is given up.
    with subprocess.Popen(
        [compilers.ninja(), "-v", "-j", str(jobs())],
        cwd=work,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": ".", "LC_ALL": "C", "NVCC_APPEND_FLAGS": nvcc_flags},
        start_new_session=True,
    ) as process:
        try:
            output = process.communicate(timeout=PATIENCE)[0]
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                return 124, f"error: not done after {PATIENCE} s"
            raise
    return process.returncode, output.decode(errors="replace")


def _linker(part: str, compiler: Sequence[str]) -> list[str]:
    """The link command; torch is loaded before the library is, so no path of it is written into the binary."""
    if part == "module":
        return [*compiler, "-shared"]
    words = ["-shared", "-Ltorch/lib"]
    if part == "cpu":
        return [*compiler, *words, "-Wl,--no-as-needed,-z,defs", "-ltorch_cpu"]
    # nvcc knows where its runtime is, and takes the static one, which gets along with the one torch brings.
    words += [f"-ccbin={compilers.host_compiler()}", "-Xlinker=--no-as-needed", "-ltorch_cpu", "-ltorch_cuda"]
    return [compilers.nvcc(), *words, "-Xlinker=-z,defs", *([] if _torch_has_cuda() else ["-L."])]


def _torch_has_cuda() -> bool:
    return (compilers.TORCH / "lib/libtorch_cuda.so").exists()
