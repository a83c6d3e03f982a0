"""What a picture file tells beside its pixels: orientation, EXIF, colour profile, DPI.

EXIF is handed on byte for byte, but for what the enlarged picture makes untrue: the orientation (applied already), the
size in pixels, the thumbnail.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from torch import Tensor

from . import tags
from .tags import Directory, Place, TagFile

# The tags of a TIFF that describe the picture; all others describe how this very file keeps its pixels.
_DESCRIBING = (269, 270, 271, 272, 285, 305, 306, 315, 316, 18246, 18249, 33432, 40091, 40092, 40093, 40094, 40095)
_PREFIX = b"Exif\0\0"
_PIXEL_X, _PIXEL_Y = 40962, 40963
_RESOLUTION = (282, 283, 296)
_RATIONAL = 5
_DAMAGE = (ValueError, struct.error, KeyError, OverflowError)


def upright(pixels: Tensor, orientation: int) -> Tensor:  # [C, H, W] -> [C, H, W] or [C, W, H]
    """Turns and mirrors a picture as its EXIF orientation (1 to 8) asks for."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.mT
    flips = {2: [2], 3: [1, 2], 4: [1], 5: [], 6: [2], 7: [1, 2], 8: [1]}.get(orientation, [])
    return pixels.flip(flips) if flips else pixels


def orientation_of(image: Any) -> int:
    """The orientation a Pillow image's EXIF or XMP tells, 1 when it tells none."""
    try:
        value = image.getexif().get(tags.ORIENTATION, 1)
    except Exception:  # damaged EXIF is no reason to refuse the pixels; decoders raise all kinds
        return 1
    return value if value in range(1, 9) else 1


def exif_of(image: Any) -> bytes | None:
    """A Pillow image's EXIF bytes, without prefix, orientation reset and thumbnail cut off; None if damaged."""
    exif = image.info.get("exif")
    if not isinstance(exif, bytes):
        return None
    exif = exif.removeprefix(_PREFIX)
    try:
        file = tags.opened_bytes(exif)
        places, next_at, _ = file.places(file.first)
    except _DAMAGE:
        return None
    edited = bytearray(exif)
    _set(edited, file, places.get(tags.ORIENTATION), 1)
    edited[next_at : next_at + 4] = bytes(4)
    return bytes(edited)


def exif_of_tiff(file: TagFile) -> bytes | None:
    """The describing tags of a TIFF file as EXIF bytes, or None when there are none."""
    tree = file.tree()
    kept: Directory = {tag: tree[tag] for tag in (*_DESCRIBING, tags.EXIF, tags.GPS) if tag in tree}
    return tags.as_bytes(file.order, kept) if kept else None


def with_size(exif: bytes, width: int, height: int) -> bytes:
    """EXIF bytes with the picture's size, where they tell one, set to this size."""
    try:
        file = tags.opened_bytes(exif)
        below = file.places(file.first)[0].get(tags.EXIF)
        if below is None:
            return exif
        places = file.places(file.numbers(below)[0])[0]
    except (*_DAMAGE, IndexError):
        return exif
    edited = bytearray(exif)
    _set(edited, file, places.get(_PIXEL_X), width)
    _set(edited, file, places.get(_PIXEL_Y), height)
    return bytes(edited)


def describing_tags(exif: bytes) -> tuple[str, Directory]:
    """The byte order and the tags of EXIF bytes that a TIFF file can take as its own; ("<", {}) when damaged."""
    try:
        file = tags.opened_bytes(exif)
        tree = file.tree()
    except _DAMAGE:
        return "<", {}
    return file.order, {tag: tree[tag] for tag in (*_DESCRIBING, tags.EXIF, tags.GPS) if tag in tree}


def icc_of(image: Any) -> bytes | None:
    """A Pillow image's colour profile."""
    profile = image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) and profile else None


def dpi_of(image: Any) -> tuple[float, float] | None:
    """A Pillow image's resolution in dots per inch, None when the file tells none that makes sense."""
    if image.format == "WEBP":
        return _dpi_of_exif(image.info.get("exif"))  # the only place that WebP has for it
    told = image.info.get("dpi")
    if isinstance(told, tuple) and len(told) == 2:
        try:
            x, y = float(told[0]), float(told[1])
        except (TypeError, *_DAMAGE, ZeroDivisionError):
            return None
        return plausible_dpi(x, y)
    return None


def with_dpi(exif: bytes | None, dpi: tuple[float, float]) -> bytes:
    """EXIF bytes that tell this resolution, for a format with no other place for it; as they are when damaged.

    The first directory is written anew at the end and all else stays where it is: camera makers' notes point about.
    """
    exif = exif or tags.as_bytes("<", {})
    try:
        file = tags.opened_bytes(exif)
        order, first = file.order, file.first
        (count,) = struct.unpack_from(f"{order}H", exif, first)
        starts = range(first + 2, first + 2 + 12 * count, 12)
        entries = {struct.unpack_from(f"{order}H", exif, at)[0]: exif[at : at + 12] for at in starts}
        following = exif[first + 2 + 12 * count :][:4].ljust(4, b"\0")
    except _DAMAGE:
        return exif
    if file.big:
        return exif
    edited = bytearray(exif + b"\0" * (len(exif) % 2))
    for tag, each in zip(_RESOLUTION, dpi, strict=False):
        entries[tag] = struct.pack(f"{order}HHLL", tag, _RATIONAL, 1, len(edited))
        edited += struct.pack(f"{order}LL", round(each * 1000), 1000)
    entries[_RESOLUTION[2]] = struct.pack(f"{order}HHLHH", _RESOLUTION[2], tags.SHORT, 1, 2, 0)  # inches
    struct.pack_into(f"{order}L", edited, 4, len(edited))
    edited += struct.pack(f"{order}H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + following
    return bytes(edited)


def _dpi_of_exif(exif: object) -> tuple[float, float] | None:
    try:
        file = tags.opened_bytes(exif.removeprefix(_PREFIX) if isinstance(exif, bytes) else b"")
        return dpi_of_tiff(file, file.places(file.first)[0])
    except _DAMAGE:
        return None


def dpi_of_tiff(file: TagFile, places: dict[int, Place]) -> tuple[float, float] | None:
    """A TIFF file's resolution in dots per inch; without a unit of length it says nothing."""
    try:
        x, y = (struct.unpack(f"{file.order}LL", file.value(places[tag]).data) for tag in _RESOLUTION[:2])
        unit = file.numbers(places[_RESOLUTION[2]])[0] if _RESOLUTION[2] in places else 2
        per_inch = {2: 1.0, 3: 2.54}[unit]
        return plausible_dpi(x[0] / x[1] * per_inch, y[0] / y[1] * per_inch)
    except (*_DAMAGE, IndexError, ZeroDivisionError):
        return None


def plausible_dpi(x: float, y: float) -> tuple[float, float] | None:
    """The pair, or None when a file could not hold it."""
    return (x, y) if all(math.isfinite(each) and 1 <= each <= 65535 for each in (x, y)) else None


def _set(edited: bytearray, file: TagFile, place: Place | None, value: int) -> None:
    """Writes one number over the one that stands there, where it is a number and has the room."""
    if place is None or place.count != 1 or place.kind not in (tags.SHORT, tags.LONG):
        return
    if place.kind == tags.LONG or value < 65536:
        struct.pack_into(f"{file.order}{'H' if place.kind == tags.SHORT else 'L'}", edited, place.offset, value)
