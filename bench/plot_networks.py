"""The plot of a saved run of networks: a panel for each case, a bar for each way of running it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightsr.networks import REGISTRY

from .plot_colors import COLORS, OTHER

LABELS = {"lightsr": "lightsr", "pytorch": "PyTorch", "compiled": "torch.compile"}
LABELS |= {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def label(name: str) -> str:
    """A contender's name as a reader knows it: "lightsr fused nchw" is "lightsr"."""
    first, *rest = name.split()
    how = " in a CUDA graph" if "graph" in rest else ", captured" if "captured" in rest else ""
    return LABELS.get(first, first) + how


def number(value: float) -> str:
    """Three digits, and never a power of ten."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def fastest(each: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By label the row of the faster layout, of those that have a time; the fastest first."""
    rows = sorted(
        (row for row in (*each["ours"], *each["rivals"]) if row["seconds"]), key=lambda row: float(row["seconds"])
    )
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        found.setdefault(label(row["name"]), row)
    return found


def plot_networks(content: dict[str, Any], folder: Path) -> list[Path]:
    """One picture: a column for each network, a row for each way, size and dtype; zero is at the left."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    cases = content["comparisons"]
    columns = list(dict.fromkeys(each["case"]["network"] for each in cases))
    rows = list(dict.fromkeys(kind(each) for each in cases))
    figure, axes = plt.subplots(len(rows), len(columns), figsize=(3.6 * len(columns), 1.9 * len(rows) + 0.7))
    grid = [list(line) for line in axes] if len(rows) > 1 and len(columns) > 1 else None
    for panel in figure.axes:
        panel.axis("off")
    for each in cases:
        row, column = rows.index(kind(each)), columns.index(each["case"]["network"])
        panel = grid[row][column] if grid else figure.axes[max(row, column)]
        panel.axis("on")
        draw(panel, each)
        panel.set_title(f"{REGISTRY[columns[column]].title}, {kind(each)}", fontsize=8)
    machine = content["machine"]
    figure.suptitle(
        f"{machine['device']}, {machine['threads']} threads: milliseconds; dotted: floor by the peak of multiply-adds",
        fontsize=10,
    )
    figure.tight_layout()
    file = folder / "networks.png"
    figure.savefig(file, dpi=110)
    plt.close(figure)
    return [file]


def kind(each: dict[str, Any]) -> str:
    """What a case is, whatever the network: "inference 1x3x180x320 float32"."""
    case = each["case"]
    return f"{case['way']} {'x'.join(map(str, case['shape']))} {case['dtype']}"


def draw(panel: Any, each: dict[str, Any]) -> None:
    found = fastest(each)
    for place, row in enumerate(found.values()):
        color = COLORS.get(row["name"].split()[0], OTHER)
        panel.barh(place, 1e3 * row["seconds"], color=color)
        low, high = row.get("quartiles", [row["seconds"]] * 2)
        panel.plot([1e3 * low, 1e3 * high], [place, place], color="#000000", linewidth=1)
        panel.annotate(
            f" {number(1e3 * row['seconds'])}", (1e3 * max(high, row["seconds"]), place), va="center", fontsize=7
        )
    panel.set_yticks(range(len(found)), list(found), fontsize=7)
    panel.invert_yaxis()
    panel.axvline(1e3 * each["FMA floor, s"], linestyle=":", color="#000000", linewidth=1)
    panel.margins(x=0.15)
    panel.set_xlim(left=0)
    panel.tick_params(axis="x", labelsize=7)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
