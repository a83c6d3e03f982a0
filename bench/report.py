"""What a run of comparisons comes to: a table, a summary, and files under bench/results when asked for."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from .comparison import Comparison, Row, summary
from .peak import multiply_adds
from .timing import DEVICES

COMPARISONS: pytest.StashKey[list[Comparison]] = pytest.StashKey()
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "onnxruntime", "openvino", "numpy", "triton")


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "default"),
        "simd": torch.backends.cpu.get_cpu_capability(),
        "peak": multiply_adds(DEVICES[-1]).name,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def device_name() -> str:
    """The GPU, or else the processor as the system names it."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = {
        name: re.search(rf"^{name}\s*: (.+)$", text, re.MULTILINE) for name in ("model name", "cpu family", "model")
    }
    if not found["model name"]:
        return platform.processor() or platform.machine()
    name = found["model name"][1]
    known = found["cpu family"] and found["model"] and not re.search(r"\d", name)  # a name as plain as "AMD EPYC"
    return f"{name} family {found['cpu family'][1]} model {found['model'][1]}" if known else name  # type: ignore[index]


def table(comparisons: list[Comparison]) -> Iterator[str]:
    """One line for each of ours in each case, slower ones included."""
    width = max(len(each.case.name) for each in comparisons)
    yield (
        f"{'case':{width}} {'ours':24} {'ms':>9} {'GFLOP/s':>8} {'of peak':>7} {'of copy':>7} "
        f"{'moved':>6} {'times':>5} {'MB':>6}   {'best rival':26} {'ms':>9} {'MB':>6} {'times':>7}"
    )
    for found in comparisons:
        best = found.best_rival
        for row in found.ours:
            figures = found.figures(row)
            mark = "" if row.name.split()[1] == found.chosen else f" (a plain call takes {found.chosen})"
            ratio = figures.get("times the best rival")
            yield (
                f"{found.case.name:{width}} {row.name.removeprefix('lightsr '):24} {milliseconds(row):>9} "
                f"{figures.get('GFLOP/s', 0):8.1f} {figures.get('of FMA peak', 0):7.0%} "
                f"{figures.get('of copy bandwidth', 0):7.0%} {f'{row.moved / 1e6:.0f}' if row.moved else '':>6} "
                f"{f'{least:.2f}' if (least := figures.get('moved over the least')) else '':>5} {megabytes(row):>6}   "
                f"{best.name if best else 'none':26} {milliseconds(best):>9} {megabytes(best):>6} "
                f"{f'{ratio:.2f}' if ratio else '':>7}{mark}"
            )


def milliseconds(row: Row | None) -> str:
    return f"{1e3 * row.seconds:.3f}" if row and row.seconds else ""


def megabytes(row: Row | None) -> str:
    return f"{row.memory / 1e6:.0f}" if row and row.memory is not None else ""


def closing(comparisons: list[Comparison]) -> Iterator[str]:
    """The summary, and which rivals have no number and why."""
    total = summary(comparisons)
    if total.mean is not None:
        yield f"{total.mean:.2f} times as fast as the best rival, geometric mean of {total.compared} cases"
        yield f"{len(total.slower)} cases slower than a rival" + "".join(f"\n  {name}" for name in total.slower)
    peaks = [each.peak / 1e9 for each in comparisons]
    yield (
        f"{torch.get_num_threads()} threads for all; peak: {multiply_adds(DEVICES[-1]).name}, {min(peaks):.0f} to "
        f"{max(peaks):.0f} GFLOP/s in these rounds"
    )
    if max(peaks) > 1.2 * min(peaks):
        yield "the peak moved: the machine was busy with something else; believe ratios, not milliseconds"
    missing: dict[str, list[Row]] = {}
    for row in (row for each in comparisons for row in each.rivals if row.reason):
        missing.setdefault(f"{row.name}: {row.reason}", []).append(row)
    for reason, rows in sorted(missing.items()):
        expected = [row.expected for row in rows if row.expected is not None]
        more = f", {min(expected):.1f} to {max(expected):.1f} s" if expected else ""
        errors = [row.error for row in rows if row.error is not None]
        more += f", off by up to {max(errors):.2g} of the largest value" if errors else ""
        yield f"no number for {reason} ({len(rows)} cases{more})"


def keep(found: Comparison, config: pytest.Config) -> None:
    """Puts a comparison among those of the run, and what there is so far into a file, where the run is to be saved."""
    config.stash[COMPARISONS].append(found)
    if name := config.getoption("--save"):
        save_unfinished(config.stash[COMPARISONS], name)


def save(comparisons: list[Comparison], name: str, folder: Path = RESULTS) -> Path:
    """Writes the JSON and the plots of a run, beside other benches'; instead of over a run, to NAME-2 and so on."""
    from .plot import plot

    benches = list(dict.fromkeys(each.case.bench for each in comparisons))
    wanted = folder_name(name)
    names = (wanted if number == 1 else f"{wanted}-{number}" for number in count(1))
    places = (folder / each for each in names)
    target = next(to for to in places if not any((to / f"{each}.json").exists() for each in benches))
    target.mkdir(parents=True, exist_ok=True)
    for bench in benches:
        content = content_of([each for each in comparisons if each.case.bench == bench])
        (target / f"{bench}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        plot(bench, content, target)
    unfinished(name, folder).unlink(missing_ok=True)
    return target


def unfinished(name: str, folder: Path = RESULTS) -> Path:
    """Where a run that is to be saved keeps what it has so far."""
    return folder / f"{folder_name(name)}-unfinished.json"


def save_unfinished(comparisons: list[Comparison], name: str, folder: Path = RESULTS) -> None:
    """For a run that something ends: compiled code of rivals can end the process."""
    content = json.dumps(content_of(comparisons), indent=1) + "\n"
    unfinished(name, folder).write_text(content, encoding="utf-8")


def folder_name(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", f"{device_name()}-{name}".lower()).strip("-")


def content_of(found: list[Comparison]) -> dict[str, Any]:
    return {"machine": machine(), "summary": vars(summary(found)), "comparisons": [each.as_json() for each in found]}
