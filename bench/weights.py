"""Puts finished trainings into the package: `python -m bench.weights RUN... --data ../shared/data`.

Each run's folded float16 file goes to lightsr/weights/, measured on Set5 and Set14 by `lightsr evaluate`, and what is
known of it into manifest.json there. Then the table of docs/weights.md and the plot of the curves are made anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

from safetensors import safe_open

from lightsr.errors import InputError
from lightsr.evaluate import Entry, evaluate
from lightsr.networks import REGISTRY
from lightsr.training.config import as_toml, flat, read_config
from lightsr.training.curves import draw

ROOT = Path(__file__).resolve().parents[1]
FOLDER, PAGE, CURVES = (
    ROOT / "lightsr" / "weights",
    ROOT / "docs" / "weights.md",
    ROOT / "docs" / "images" / "training.png",
)
MANIFEST = FOLDER / "manifest.json"
RECIPE = "cpu"
PLACES = (
    "output",
    "data.train",
    "data.validate",
    "init",
    "threads",
    "max_minutes",
)  # of the machine, or told otherwise
BLOCK = re.compile(r"(<!-- weights: begin -->\n)(.*?)(<!-- weights: end -->)", re.DOTALL)


def add(run: Path, data: Path) -> None:
    """Copies a finished run's weights into the package and writes what they are into the manifest."""
    found = [path for path in run.glob("*_x[234].safetensors") if path.stem.rpartition("_x")[0] in REGISTRY]
    if len(found) != 1:
        raise InputError(f"{run}: has no weights of a finished training")
    (path,) = found
    with safe_open(path, framework="numpy") as file:
        told = file.metadata()
    network, scale = told["network"], int(told["scale"])
    settings = flat(tomllib.loads((run / "config.toml").read_text(encoding="utf-8")))
    entry = {
        "network": network,
        "scale": scale,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "recipe": RECIPE,
        "command": command(settings),
        "pictures": sorted(Path(each).name for each in settings["data.train"]),
        "patches seen": int(told["pictures"]),
        "steps": int(told["steps"]),
        "hours": float(told["hours"]),
        "machine": told["machine"],
        **measured(path, network, scale, data),
    }
    FOLDER.mkdir(exist_ok=True)
    shutil.copyfile(path, FOLDER / path.name)
    content = json.loads(MANIFEST.read_text(encoding="utf-8")) if MANIFEST.exists() else {}
    content[path.name] = entry
    MANIFEST.write_text(json.dumps(dict(sorted(content.items())), indent=1) + "\n", encoding="utf-8")


def command(settings: dict[str, Any]) -> str:
    """What trains it anew: the recipe, and the settings that this run had otherwise."""
    usual = flat(tomllib.loads(as_toml(read_config(RECIPE))))
    words = ["lightsr", "train", RECIPE, "-o", f"runs/{settings['network.name']}_x{settings['network.scale']}"]
    for name, value in settings.items():
        if name not in PLACES and not re.match(r"stages\.[1-9]", name) and value != usual.get(name):
            words += ["--set", f"{name.removeprefix('stages.0.')}={value}"]
    if later := [stage(settings, number) for number in range(1, 100) if f"stages.{number}.steps" in settings]:
        words += ["--set", f"stages=[{', '.join(['{}', *later])}]"]
    if settings["init"]:
        words += ["--set", f"init=runs/{Path(settings['init']).parent.name}/weights.safetensors"]
    return shlex.join([*words, "--set", "data.train=[...]"])


def stage(settings: dict[str, Any], number: int) -> str:
    """What a later stage has otherwise than the first, as TOML."""
    mine = f"stages.{number}."
    other = {name.removeprefix(mine): value for name, value in settings.items() if name.startswith(mine)}
    found = [f"{name}={value}" for name, value in other.items() if value != settings[f"stages.0.{name}"]]
    return f"{{{', '.join(found)}}}"


def measured(weights: Path, network: str, scale: int, data: Path) -> dict[str, dict[str, float]]:
    folders = [data / "testsets" / name / "HR" for name in ("Set5", "Set14")]
    result = evaluate(folders, [Entry(network, weights)], scale)
    return {each.dataset: {"psnr": round(each.psnr, 4), "ssim": round(each.ssim, 5)} for each in result.means()}


def table(content: dict[str, Any]) -> str:
    lines = [
        "| file | Set5, dB / SSIM | Set14 | steps | patches | hours of one core |",
        "|---|---|---|--:|--:|--:|",
    ]
    for name, each in content.items():
        sets = [f"{each[which]['psnr']:.2f} / {each[which]['ssim']:.4f}" for which in ("Set5", "Set14")]
        lines.append(
            f"| `{name}` | {' | '.join(sets)} | {each['steps']:,} | {each['patches seen']:,} | {each['hours']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.weights", description=str(__doc__).partition("\n")[0])
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders of finished trainings")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="has testsets/Set5/HR")
    given = parser.parse_args(words)
    try:
        for run in given.runs:
            add(run, given.data)
        if given.runs:
            draw(given.runs, CURVES)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    content = json.loads(MANIFEST.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(BLOCK.sub(lambda found: found[1] + table(content) + found[3], page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
