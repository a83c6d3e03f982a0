"""Plots of a saved run: `python -m bench.plot bench/results/FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .plot_colors import COLORS, OTHER
from .plot_networks import plot_networks


def plot(bench: str, content: dict[str, Any], folder: Path) -> list[Path]:
    """The pictures of a run of the bench of this name."""
    return {"depthwise": plot_depthwise, "fused": plot_fused, "networks": plot_networks}[bench](content, folder)


def plot_fused(content: dict[str, Any], folder: Path) -> list[Path]:
    """One picture: a line for each case, and on it how many times as long as ours everyone takes."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    cases = content["comparisons"]
    figure, panel = plt.subplots(figsize=(9, 0.24 * len(cases) + 1.6))
    for place, each in enumerate(cases):
        unit = min(row["seconds"] for row in each["ours"] if row["seconds"])
        for row in (*each["ours"], *each["rivals"]):
            if row["seconds"]:
                color = COLORS.get(row["name"].split()[0], OTHER)
                marker = "o" if "nchw" in row["name"] else "s"
                panel.plot(row["seconds"] / unit, place, marker, label=row["name"], color=color, markersize=4)
    panel.set_yticks(range(len(cases)), [each["case"]["name"] for each in cases], fontsize=6)
    panel.invert_yaxis()
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter("{x:g}")
    panel.set_xlabel("times as long as our faster layout")
    panel.grid(alpha=0.3)
    handles = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncol=4, fontsize=7, frameon=False)
    figure.suptitle(f"{content['machine']['device']}, {content['machine']['threads']} threads", fontsize=10)
    figure.tight_layout(rect=(0, 0.6 / figure.get_figheight(), 1, 1))
    file = folder / "fused.png"
    figure.savefig(file, dpi=120)
    plt.close(figure)
    return [file]


def plot_depthwise(content: dict[str, Any], folder: Path) -> list[Path]:
    """One picture for each shape and dilation: GFLOP/s over k, a panel for each direction and dtype."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    pictures: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for each in content["comparisons"]:
        shape = "x".join(str(side) for side in each["case"]["shape"])
        pictures.setdefault((shape, each["case"]["dilation"]), []).append(each)
    files = []
    for (shape, dilation), cases in pictures.items():
        directions = list(dict.fromkeys(each["case"]["direction"] for each in cases))
        dtypes = list(dict.fromkeys(each["case"]["dtype"] for each in cases))
        size = (4 * len(directions), 3 * len(dtypes) + 0.8)
        figure, axes = plt.subplots(len(dtypes), len(directions), figsize=size, squeeze=False, sharex=True)
        for panels, dtype in zip(axes, dtypes, strict=True):
            for panel, direction in zip(panels, directions, strict=True):
                wanted = {"dtype": dtype, "direction": direction}
                draw(panel, [each for each in cases if wanted.items() <= each["case"].items()])
                panel.set_title(f"{direction}, {dtype}", fontsize=9)
        for panel in axes[-1]:
            panel.set_xlabel("k")
        for panels in axes:
            panels[0].set_ylabel("GFLOP/s")
        handles = {
            label: line for panel in axes.flat for line, label in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="lower center", ncol=5, fontsize=7, frameon=False)
        threads = f"{content['machine']['threads']} threads"
        figure.suptitle(f"{content['machine']['device']}, {threads}: {shape}, dilation {dilation}", fontsize=10)
        figure.tight_layout(rect=(0, 0.8 / size[1] * 0.6, 1, 1))
        files.append(folder / f"depthwise-{shape}-d{dilation}.png")
        figure.savefig(files[-1], dpi=120)
        plt.close(figure)
    return files


def draw(panel: Any, cases: list[dict[str, Any]]) -> None:
    """A line for each contender, dashed in channels_last, and the measured peak."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for each in sorted(cases, key=lambda each: each["case"]["k"]):
        for row in (*each["ours"], *each["rivals"]):
            if row["seconds"]:
                lines.setdefault(row["name"], []).append((each["case"]["k"], row["GFLOP/s"]))
    for name, points in lines.items():
        style = "--" if "channels_last" in name else "-"
        ours = name.startswith("lightsr")
        color = COLORS.get(name.split()[0], OTHER)
        panel.plot(*zip(*points, strict=True), style, label=name, color=color, marker=".", linewidth=2 if ours else 1)
    from matplotlib.ticker import LogLocator

    peaks = sorted((each["case"]["k"], each["FMA peak, GFLOP/s"]) for each in cases)
    if peaks:
        panel.plot(*zip(*peaks, strict=True), ":", label="float32 multiply-add peak", color="#000000", linewidth=0.8)
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter("")
    panel.grid(alpha=0.3)


def main() -> None:
    folder = Path(sys.argv[1])
    for saved in sorted(folder.glob("*.json")):
        for file in plot(saved.stem, json.loads(saved.read_text(encoding="utf-8")), folder):
            print(file)


if __name__ == "__main__":
    main()
