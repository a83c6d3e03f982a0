"""The networks' table and plot in the README, from a saved run: `python -m bench.readme bench/results/FOLDER`.

Without a folder it takes the one that the README names, so what stands there can be made again; `--check` tells
whether it is what this command writes, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from lightsr.networks import REGISTRY

from .plot_networks import LABELS, number

ROOT = Path(__file__).resolve().parents[1]
README, PICTURE = ROOT / "README.md", ROOT / "docs" / "images" / "networks.png"
BEGIN, END = r"<!-- networks: begin ?(\S*) -->\n", "<!-- networks: end -->"
BLOCK = re.compile(f"{BEGIN}(.*?){END}", re.DOTALL)
CAPTIONS = {
    "inference": "One picture, {h}x{w} pixels to {H}x{W}",
    "training": "A training step on {n} patches of {h}x{w} (forward, L1 loss, backward)",
}
OURS = {"lightsr fused": "lightsr", "lightsr captured": "captured"}
COLUMNS = ("pytorch nchw", "pytorch channels_last", "compiled", "onnxruntime", "openvino")
HEADS = ("PyTorch NCHW", "PyTorch channels_last", *(LABELS[each] for each in COLUMNS[2:]))


def section(content: dict[str, Any], source: str) -> str:
    """What stands between the marks."""
    machine, cases = content["machine"], content["comparisons"]
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "onnxruntime", "openvino"))
    where = f"{machine['device']}, {machine['simd']}, {machine['threads']} threads ({versions})"
    captured = "`captured` is the same network through [`lightsr.capture`](docs/capture.md)."
    lines = [
        f"Networks on {where}: milliseconds, medians of one run in turn",
        f"([all figures]({source}), [how](bench/README.md)). `times` is against the fastest other, the floor is the",
        "multiply-adds at the machine's measured peak, memory is what the process grew by, in MB.",
        *([captured] if any(row_of(each, "lightsr captured") for each in cases) else []),
        "",
        f"![Bars: the milliseconds of each network and of each way to run it]({PICTURE.relative_to(ROOT)})",
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


def written(readme: str, folder: Path | None = None) -> tuple[str, Path]:
    """The README with the section anew, and the folder that its figures come from."""
    found = BLOCK.search(readme)
    if found is None:
        raise ValueError("README.md has no lines <!-- networks: begin --> and <!-- networks: end -->")
    folder = folder or (ROOT / found[1] if found[1] else None)
    if folder is None:
        raise ValueError("README.md names no folder of figures yet: give one under bench/results")
    folder = folder.resolve()
    content = json.loads((folder / "networks.json").read_text(encoding="utf-8"))
    name = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    body = section(content, f"{name}/networks.json")
    return f"{readme[: found.start()]}<!-- networks: begin {name} -->\n{body}{END}{readme[found.end() :]}", folder


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.readme", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="of a run that was saved: it holds networks.json")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if the README is not up to date")
    given = parser.parse_args(words)
    before = README.read_text(encoding="utf-8")
    try:
        after, folder = written(before, given.folder)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    if given.check:
        print("up to date" if after == before else "not up to date: run `python -m bench.readme`", file=sys.stderr)
        return int(after != before)
    README.write_text(after, encoding="utf-8")
    if (folder / "networks.png").exists():
        shutil.copyfile(folder / "networks.png", PICTURE)
    print(f"{README} written from {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
