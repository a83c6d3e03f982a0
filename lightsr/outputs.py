"""Which file each picture is written to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .errors import InputError
from .files import check_file, reason
from .images import FORMATS, list_pictures

SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif", "bmp": ".bmp"}


@dataclass(frozen=True)
class Job:
    """One picture to read and the file to write."""

    source: Path
    target: Path


def plan(source: Path, output: Path | None, label: str, format: str | None) -> tuple[list[Job], list[tuple[Path, str]]]:
    """Pairs every input with its output, and makes nothing yet.

    Args:
        source: a file, or a folder whose pictures are taken.
        output: a file when the source is one and its suffix is a picture's, else a folder; None for beside the source:
            in its folder, or in a new one that is called as it is and `label`.
        label: what follows the input's stem in a folder: `hasnx4`.
        format: png, jpeg, webp, tiff or bmp, or None for the input's own suffix.

    Returns:
        The jobs; and the inputs left out because their output is another's too, or an input, each with the reason.

    Raises InputError when either path cannot be what it is meant to be.
    """
    if format is not None and format not in SUFFIXES:
        raise InputError(f"format must be one of {', '.join(SUFFIXES)}; got {format!r}")
    suffix = None if format is None else SUFFIXES[format]
    if output is None:
        output = source.with_name(f"{source.resolve().name}_{label}") if source.is_dir() else source.parent
    if "\0" in str(output):
        raise InputError(f"{output}: is no name for a file, with a NUL in it")
    if not source.is_dir():
        check_file(source)
        if not _means_folder(output):
            return [Job(source, _checked_file(source, output, format))], []
    pictures = list_pictures(source) if source.is_dir() else [source]
    if not pictures:
        raise InputError(f"{source}: has no picture in it; {', '.join(FORMATS)} files are taken")
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file; several pictures need a folder to be written to")
    inputs = {_identity(each): each for each in pictures}
    inputs.pop(None, None)
    jobs: dict[Path, Job] = {}
    clashes: list[tuple[Path, str]] = []
    for each in pictures:
        if suffix is None and each.suffix.lower() not in FORMATS:
            raise InputError(f"{each}: suffix {each.suffix!r} is none of {', '.join(FORMATS)}; name a format to write")
        target = output / f"{each.stem}_{label}{suffix or each.suffix}"
        if target in jobs:
            clashes.append((each, f"would be written to {target}, as {jobs[target].source} is; rename one of them"))
        elif target.is_dir():
            clashes.append((each, f"would be written to {target}, which is a folder"))
        elif (hit := inputs.get(_identity(target))) is not None:
            which = "the input itself" if hit == each else "another input"
            clashes.append((each, f"would overwrite {hit}, which is {which}; write to another folder"))
        else:
            jobs[target] = Job(each, target)
    return list(jobs.values()), clashes


def make_folder(folder: Path) -> None:
    """Makes the folder that outputs go to, if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {reason(error)}") from error


def _identity(path: Path) -> tuple[int, int] | None:
    """What is the same for all names of one file, links included; None when there is no file."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _means_folder(output: Path) -> bool:
    """An existing folder, or a name without a suffix."""
    return output.is_dir() or (not output.suffix and not output.exists())


def _checked_file(source: Path, output: Path, format: str | None) -> Path:
    kind = FORMATS.get(output.suffix.lower())
    if output.exists() and not output.is_file():
        raise InputError(f"{output}: is a pipe, socket or device; a file or a folder is needed")
    if kind is None:
        raise InputError(f"{output}: suffix {output.suffix!r} is none of {', '.join(FORMATS)}")
    if format is not None and FORMATS[SUFFIXES[format]] != kind:
        raise InputError(f"{output}: its suffix says {kind} and the format asked for is {format}; leave one out")
    if output.exists() and source.samefile(output):
        raise InputError(f"{output}: is the input itself, which is not overwritten; name another file")
    if not output.parent.is_dir():
        raise InputError(f"{output.parent}: no such folder to write {output.name} to")
    return output
