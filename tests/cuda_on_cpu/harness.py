"""Device code compiled by the host's compiler and run on the CPU: see fibres.cpp for how, main.cpp for the protocol."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FLAGS = [
    *("-std=c++17", "-O1", "-g1", "-fno-omit-frame-pointer", "-ffp-contract=off"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    *("-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-function", "-DLIGHTSR_ON_CPU"),
]


class KernelError(Exception):
    """The device code did what it must not; the message holds the sanitizer's or the scheduler's report."""


class Result:
    """Stands among a call's arguments for a tensor the kernel writes."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, offset: int = 0) -> None:
        self.shape, self.dtype, self.offset = tuple(shape), dtype, offset


class At:
    """A tensor whose first byte lies `offset` bytes past a multiple of 256."""

    def __init__(self, tensor: Tensor, offset: int) -> None:
        self.tensor, self.offset = tensor, offset


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel; shared memory in bytes a block."""

    blocks: int
    threads: int
    shared: int
    kernel: str


Argument = int | float | None | Tensor | At | Result


@functools.cache
def why_not() -> str | None:
    """Why the harness cannot run here, or None."""
    compiler = shutil.which(_compiler())
    if compiler is None:
        return "no C++ compiler"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text("int main() { return 0; }\n")
        command = [compiler, *FLAGS, str(source), "-o", str(source.with_suffix(""))]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return f"{compiler} has no address sanitizer"
        if subprocess.run([str(source.with_suffix(""))], capture_output=True, check=False).returncode != 0:
            return "a program under the address sanitizer does not start"
    return None


def build(*sources: str, flags: tuple[str, ...] = ()) -> Path:
    """The program of the harness with these entries (paths from the root of the project), built unless it is there."""
    folder = Path(tempfile.gettempdir()) / f"lightsr-cuda-on-cpu-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to someone else")
    units = [HERE / "main.cpp", HERE / "fibres.cpp", *(ROOT / source for source in sources)]
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # processes side by side build once
        objects = [
            str(_object(folder, unit, () if unit.name in ("main.cpp", "fibres.cpp") else flags)) for unit in units
        ]
        program = folder / f"{_digest(*objects)}.program"
        if not program.exists():
            _compile([_compiler(), *FLAGS, *objects], program)
    return program


def _object(folder: Path, unit: Path, flags: tuple[str, ...]) -> Path:
    command = [_compiler(), *FLAGS, *flags, f"-I{HERE}", "-x", "c++", str(unit)]
    text = subprocess.run([*command, "-E", "-P"], capture_output=True, text=True, check=False)
    if text.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{text.stderr[:8000]}")
    built = folder / f"{_digest(*command, text.stdout)}.o"
    if not built.exists():
        _compile([*command, "-c"], built)
    return built


def _compiler() -> str:
    return os.environ.get("CXX", "g++")


def _digest(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:24]


def _compile(command: list[str], result: Path) -> None:
    with tempfile.TemporaryDirectory(dir=result.parent) as scratch:
        made = Path(scratch) / result.name
        done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True, check=False)
        if done.returncode != 0 or "warning:" in done.stderr:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr[:8000]}")
        made.replace(result)


class Harness:
    """A running program; after a KernelError the next call starts a fresh one."""

    def __init__(self, *sources: str, flags: tuple[str, ...] = ()) -> None:
        self._program = build(*sources, flags=flags)
        self._process: subprocess.Popen[bytes] | None = None

    def call(self, name: str, *arguments: Argument, seed: int = 0) -> list[Tensor]:
        """Runs an entry and gives the tensors of the Results among its arguments; they began as NaN."""
        try:
            status, _ = self._ask("call", name, arguments, seed)
            found = []
            for each in arguments:
                if isinstance(each, Result):
                    raw = bytearray(self._from.read(int(self._from.readline())))
                    found.append(torch.frombuffer(raw, dtype=each.dtype).reshape(each.shape))
        except BrokenPipeError:
            raise self._stopped() from None
        if status != 0:
            raise KernelError(f"{name}: status {status}")
        return found

    def plan(self, name: str, *arguments: Argument) -> list[Launch]:
        """What an entry would launch; its tensors need not have memory, Results may stand for all of them."""
        try:
            status, launches = self._ask("plan", name, arguments, 0)
            lines = [self._from.readline().decode().strip().split(" ", 3) for _ in range(launches)]
        except BrokenPipeError:
            raise self._stopped() from None
        if status != 0:
            raise KernelError(f"{name}: status {status}")
        return [Launch(int(blocks), int(threads), int(shared), kernel) for blocks, threads, shared, kernel in lines]

    def _ask(self, verb: str, name: str, arguments: Sequence[Argument], seed: int) -> tuple[int, int]:
        if self._process is None:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115
            environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0"}
            self._process = subprocess.Popen(
                [str(self._program)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=environment,
            )
            self._to, self._from = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        words = (_encode(each, verb == "call") for each in arguments)
        self._to.write(f"{verb} {name} {seed} {len(arguments)}\n".encode() + b"".join(words))
        self._to.flush()
        answer = self._from.readline().split()
        if len(answer) != 3:
            raise BrokenPipeError
        return int(answer[1]), int(answer[2])

    def _stopped(self) -> KernelError:
        self._finish()
        self._errors.seek(0)
        report = self._errors.read().decode(errors="replace")
        self._errors.close()
        return KernelError(report)

    def close(self) -> None:
        if self._process is not None:
            self._finish()
            self._errors.close()

    def _finish(self) -> None:
        for pipe in (self._to, self._from):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        cast(subprocess.Popen[bytes], self._process).wait()
        self._process = None


def _encode(argument: Argument, contents: bool) -> bytes:
    if argument is None:
        return b"n\n"
    if isinstance(argument, int):
        return f"i {int(argument)}\n".encode()
    if isinstance(argument, float):
        return f"f {argument!r}\n".encode()
    if isinstance(argument, Result):
        size = torch.Size(argument.shape).numel() * argument.dtype.itemsize
        return f"o {size} {argument.offset}\n".encode()
    tensor, offset = (argument.tensor, argument.offset) if isinstance(argument, At) else (argument, 0)
    raw = tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"t {len(raw)} {offset}\n".encode() + (raw if contents else b"")
