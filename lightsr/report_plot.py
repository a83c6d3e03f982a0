"""PSNR against time, drawn for the report page."""

from __future__ import annotations

import io
import math
from typing import Any

from .evaluation import Evaluation

COLOURS = ("#7b8794", "#2f6fde", "#d9480f", "#2b8a3e", "#9c36b5", "#c2255c", "#0b7285", "#846a00")
COLUMNS = 3


def colours(evaluation: Evaluation) -> dict[str, str]:
    """Label -> colour, the same in the plot and in the table."""
    return {net.label: COLOURS[k % len(COLOURS)] for k, net in enumerate(evaluation.networks)}


def plot(evaluation: Evaluation) -> str:
    """PSNR against seconds per picture as an SVG element, one panel a data set; "" when there is nothing to plot.

    Bicubic is drawn only beside a single network: where there are more, they would be squeezed into one corner.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator

    datasets = evaluation.datasets
    if not datasets:
        return ""
    trained = [net.label for net in evaluation.networks if net.name != "bicubic"]
    drawn = {label: c for label, c in colours(evaluation).items() if len(trained) < 2 or label in trained}
    columns = min(COLUMNS, len(datasets))
    rows = math.ceil(len(datasets) / columns)
    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "lightsr", "font.family": "sans-serif"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(3.2 * columns + 2.2, 3.2 * rows), layout="constrained")
        dots = {}
        for k, dataset in enumerate(datasets):
            axes = figure.add_subplot(rows, columns, k + 1)
            for label, colour in drawn.items():
                mean = evaluation.mean(dataset, label)
                if mean is not None and math.isfinite(mean.psnr):
                    (dots[label],) = axes.plot(
                        mean.seconds, mean.psnr, "o", color=colour, markersize=10, markeredgecolor="white"
                    )
            axes.set_title(dataset, loc="left", fontweight="bold", fontsize=11, parse_math=False)
            axes.set_xscale("log")
            axes.margins(x=0.25, y=0.2)
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.minorticks_off()
            axes.set_xlabel("seconds a picture")
            axes.set_ylabel("PSNR (dB)" if k % columns == 0 else "")
            axes.grid(color="#e4e7eb", linewidth=0.8)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_axisbelow(True)
        legend = figure.legend(list(dots.values()), list(dots), loc="outside right upper", frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    return svg[svg.index("<svg") :]
