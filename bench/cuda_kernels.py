"""Compiles every CUDA kernel for the architectures it is meant for and tabulates registers, spills and shared memory.

`python -m bench.cuda_kernels` writes bench/results/cuda_kernels.md; it needs nvcc, not a GPU.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lightsr_kernels import compilers

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "bench" / "results" / "cuda_kernels.md"
ARCHITECTURES = ("sm_80", "sm_90a")


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
    return [name.replace("lightsr::", "").replace(">>", "> >") for name in done.stdout.splitlines()]


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


def table(found: dict[str, dict[str, list[Kernel]]]) -> str:
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
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TABLE.write_text(table(compile_all()))
    print(f"{TABLE.relative_to(ROOT)} written")
