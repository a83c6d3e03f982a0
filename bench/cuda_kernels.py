"""Compiles every CUDA kernel for the architectures it is meant for and tabulates registers, spills and shared memory.

`python -m bench.cuda_kernels` writes bench/results/cuda_kernels.md; it needs nvcc, not a GPU.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from lightsr_kernels import compilers

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "bench" / "results" / "cuda_kernels.md"
ARCHITECTURES = ("sm_80", "sm_90a")
SHAPE = (1, 64, 360, 640)


@dataclass(frozen=True)
class Kernel:
    """What ptxas says of one kernel; bytes a thread, shared memory a block, without what a launch adds."""

    name: str
    registers: int
    spilled: int
    stack: int
    shared: int


def sources() -> dict[str, Path]:
    """The CUDA source of every op that has one."""
    return {path.parent.name: path for path in sorted((ROOT / "csrc").glob("*/cuda.cu"))}


def parse(report: str) -> list[Kernel]:
    """The kernels in what `nvcc -Xptxas -v` prints."""
    kernels = []
    for part in report.split("Compiling entry function ")[1:]:
        name = re.match(r"'(\S+)'", part)
        spills = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        used = re.search(r"Used (\d+) registers", part)
        if name is None or spills is None or used is None:
            raise ValueError(f"cannot read what ptxas says: {part[:500]}")
        shared = re.search(r"(\d+) bytes smem", part)
        stack, stores, loads = map(int, spills.groups())
        kernels.append(Kernel(name[1], int(used[1]), stores + loads, stack, int(shared[1]) if shared else 0))
    names = _readable([each.name for each in kernels])
    return sorted(
        (
            Kernel(name, each.registers, each.spilled, each.stack, each.shared)
            for name, each in zip(names, kernels, strict=True)
        ),
        key=lambda kernel: kernel.name,
    )


def _readable(names: list[str]) -> list[str]:
    program = shutil.which("c++filt")
    if program is None:
        return names
    done = subprocess.run([program, "-p"], input="\n".join(names), capture_output=True, text=True, check=True)
    return [_short(name) for name in done.stdout.splitlines()]


def compile_kernels(source: Path, architecture: str) -> list[Kernel]:
    """Compiles one file for one architecture and reads what ptxas says of its kernels."""
    with tempfile.TemporaryDirectory() as folder:
        target = f"-gencode=arch={architecture.replace('sm', 'compute')},code={architecture}"
        words = ["-O3", "-std=c++20", f"-ccbin={compilers.host_compiler()}", target, "-Xptxas=-v", "-c", str(source)]
        command = [compilers.nvcc(), *words, "-o", str(Path(folder) / "object.o")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[:4000]}")
    return parse(done.stderr)


def compile_all() -> dict[str, dict[str, list[Kernel]]]:
    """By op and architecture; two compilations at a time."""
    jobs = [(op, source, architecture) for op, source in sources().items() for architecture in ARCHITECTURES]
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda job: compile_kernels(job[1], job[2]), jobs)
        result: dict[str, dict[str, list[Kernel]]] = {}
        for (op, _, architecture), kernels in zip(jobs, found, strict=True):
            result.setdefault(op, {})[architecture] = kernels
    return result


@dataclass(frozen=True)
class Launched:
    """One launch of a bench case, and how many of its blocks a multiprocessor of an H200 holds."""

    case: str
    kernel: str
    blocks: int
    threads: int
    shared: int

    def resident(self, registers: int) -> int:
        a_warp = -(-registers // 8) * 8 * 32
        return min(65536 // (a_warp * (self.threads // 32)), 227 * 1024 // (self.shared + 1024), 2048 // self.threads)


def launches() -> list[Launched]:
    """What depthwise_conv launches at SHAPE, as the harness that runs kernels on the CPU sees it; empty without one."""
    sys.path.insert(0, str(ROOT / "tests"))
    from cuda_on_cpu.harness import Harness, Result, why_not  # type: ignore[import-not-found]

    if why_not() is not None:
        return []
    harness = Harness("tests/cuda_on_cpu/entry_depthwise_conv.cpp", "csrc/depthwise_conv/cuda.cu")
    n, c, h, w = SHAPE
    found = []
    for number, dtype in ((0, torch.float32), (3, torch.bfloat16)):
        x = Result(SHAPE, dtype)
        for last in (False, True):
            for k in (3, 7, 11, 13, 17, 21, 31):
                sizes = (n, c, h, w, k, k, 1, 1)
                case = f"{str(dtype).removeprefix('torch.')}, {'channels_last' if last else 'NCHW'}, k = {k}"
                forward = (number, last, 0, *sizes, 0, 0.0, x, x, None, None, None, x)
                backward = (number, last, *sizes, x, x, x, x)
                for name, arguments in (("forward", forward), ("backward_weight", backward)):
                    for each in harness.plan(f"depthwise_conv_{name}", *arguments):
                        found.append(Launched(case, each.kernel, each.blocks, each.threads, each.shared))
    harness.close()
    return found


def table(found: dict[str, dict[str, list[Kernel]]], launched: list[Launched]) -> str:
    """The page: for each kernel registers, and bytes spilled where there are any, for each architecture."""
    version = compilers.version(compilers.nvcc())
    lines = [
        "# Registers and spills of the CUDA kernels",
        "",
        f"What ptxas says ({version}); written by `python -m bench.cuda_kernels`, checked by",
        "tests/test_cuda_compile.py.",
        "Shared memory is asked for at the launch, by the size of the picture: no kernel has any of its own.",
    ]
    for op, by_architecture in found.items():
        lines += [
            "",
            f"## {op}",
            "",
            f"| kernel | {' | '.join(ARCHITECTURES)} |",
            f"|---|{'---|' * len(ARCHITECTURES)}",
        ]
        for row in zip(*by_architecture.values(), strict=True):
            cells = [f"{each.registers}" + (f", {each.spilled} bytes spilled" if each.spilled else "") for each in row]
            lines.append(f"| `{row[0].name}` | {' | '.join(cells)} |")
    registers = {_short(row.name): row.registers for kernels in found.values() for row in kernels.get("sm_90a", [])}
    if launched:
        lines += ["", f"## Launches of depthwise_conv at {SHAPE}, on sm_90a", ""]
        lines += [
            "| case | kernel | blocks | threads | shared bytes | blocks a multiprocessor holds |",
            "|---|---|---|---|---|---|",
        ]
    for launch in launched:
        kernel = _short(launch.kernel)
        figures = (launch.blocks, launch.threads, launch.shared, launch.resident(registers[kernel]))
        lines.append(f"| {launch.case} | `{kernel}` | {' | '.join(map(str, figures))} |")
    return "\n".join(lines) + "\n"


def _short(name: str) -> str:
    """A kernel's name as both compilers spell it: no result, no parameters, no enclosing names."""
    name = re.sub(r"\(anonymous namespace\)::|lightsr::|^void |\bu\b", "", name).partition("(")[0]
    return name.replace(" >", ">")


if __name__ == "__main__":
    TABLE.write_text(table(compile_all(), launches()))
    print(f"{TABLE.relative_to(ROOT)} written")
