"""Trained weights at hand: files in the weight folders, known by what they hold and not by their names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import folders
from .checkpoint import read_state_dict
from .errors import InputError
from .folders import weight_folders
from .networks import detect

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")
HOW_TO_ADD = "others come from their authors or from training; give a file with -w, or put it in {folder}"


@dataclass(frozen=True)
class WeightFile:
    """One file of a weight folder: the network and scale it holds, or why it cannot be used."""

    path: Path
    network: str | None
    scale: int | None
    problem: str | None = None


def weights_at_hand() -> list[WeightFile]:
    """Every weight file in the weight folders, in the order they are searched."""
    found: list[WeightFile] = []
    for folder in weight_folders():
        try:
            paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        except OSError:  # not there, or not ours to read
            continue
        found += [_look_into(path) for path in paths]
    return found


def weights_for(network: str, scale: int) -> Path:
    """The first weight file at hand that holds this network at this scale; otherwise an InputError says what to do."""
    files = weights_at_hand()
    for each in files:
        if (each.network, each.scale) == (network, scale):
            return each.path
    there = ", ".join(f"{each.network} x{each.scale}" for each in files if each.network) or "none"
    raise InputError(f"no trained weights for {network} x{scale} at hand; there are {there}; {how_to_add()}")


def manifest() -> dict[str, dict[str, Any]]:
    """What is known of each weight file of the package, by its name: hash, recipe, command, steps, machine, PSNR."""
    try:
        found: dict[str, dict[str, Any]] = json.loads((folders.PACKAGED / "manifest.json").read_text(encoding="utf-8"))
    except OSError:  # a package without weights
        return {}
    return found


def how_to_add() -> str:
    """One line: where weights come from and where to put them."""
    return HOW_TO_ADD.format(folder=weight_folders()[0])


def _look_into(path: Path) -> WeightFile:
    try:
        cls, config = detect(read_state_dict(path).tensors)
    except InputError as error:
        return WeightFile(path, None, None, str(error).removeprefix(f"{path}: "))
    return WeightFile(path, cls.name, config["scale"])
