"""Folders of test pictures: a data set's name, and which low-resolution file belongs to which picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError
from .images import list_pictures

# What test sets put after a picture's name: baby_HR, babyx4, baby_x4_bicubic, img_001_SRF_4_LR, baby_LRBI_x4.
_SUFFIX = re.compile(r"([-_.]?(x\d|srf_\d|hr|gt|lr|lrbi|bi|bicubic))+$", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """One picture, and its low-resolution file when there is one to be used."""

    hr: Path
    lr: Path | None


@dataclass(frozen=True)
class DataSet:
    """A folder of pictures under the name that tables show."""

    name: str
    pairs: list[Pair]
    unmatched: list[Path]  # pictures with no low-resolution file where there should be one


def find_data_sets(folders: Sequence[Path], lr_folders: Sequence[Path] | None, scale: int) -> list[DataSet]:
    """Each folder's pictures; with `lr_folders`, one for each folder, paired with the files of the same stem.

    A data set is called after its folder, or after the parent of a folder called HR; where two would share a name, both
    go by their whole paths. A folder without pictures may hold them in HR (and X2, X3, X4 for low resolution). Raises
    InputError for a folder that is not there or has no pictures, and when the numbers of folders differ.
    """
    if lr_folders is not None and len(lr_folders) != len(folders):
        raise InputError(
            f"one low-resolution folder is needed for each of {len(folders)} folders; got {len(lr_folders)}"
        )
    resolved = [_with_pictures(folder, "HR") for folder in folders]
    names = [_name(folder) for folder in resolved]
    data_sets = []
    for k, folder in enumerate(resolved):
        name = names[k] if names.count(names[k]) == 1 else str(folder)
        pictures = list_pictures(folder)
        if lr_folders is None:
            data_sets.append(DataSet(name, [Pair(path, None) for path in pictures], []))
            continue
        matches = _match(pictures, list_pictures(_with_pictures(lr_folders[k], f"X{scale}")))
        pairs = [Pair(path, lr) for path, lr in matches.items() if lr is not None]
        data_sets.append(DataSet(name, pairs, [path for path, lr in matches.items() if lr is None]))
    return data_sets


def _name(folder: Path) -> str:
    absolute = folder.absolute()
    return (absolute.parent if absolute.name.upper() == "HR" else absolute).name or str(folder)


def _with_pictures(folder: Path, inner: str) -> Path:
    for each in (folder, folder / inner, folder / inner.lower()):
        if each.is_dir() and list_pictures(each):
            return each
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a folder of pictures")
    raise InputError(f"{folder}: no pictures in it, nor in its folder {inner}; PNG, JPEG, WebP, TIFF and BMP are read")


def _match(pictures: list[Path], lr_pictures: list[Path]) -> dict[Path, Path | None]:
    """By the same stem first; else by what is left of both stems without such endings as x4."""
    exact = {path.stem: path for path in lr_pictures}
    bare = {_SUFFIX.sub("", path.stem): path for path in lr_pictures}
    return {path: exact.get(path.stem) or bare.get(_SUFFIX.sub("", path.stem)) for path in pictures}
