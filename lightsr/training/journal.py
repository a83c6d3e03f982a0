"""What a training tells: lines on stderr, rows of CSV, TensorBoard."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import reason, replacing

LOG, VALIDATION = "log.csv", "validation.csv"


class Journal:
    """Writes down a training's figures. Only the first process of several writes; the others' calls do nothing."""

    def __init__(self, folder: Path, quiet: bool, first: bool) -> None:
        self.folder = folder
        self.quiet = quiet
        self.first = first
        self.board: Any = None

    def begin(self, start: int, tensorboard: bool) -> None:
        """Takes back what was written after the step that training goes on from."""
        if not self.first:
            return
        for name in (LOG, VALIDATION):
            _cut_back(self.folder / name, start)
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self.say("no TensorBoard here: pip install tensorboard, or report.tensorboard = false")
                return
            self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=start + 1)

    def say(self, line: str) -> None:
        """A line on stderr, unless quiet."""
        if not self.first or self.quiet:
            return
        try:
            sys.stderr.write(f"lightsr: {line}\n")  # in one piece: a dying worker's signal comes at any place
            sys.stderr.flush()
        except OSError:  # the terminal or the pipe is gone, and the training is not
            self.quiet = True

    def row(self, name: str, values: Mapping[str, Any], shown: Mapping[str, float]) -> None:
        """Appends a row to a CSV file, and puts `shown` on TensorBoard at the row's step."""
        if not self.first:
            return
        path = self.folder / name
        try:
            new = not path.exists() or path.stat().st_size == 0
            with path.open("a", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(values))
                if new:
                    writer.writeheader()
                writer.writerow(values)
        except OSError as error:
            raise InputError(f"cannot write {path}: {reason(error)}") from error
        if self.board is not None:
            for tag, value in shown.items():
                self.board.add_scalar(tag, value, values["step"])

    def close(self) -> None:
        """Writes out what TensorBoard still holds."""
        if self.board is not None:
            self.board.close()


def _cut_back(path: Path, start: int) -> None:
    """Keeps the rows up to a step, and the whole ones: a killed training may have left half a line."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            heading, *rows = list(csv.reader(file)) or [[]]
    except FileNotFoundError:
        return
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error
    kept = [row for row in rows if len(row) == len(heading) and row[0].isdecimal() and int(row[0]) <= start]
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([heading, *kept] if heading else [])
