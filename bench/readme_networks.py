"""The networks' part of the README: a table for each size, and a plot."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from lightsr.networks import REGISTRY

from .plot_networks import LABELS, number

PICTURE = "docs/images/networks.png"  # a copy of the run's plot
CAPTIONS = {
    "inference": "One picture, {h}x{w} pixels to {H}x{W}",
    "training": "A training step on {n} patches of {h}x{w} (forward, L1 loss, backward)",
}
OURS = {"lightsr fused": "lightsr", "lightsr captured": "captured"}
COLUMNS = ("pytorch nchw", "pytorch channels_last", "compiled", "onnxruntime", "openvino")
HEADS = ("PyTorch NCHW", "PyTorch channels_last", *(LABELS[each] for each in COLUMNS[2:]))


def where(machine: dict[str, Any]) -> str:
    """The machine of a run, and the rivals' versions."""
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "onnxruntime", "openvino"))
    return f"{machine['device']}, {machine['simd']}, {machine['threads']} threads ({versions})"


def section(content: dict[str, Any], source: str) -> str:
    """What stands between the marks."""
    cases = content["comparisons"]
    captured = "`captured` is the same network through [`lightsr.capture`](docs/capture.md)."
    lines = [
        f"Networks on {where(content['machine'])}: milliseconds, medians of one run in turn",
        f"([all figures]({source}), [how](bench/README.md)). `times` is against the fastest other, the floor is the",
        "multiply-adds at the machine's measured peak, memory is what the process grew by, in MB.",
        *([captured] if any(row_of(each, "lightsr captured") for each in cases) else []),
        "",
        f"![Bars: the milliseconds of each network and of each way to run it]({PICTURE})",
    ]
    for way, caption in CAPTIONS.items():
        chosen = [each for each in cases if each["case"]["way"] == way and each["case"]["dtype"] == "float32"]
        for shape in dict.fromkeys(tuple(each["case"]["shape"]) for each in chosen):
            n, _, h, w = shape
            lines += ["", caption.format(n=n, h=h, w=w, H=4 * h, W=4 * w) + ", x4, float32:", ""]
            lines += table([each for each in chosen if tuple(each["case"]["shape"]) == shape], way)
    return "\n".join(lines) + "\n"


def table(cases: list[dict[str, Any]], way: str) -> Iterator[str]:
    """A line for each network; no column where nobody has a time. `times` is of the column before it."""
    places = [i for i, column in enumerate(COLUMNS) if any(row_of(each, column) for each in cases)]
    own = [name for name in OURS if any(row_of(each, name) for each in cases)]
    heads = ["", *chain.from_iterable((f"**{OURS[name]}**", "times") for name in own), *(HEADS[i] for i in places)]
    heads += ["floor", "memory, lightsr", "memory, PyTorch"]
    yield f"| {' | '.join(heads)} |"
    yield f"|---|{'--:|' * (len(heads) - 1)}"
    for each in cases:
        cells = [REGISTRY[each["case"]["network"]].title]
        for ours in (row_of(each, name) for name in own):
            times = ours and ours["times the best rival"]
            cells += [f"**{milliseconds(ours)}**", f"{times:.2f}" if times else "-"]
        cells += [milliseconds(row_of(each, COLUMNS[i])) for i in places]
        cells += [f"{1e3 * each['FMA floor, s']:.0f}", megabytes(each, "lightsr fused"), megabytes(each, "pytorch")]
        yield f"| {' | '.join(cells)} |"


def row_of(each: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The fastest contender whose name begins so."""
    rows = [row for row in (*each["ours"], *each["rivals"]) if row["seconds"] and row["name"].startswith(name)]
    return min(rows, key=lambda row: float(row["seconds"]), default=None)


def milliseconds(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    return number(1e3 * row["seconds"])


def megabytes(each: dict[str, Any], name: str) -> str:
    """Of the contender that the time is told of."""
    row = row_of(each, name)
    return "-" if row is None or row["memory"] is None else f"{row['memory'] / 1e6:.0f}"
