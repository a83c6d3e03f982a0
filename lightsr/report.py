"""The HTML page of an evaluation: the table, comparison crops and PSNR against time, all in one file."""

from __future__ import annotations

import base64
import io
from datetime import UTC, datetime
from html import escape
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from . import __version__
from .errors import InputError
from .evaluation import Comparison, Evaluation, score
from .files import replacing
from .report_page import PAGE
from .report_plot import colours, plot


def require_matplotlib() -> None:
    """InputError when the plot cannot be drawn, so that nobody measures for an hour first."""
    if find_spec("matplotlib") is None:
        raise InputError("a report needs matplotlib, which is not installed; pip install 'lightsr[report]'")


def write_report(path: str | Path, evaluation: Evaluation) -> None:
    """Writes an evaluation made with `report=True` as one HTML page, with every image inside it.

    The page has the table of means, PSNR against seconds per picture, the same region of a few pictures from every
    network, the pictures left out and, folded away, the figures of each picture. It loads nothing from anywhere and
    runs no script. The file is either the old one or the whole new one; InputError when it cannot be written, or when
    matplotlib is missing.

    Example:
        >>> from lightsr.evaluate import Entry, evaluate
        >>> from lightsr.report import write_report
        >>> found = evaluate("Set5/HR", [Entry("bicubic")], 4, report=True)  # doctest: +SKIP
        >>> write_report("report.html", found)  # doctest: +SKIP
    """
    require_matplotlib()
    parts = {
        "title": f"Super-resolution x{evaluation.scale}",
        "protocol": "<br>".join(escape(line) for line in (evaluation.protocol, *evaluation.notes)),
        "machine": escape(evaluation.machine),
        "made": f"lightsr {escape(__version__)}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "table": _means_table(evaluation),
        "plot": plot(evaluation),
        "comparisons": "\n".join(_figure(each, evaluation) for each in evaluation.comparisons),
        "failed": _failed(evaluation),
        "pictures": _pictures_table(evaluation),
    }
    page = PAGE.substitute(parts)
    with replacing(Path(path)) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def _means_table(evaluation: Evaluation) -> str:
    cells = [[escape(cell) for cell in line] for line in evaluation.cells()]
    for column, dataset in enumerate(evaluation.datasets, start=1):
        means = [evaluation.mean(dataset, net.label) for net in evaluation.networks]
        best = max(mean.psnr for mean in means if mean)
        for row, mean in enumerate(means, start=1):
            if len(means) > 1 and mean and mean.psnr == best:
                cells[row][column] = f"<b>{cells[row][column]}</b>"
    for line, colour in zip(cells[1:], colours(evaluation).values(), strict=True):
        line[0] = f'<i style="background:{colour}"></i>{line[0]}'
    return _table(cells)


def _pictures_table(evaluation: Evaluation) -> str:
    pictures: dict[tuple[str, str], dict[str, str]] = {}
    for row in evaluation.rows:
        pictures.setdefault((row.dataset, row.picture), {})[row.network] = escape(score(row))
    labels = [net.label for net in evaluation.networks]
    lines = [[escape(each) for each in ("picture", *labels)]]
    for (dataset, picture), scores in pictures.items():
        lines.append([escape(f"{dataset} / {picture}"), *(scores[label] for label in labels)])
    return _table(lines)


def _table(cells: list[list[str]]) -> str:
    heading = "".join(f"<th>{cell}</th>" for cell in cells[0])
    rows = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in cells[1:])
    return f"<table><thead><tr>{heading}</tr></thead><tbody>\n{rows}\n</tbody></table>"


def _failed(evaluation: Evaluation) -> str:
    if not evaluation.failed:
        return ""
    items = "\n".join(f"<li>{escape(str(path))}: {escape(reason)}</li>" for path, reason in evaluation.failed)
    return f"<h2>Left out</h2>\n<ul>\n{items}\n</ul>"


def _figure(comparison: Comparison, evaluation: Evaluation) -> str:
    """The whole picture with the region marked, beside the region from every network."""
    scores = {
        row.network: score(row)
        for row in evaluation.rows
        if (row.dataset, row.picture) == (comparison.dataset, comparison.picture)
    }
    panels = "\n".join(
        f'<div><img src="{_png(crop)}" alt=""><span>{escape(label)}</span>'
        f"<small>{escape(scores.get(label, 'original' if label == 'HR' else ''))}</small></div>"
        for label, crop in comparison.crops.items()
    )
    (left, top, side), (width, height) = comparison.box, comparison.size
    box = f"left:{left / width:.2%};top:{top / height:.2%};width:{side / width:.2%};height:{side / height:.2%}"
    name = escape(f"{comparison.dataset} / {comparison.picture}")
    place = f"{side}x{side} pixels at {left}, {top}: {escape(comparison.reason)}"
    return f"""<figure>
<div class="whole"><img src="{_png(comparison.thumbnail)}" alt="{name}"><b style="{box}"></b></div>
<div class="crops">
{panels}
</div>
<figcaption><strong>{name}</strong> {place}</figcaption>
</figure>"""


def _png(image: Tensor) -> str:  # [3, H, W] uint8
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
