"""What an evaluation found: a row for each picture and network, means, and the ways to write them down."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from . import __version__
from .files import replacing


@dataclass(frozen=True)
class Row:
    """One picture through one network."""

    dataset: str
    picture: str  # file name without suffix
    network: str  # the label of its NetworkFacts
    psnr: float  # dB, on luma; inf when equal
    ssim: float
    seconds: float
    width: int  # of the high-resolution picture, cropped to a multiple of the scale
    height: int


@dataclass(frozen=True)
class Mean:
    """One data set through one network."""

    dataset: str
    network: str
    psnr: float
    ssim: float
    seconds: float
    pictures: int


@dataclass(frozen=True)
class NetworkFacts:
    """One network of the table."""

    label: str  # as the table shows it
    name: str
    weights: str | None  # the file
    parameters: int


@dataclass(frozen=True)
class Comparison:
    """The same region of one picture from every network, for a report."""

    dataset: str
    picture: str
    reason: str  # why this region
    strength: float  # how much there is to see, in grey levels
    box: tuple[int, int, int]  # left, top, side in pixels of the high-resolution picture
    size: tuple[int, int]  # width, height of that picture
    thumbnail: Tensor  # [3, h, w] uint8, the whole picture
    crops: dict[str, Tensor]  # "HR", "bicubic" and the labels -> [3, side, side] uint8


@dataclass
class Evaluation:
    """All rows with what they were measured by; made by `evaluate`."""

    scale: int
    protocol: str  # one line
    machine: str  # one line
    tile: str | int
    networks: list[NetworkFacts]
    rows: list[Row] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)  # pictures left out of every mean, and why
    comparisons: list[Comparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what else must be known to read the table, a line each

    @property
    def datasets(self) -> list[str]:
        """The data sets that have rows, in the order they were given."""
        return list(dict.fromkeys(row.dataset for row in self.rows))

    def mean(self, dataset: str | None, network: str) -> Mean | None:
        """The mean over one data set, or over all pictures (None); None when there is no picture."""
        rows = [row for row in self.rows if row.network == network and dataset in (None, row.dataset)]
        if not rows:
            return None
        psnr, ssim, seconds = (
            math.fsum(values) / len(rows)
            for values in ([row.psnr for row in rows], [row.ssim for row in rows], [row.seconds for row in rows])
        )
        return Mean(dataset or "all", network, psnr, ssim, seconds, len(rows))

    def means(self) -> list[Mean]:
        """For each data set and network, in the order of the table."""
        found = [self.mean(dataset, net.label) for dataset in self.datasets for net in self.networks]
        return [mean for mean in found if mean is not None]

    def cells(self) -> list[list[str]]:
        """The table as papers print it, as rows of text; the first row is the heading."""
        counts = {name: len({row.picture for row in self.rows if row.dataset == name}) for name in self.datasets}
        heading = [f"x{self.scale}", *(f"{name} ({count})" for name, count in counts.items())]
        lines = [[*heading, "s/picture", "parameters"]]
        for net in self.networks:
            overall = self.mean(None, net.label)
            scores = [score(self.mean(dataset, net.label)) for dataset in self.datasets]
            lines.append([net.label, *scores, f"{overall.seconds:.3f}" if overall else "-", f"{net.parameters:,}"])
        return lines

    def table(self) -> str:
        """The means as aligned plain text, the protocol below."""
        cells = self.cells()
        widths = [max(len(line[k]) for line in cells) for k in range(len(cells[0]))]
        lines = [
            "  ".join([line[0].ljust(widths[0]), *(cell.rjust(widths[k]) for k, cell in enumerate(line) if k)])
            for line in cells
        ]
        return "\n".join([*lines, "", self.protocol, f"measured on {self.machine}", *self.notes])

    def as_dict(self) -> dict[str, Any]:
        """Everything but the crops, ready for JSON; an infinite PSNR (equal pictures) is None."""
        return {
            "lightsr": __version__,
            "scale": self.scale,
            "protocol": self.protocol,
            "machine": self.machine,
            "tile": self.tile,
            "notes": self.notes,
            "networks": [asdict(net) for net in self.networks],
            "means": [_finite(asdict(mean)) for mean in self.means()],
            "pictures": [_finite(asdict(row)) for row in self.rows],
            "failed": [{"file": str(path), "reason": reason} for path, reason in self.failed],
        }

    def write_json(self, path: str | Path) -> None:
        """Writes `as_dict` to a file, whole or not at all; InputError when it cannot be written."""
        text = json.dumps(self.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        with replacing(Path(path)) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")

    def write_csv(self, path: str | Path) -> None:
        """Writes the rows to a file, whole or not at all; InputError when it cannot be written."""
        with (
            replacing(Path(path)) as temporary,
            temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
        ):
            writer = csv.DictWriter(file, ["scale", *Row.__dataclass_fields__])
            writer.writeheader()
            writer.writerows({"scale": self.scale, **asdict(row)} for row in self.rows)


def score(mean: Mean | Row | None) -> str:
    """PSNR and SSIM as papers print them."""
    return f"{mean.psnr:.2f} / {mean.ssim:.4f}" if mean else "-"


def _finite(facts: dict[str, Any]) -> dict[str, Any]:
    return facts | {"psnr": facts["psnr"] if math.isfinite(facts["psnr"]) else None}
