"""Draws the loss and PSNR of trainings: `python -m lightsr.training.curves RUN... -o curves.png`."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..files import reason, replacing
from ..report import require_matplotlib
from .journal import LOG, VALIDATION

SUFFIXES = (".png", ".svg", ".pdf")


def draw(runs: Sequence[Path], target: Path) -> None:
    """Writes a plot of what the folders of runs logged: loss on the left, PSNR of the averaged weights on the right.

    Args:
        runs: folders that `lightsr train` wrote.
        target: a .png, .svg or .pdf file.

    Raises InputError when a folder has no log, matplotlib is missing, or the file cannot be written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, psnr = figure.subplots(1, 2)
    for run in runs:
        rows = _rows(run / LOG)
        loss.plot(_column(rows, "step"), _column(rows, "loss"), label=run.name, linewidth=1)
        measured = _rows(run / VALIDATION) if (run / VALIDATION).exists() else []
        for dataset in dict.fromkeys(row["dataset"] for row in measured):
            chosen = [row for row in measured if row["dataset"] == dataset]
            psnr.plot(_column(chosen, "step"), _column(chosen, "psnr"), label=f"{run.name}, {dataset}", linewidth=1)
    loss.set(xlabel="step", ylabel="loss", yscale="log")
    psnr.set(xlabel="step", ylabel="PSNR on Y, dB (averaged weights)")
    for axes in (loss, psnr):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    if target.suffix.lower() not in SUFFIXES:
        raise InputError(f"{target}: its suffix must be one of {', '.join(SUFFIXES)}")
    with replacing(target) as temporary:
        figure.savefig(temporary, dpi=120)


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}; give the folder of a run") from error


def _column(rows: list[dict[str, str]], name: str) -> list[float]:
    try:
        return [float(row[name]) for row in rows]
    except (KeyError, TypeError, ValueError) as error:  # TypeError: a row was cut short
        raise InputError(f"a row of the run's CSV files has no number under {name!r}; mend or delete it") from error


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m lightsr.training.curves", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders that lightsr train wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .png, .svg or .pdf file to write")
    args = parser.parse_args(argv)
    try:
        draw(args.runs, args.output)
    except InputError as error:
        print(f"lightsr: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
