"""The training pictures, decoded once: all of them in one flat array, low resolution beside high."""

from __future__ import annotations

import logging
import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..files import check_file, reason
from ..images import FORMATS, list_pictures, read_rgb8
from ..resize import imresize

logger = logging.getLogger(__name__)

MARGIN = 2  # low-resolution pixels around a patch that its bicubic shrinking reads
MAX_UNPACKED = 2**34  # bytes that a packed file may claim


@dataclass(frozen=True)
class Source:
    """One picture file, and what to call it in messages (a packed one has no path of its own)."""

    path: Path
    name: str
    stamp: tuple[int, int]  # size and time of change, or the checksum in a packed file


@dataclass(frozen=True)
class Planes:
    """Pictures of several sizes in one flat array, each as its three colour planes."""

    values: Tensor  # [total] uint8
    offsets: list[int]  # where each picture begins
    sizes: list[tuple[int, int]]  # height, width

    def picture(self, number: int) -> Tensor:  # [3, H, W], a view
        """One picture."""
        height, width = self.sizes[number]
        start = self.offsets[number]
        return self.values[start : start + 3 * height * width].view(3, height, width)

    def to(self, device: torch.device) -> Planes:
        """The same on another device."""
        return Planes(self.values.to(device), self.offsets, self.sizes)


@dataclass(frozen=True)
class Pictures:
    """What training reads: `hr` cropped to a multiple of the scale; `lr` its MATLAB bicubic, or None."""

    names: list[str]
    hr: Planes
    lr: Planes | None
    scale: int

    def to(self, device: torch.device) -> Pictures:
        """The same on another device."""
        return Pictures(self.names, self.hr.to(device), None if self.lr is None else self.lr.to(device), self.scale)


def find_pictures(places: Sequence[str | Path], stack: ExitStack) -> list[Source]:
    """The picture files of folders and packed files; one place named twice gives its pictures twice.

    A packed file is laid out in a temporary folder that lives as long as `stack`. Raises InputError for a place that is
    not there or has no pictures.
    """
    if not places:
        raise InputError("data.train names no folder of pictures; give one with --set data.train=FOLDER")
    known: dict[str, list[Source]] = {}
    for place in map(str, places):
        if place not in known:
            path = Path(place)
            known[place] = _in_folder(path) if path.is_dir() else _unpacked(path, stack)
            if not known[place]:
                raise InputError(f"{place}: no pictures in it; {', '.join(FORMATS)} files are taken")
    return [source for place in map(str, places) for source in known[place]]


def load_pictures(sources: Sequence[Source], scale: int, smallest: int, low_resolution: bool) -> Pictures:
    """Decodes every picture, and shrinks it where `low_resolution` says so.

    Args:
        sources: of `find_pictures`; one that stands there twice is decoded once.
        scale: high-resolution side over low-resolution side.
        smallest: side in low-resolution pixels below which a picture is left out, with a note in the log.
        low_resolution: makes the low-resolution pictures too.

    Raises InputError that names the files that cannot be read (three, and how many more), or when no picture is large
    enough.
    """
    unique = list(dict.fromkeys(sources))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = list(pool.map(lambda source: _decode(source, scale), unique))
    broken = [each for each in decoded if isinstance(each, str)]
    if broken:
        more = f", and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise InputError(
            f"{len(broken)} of {len(unique)} training pictures cannot be read: {'; '.join(broken[:3])}{more}"
        )
    found = dict(zip(unique, decoded, strict=True))
    small = [each.name for each in unique if min(found[each].shape[1:]) < smallest * scale]  # type: ignore[union-attr]
    left_out = set(small)
    kept = [each for each in sources if each.name not in left_out]
    if not kept:
        raise InputError(
            f"none of {len(unique)} training pictures has {smallest * scale} pixels a side, as a patch has"
        )
    if small:
        side = smallest * scale
        logger.info("%d pictures under %d pixels a side left out, such as %s", len(small), side, small[0])
    large = [each for each in unique if each.name not in left_out]
    pictures: list[Tensor] = [found[each] for each in large]  # type: ignore[misc]
    place = {each: k for k, each in enumerate(large)}
    order = [place[each] for each in kept]
    hr = _flat(pictures, order)
    lr = _flat([imresize(each, 1 / scale) for each in pictures], order) if low_resolution else None
    return Pictures([each.name for each in kept], hr, lr, scale)


def _flat(pictures: list[Tensor], order: list[int]) -> Planes:
    """One array; `order` says which picture stands at each number, so that a repeated one takes no memory."""
    starts, total = [], 0
    for each in pictures:
        starts.append(total)
        total += each.numel()
    values = torch.zeros(total, dtype=torch.uint8)
    for start, each in zip(starts, pictures, strict=True):
        values[start : start + each.numel()] = each.reshape(-1)
    sizes = [(each.shape[1], each.shape[2]) for each in pictures]
    return Planes(values, [starts[k] for k in order], [sizes[k] for k in order])


def _decode(
    source: Source, scale: int
) -> Tensor | str:  # [3, H, W] uint8, H and W multiples of scale; or what is wrong
    try:
        picture = read_rgb8(source.path)
    except (InputError, OSError, MemoryError) as error:
        return str(error).replace(str(source.path), source.name) or f"{source.name}: {type(error).__name__}"
    height, width = (side // scale * scale for side in picture.shape[1:])
    return picture[:, :height, :width]


def _in_folder(folder: Path) -> list[Source]:
    found = []
    for path in list_pictures(folder):
        try:
            status = path.stat()
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {reason(error)}") from error
        found.append(Source(path, str(path), (status.st_size, status.st_mtime_ns)))
    return found


def _unpacked(path: Path, stack: ExitStack) -> list[Source]:
    """The pictures of a packed file (`pack.py`), under numbers: nothing of the file's names reaches the disk."""
    try:
        check_file(path)
        with zipfile.ZipFile(path) as archive:
            entries = [each for each in archive.infolist() if Path(each.filename).suffix.lower() in FORMATS]
            if sum(each.file_size for each in entries) > MAX_UNPACKED:
                raise InputError(f"{path}: claims more than {MAX_UNPACKED} bytes of pictures")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lightsr-")))
            return list(_laid_out(archive, entries, folder, path))
    except InputError:
        raise
    except Exception as error:  # damage shows in many kinds, zlib's and lzma's own among them
        raise InputError(
            f"{path}: no folder, and cannot be read as a packed file of pictures: {reason(error)}"
        ) from error


def _laid_out(archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo], folder: Path, path: Path) -> Iterator[Source]:
    for number, entry in enumerate(entries):
        target = folder / f"{number}{Path(entry.filename).suffix.lower()}"
        target.write_bytes(archive.read(entry))
        yield Source(target, f"{path}:{entry.filename}", (entry.file_size, entry.CRC))
