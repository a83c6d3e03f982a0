"""The figures in the README, from saved runs: `python -m bench.readme bench/results/FOLDER`.

What the folder has of `networks.json`, `depthwise.json` and `fused.json` is written between the marks of that name. The
other parts, and all of them without a folder, are made again from the runs that the README names; `--check` tells
whether what stands there is what this command writes, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import readme_networks, readme_ops

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"<!-- (\w+): begin ?(\S*) -->\n(.*?)<!-- \1: end -->", re.DOTALL)
PARTS: dict[str, Callable[[dict[str, Any], str], str]] = {
    "networks": readme_networks.section,
    "depthwise": readme_ops.depthwise,
    "fused": readme_ops.fused,
}


def written(readme: str, folder: Path | None = None) -> str:
    """The README with all parts anew."""
    if folder is not None and not any((folder / f"{kind}.json").exists() for kind in PARTS):
        raise ValueError(f"{folder} has none of {', '.join(f'{kind}.json' for kind in PARTS)}")
    return BLOCK.sub(lambda found: _part(found[1], source_of(found[1], found[2], folder)), readme)


def source_of(kind: str, named: str, folder: Path | None) -> Path:
    """The folder that a part's figures come from."""
    if folder is not None and (folder / f"{kind}.json").exists():
        return folder.resolve()
    if not named:
        raise ValueError(f"README.md names no folder of figures for {kind} yet: give one under bench/results")
    return ROOT / named


def _part(kind: str, folder: Path) -> str:
    content = json.loads((folder / f"{kind}.json").read_text(encoding="utf-8"))
    name = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    return f"<!-- {kind}: begin {name} -->\n{PARTS[kind](content, f'{name}/{kind}.json')}<!-- {kind}: end -->"


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.readme", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="of a run that was saved")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if the README is not up to date")
    given = parser.parse_args(words)
    page = ROOT / "README.md"
    before = page.read_text(encoding="utf-8")
    try:
        after = written(before, given.folder)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    if given.check:
        print("up to date" if after == before else "not up to date: run `python -m bench.readme`", file=sys.stderr)
        return int(after != before)
    page.write_text(after, encoding="utf-8")
    named = {kind: ROOT / folder for kind, folder, _ in BLOCK.findall(after)}
    if "networks" in named and (named["networks"] / "networks.png").exists():
        shutil.copyfile(named["networks"] / "networks.png", ROOT / readme_networks.PICTURE)
    print(f"{page} written from {', '.join(map(str, named.values()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
