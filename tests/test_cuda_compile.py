"""The CUDA kernels as nvcc compiles them, where there is one: nothing spilled, every kernel in the committed table."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench import cuda_kernels
from bench.cuda_kernels import Kernel
from lightsr_kernels import build_plan, compilers
from lightsr_kernels.cache import BuildError

REPORT = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN7lightsr3oneIfEEvi' for 'sm_80'
ptxas info    : Function properties for _ZN7lightsr3oneIfEEvi
    16 bytes stack frame, 24 bytes spill stores, 56 bytes spill loads
ptxas info    : Used 80 registers, used 1 barriers, 400 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN7lightsr3twoEv' for 'sm_80'
ptxas info    : Function properties for _ZN7lightsr3twoEv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, 128 bytes smem, 360 bytes cmem[0]
"""


def nvcc_is_missing() -> bool:
    try:
        compilers.nvcc()
    except BuildError:
        return True
    return False


def test_reports_are_read() -> None:
    one, two = cuda_kernels.parse(REPORT)
    assert "one" in one.name and (one.registers, one.spilled, one.stack, one.shared) == (80, 80, 16, 0)
    assert "two" in two.name and (two.registers, two.spilled, two.stack, two.shared) == (12, 0, 0, 128)
    with pytest.raises(ValueError, match="cannot read"):
        cuda_kernels.parse(REPORT.replace("Used", "Took"))


def test_the_table_shows_spills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilers, "nvcc", lambda: "nvcc")
    monkeypatch.setattr(compilers, "version", lambda program: "13.0")
    kernels = {"sm_80": [Kernel("one", 80, 8, 0, 0)], "sm_90a": [Kernel("one", 90, 0, 0, 0)]}
    launched = [cuda_kernels.Launched("a case", "void lightsr::one(int)", 10, 128, 50000)]
    page = cuda_kernels.table({"op": kernels}, launched)
    assert "| a case | `one` | 10 | 128 | 50000 | 4 |" in page  # 90 registers would do for 5
    assert "| `one` | 80, 8 bytes spilled | 90 |" in page


@pytest.mark.skipif(nvcc_is_missing(), reason="no nvcc")
@pytest.mark.parametrize("architecture", cuda_kernels.ARCHITECTURES)
@pytest.mark.parametrize("op", cuda_kernels.sources())
def test_no_kernel_spills(op: str, architecture: str) -> None:
    kernels = cuda_kernels.compile_kernels(cuda_kernels.sources()[op], architecture)
    assert kernels
    assert not [kernel.name for kernel in kernels if kernel.spilled or kernel.stack]
    assert not [kernel.name for kernel in kernels if kernel.shared]
    written = set(re.findall(r"^\| `(.+?)` \|", cuda_kernels.TABLE.read_text(), re.MULTILINE))
    assert {kernel.name for kernel in kernels} <= written


@pytest.mark.skipif(nvcc_is_missing(), reason="no nvcc")
@pytest.mark.parametrize("op", cuda_kernels.sources())
def test_every_library_links(op: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU's user builds it, whatever of torch's CUDA library stood in: all that is called is in it."""
    monkeypatch.setenv("LIGHTSR_CUDA_ARCHS", "9.0")
    work = tmp_path / "work"
    work.mkdir()
    found = build_plan.run(build_plan.plan("cuda", op, cuda_kernels.ROOT / "csrc"), work, tmp_path / "log")
    assert (work / found["library"]).is_file() and found["architectures"] == ["90a"]
