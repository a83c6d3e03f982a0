"""The page and the plots, from the recorded JSON alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .plots import plots

PAGE = "report.md"
UNITS = {"bytes/s": ("TB/s", 1e12), "FLOP/s": ("TFLOP/s", 1e12)}


def render(content: dict[str, Any], folder: Path) -> list[Path]:
    """Writes report.md and, where matplotlib is there, the plots; returns the files."""
    sections = content["sections"]
    pictures = plots(sections, folder)
    page = folder / PAGE
    page.write_text("\n".join(lines(sections, pictures)) + "\n", encoding="utf-8")
    return [page, *pictures]


def lines(sections: dict[str, Any], pictures: list[Path]) -> Iterator[str]:
    data = {name: each.get("data", {}) for name, each in sections.items()}
    yield f"# {data.get('device', {}).get('name', 'GPU report')}"
    yield from (
        "",
        "Written by `python -m bench.gpu_report`; times are medians in microseconds unless said otherwise.",
        "",
    )
    yield from ("| section | status | seconds | |", "|---|---|--:|---|")
    for name, each in sections.items():
        yield f"| {name} | {each['status']} | {each.get('seconds', '')} | {cell(each.get('reason', ''))} |"
    for name, write in WRITERS.items():
        if data.get(name):
            yield from ("", f"## {name}", "", *write(data[name]))
    yield from (line for picture in pictures for line in ("", f"![{picture.stem}]({picture.name})"))


def cell(text: Any) -> str:
    return str(text).replace("|", "/").replace("\n", " ")


def facts(data: dict[str, Any]) -> Iterator[str]:
    yield from ("| | |", "|---|---|")
    for key, value in data.items():
        told = ", ".join(f"{name} {each}" for name, each in value.items()) if isinstance(value, dict) else value
        yield f"| {key} | {cell(told)} |"


def matrix(data: dict[str, Any]) -> Iterator[str]:
    yield ", ".join(f"{count} {outcome}" for outcome, count in data.get("outcomes", {}).items()) or "nothing ran"
    yield from ("", "| op, device, backend | passed | failed | skipped |", "|---|--:|--:|--:|")
    for name, counts in data.get("by op", {}).items():
        yield f"| {name} | {' | '.join(str(counts.get(each, 0)) for each in ('passed', 'failed', 'skipped'))} |"
    for each in data.get("failures", []):
        yield f"- `{each['id']}`: {cell(each.get('why', ''))}"


def ceilings(data: dict[str, Any]) -> Iterator[str]:
    yield from ("| | median | least | most |", "|---|--:|--:|--:|")
    for key, value in data.items():
        if not isinstance(value, dict):
            yield f"| {key} | {cell(value)} | | |"
            continue
        name, _, unit = key.rpartition(", ")
        label, scale = UNITS[unit]
        figures = " | ".join(f"{value[each] / scale:.4g}" for each in ("median", "least", "most"))
        yield f"| {name}, {label} | {figures} |"


def best(rows: dict[str, Any], mine: bool) -> tuple[str, dict[str, Any]] | None:
    """The fastest of ours, or of the others."""
    timed = [(name, row) for name, row in rows.items() if "seconds" in row and name.startswith("lightsr") == mine]
    return min(timed, key=lambda each: float(each[1]["seconds"]), default=None)


def ops(data: dict[str, Any]) -> Iterator[str]:
    yield from ("| case | ours | us | of floor | best other | us | times |", "|---|---|--:|--:|---|--:|--:|")
    yield from compared(data, 1e6, lambda each, row: share(each.get("floor"), row))


def networks(data: dict[str, Any]) -> Iterator[str]:
    yield from ("Milliseconds; memory is what the allocator held at most.", "")
    yield from ("| case | ours | ms | MB | best other | ms | times |", "|---|---|--:|--:|---|--:|--:|")
    yield from compared(data, 1e3, lambda each, row: f"{row['memory'] / 1e6:.0f}" if row.get("memory") else "")


def share(floor: float | None, row: dict[str, Any]) -> str:
    return f"{floor / row['seconds']:.0%}" if floor else ""


def compared(data: dict[str, Any], unit: float, third: Any) -> Iterator[str]:
    """A line for each case, and below them whoever has no number and why."""
    missing = []
    for key, each in data.items():
        rows = each.get("rows", {}) if isinstance(each, dict) else {}
        missing += [f"- {key}: {cell(each['why_not'])}"] if isinstance(each, dict) and "why_not" in each else []
        missing += [f"- {key}, {name}: {cell(row['why_not'])}" for name, row in rows.items() if "why_not" in row]
        mine, other = best(rows, True), best(rows, False)
        if mine is None:
            continue
        name, row = mine
        cells = [key, name.removeprefix("lightsr "), spread(row, unit), third(each, row)]
        if other is None:
            cells += ["none", "", ""]
        else:
            cells += [other[0], spread(other[1], unit), f"{other[1]['seconds'] / row['seconds']:.2f}"]
        yield f"| {' | '.join(cells)} |"
    if missing:
        yield from ("", "No number:", "", *missing)


def spread(row: dict[str, Any], unit: float) -> str:
    """The median, and half of what the middle half of the times spans."""
    return f"{row['seconds'] * unit:.4g} ± {(row['high'] - row['low']) / 2 * unit:.2g}"


def tuning(data: dict[str, Any]) -> Iterator[str]:
    yield from ("| call | kernel | fastest tile, us | the rule's, us |", "|---|---|--:|--:|")
    for key, each in data.items():
        for kernel in ("forward", "weight"):
            if isinstance(each, dict) and kernel in each:
                found = each[kernel]
                rule = "" if found[RULE] is None else f"{1e6 * found[RULE]:.4g}"  # its tile may not fit
                yield f"| {key} | {kernel} | {1e6 * found['seconds']:.4g} | {rule} |"


RULE = "rule's seconds"
WRITERS = {
    "device": facts,
    "build": facts,
    "matrix": matrix,
    "sanitizer": facts,
    "ceilings": ceilings,
    "networks": networks,
    "ops": ops,
    "training": networks,
    "tuning": tuning,
}
