"""Binaries that the package itself brings, from a wheel built ahead of time: lightsr_kernels/lib/<name>/<op>/.

CPU kernels are there once for each level of instruction sets; the best one this machine has is taken.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Any

from . import build_plan, cache, compilers
from .cache import BuildError

FOLDER = Path(__file__).parent / "lib"
# The x86-64 levels that compilers know by name, best first, each with what it needs beyond the one below it.
LEVELS = {
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "x86-64-v3": {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"},
}


def find(part: str, op: str) -> Path | None:
    """The best folder of an op's library that fits this machine and these sources, or None."""
    if not FOLDER.is_dir():
        return None
    for name in [*(f"{part}-{level}" for level in LEVELS), part]:
        place = FOLDER / name / op
        # Whoever owns this folder owns the Python beside it, too.
        if place.is_dir() and cache.whole(place, ours=False) and _fits(cache.record(place)):
            return place
    return None


def make(part: str, folder: Path) -> list[Path]:
    """Compiles a part for any machine of this kind into `folder`; gives the folders made, the best first."""
    made, csrc = [], build_plan.csrc_folder()
    for level in [*_levels_here(), None] if part == "cpu" else [None]:
        name = f"{part}-{level}" if level else part
        for op in build_plan.ops_of(part, csrc):
            plan = build_plan.plan(part, op, csrc, target=[f"-march={level}"] if level else [])
            work = folder / name / op
            work.mkdir(parents=True)
            facts = build_plan.run(plan, work, Path.cwd() / f"{name}-{op}.log")
            cache.write_record(work, {**facts, "machine": platform.machine(), "level": level})
            made.append(work)
    return made


def _levels_here() -> list[str]:
    if platform.machine() != "x86_64":
        return []
    missing = [level for level in LEVELS if not compilers.accepts(compilers.cxx(), f"-march={level}")]
    if missing:
        raise BuildError(f"{compilers.cxx()[0]} is too old for -march={missing[0]}; name a newer compiler in CXX")
    return list(LEVELS)


def _fits(facts: dict[str, Any]) -> bool:
    if facts["machine"] != platform.machine() or facts["sources"] != _sources_hash(facts["part"], facts["op"]):
        return False
    if facts["part"] == "cuda":
        return compilers.gpus() <= {name.rstrip("af") for name in facts["architectures"]}
    levels = list(LEVELS)
    needed = levels[levels.index(facts["level"]) :] if facts["level"] else []
    return all(LEVELS[level] <= processor_flags() for level in needed)


@functools.cache
def _sources_hash(part: str, op: str) -> str:
    return build_plan.sources_hash(part, op, build_plan.csrc_folder())


@functools.cache
def processor_flags() -> frozenset[str]:
    """What the processor can do, in Linux's words."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), frozenset())
