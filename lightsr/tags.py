"""Tag directories, the structure that TIFF files are made of and that EXIF shares: read, changed in place, written.

Values are kept as the bytes they are in the file, in the file's byte order, so that nothing is lost in between.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

ORIENTATION, WIDTH, HEIGHT, BITS, PHOTOMETRIC = 274, 256, 257, 258, 262
EXIF, GPS, INTEROPERABILITY = 34665, 34853, 40965
DIRECTORIES = (EXIF, GPS, INTEROPERABILITY)  # tags whose value is the place of another directory
SHORT, LONG = 3, 4
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_LARGEST = 64 << 20  # bytes of one value that are read; a colour profile has a megabyte or two
_LARGEST_TREE = 8 << 20  # bytes of a whole directory: many tags may claim the same stretch of a file


@dataclass(frozen=True)
class Value:
    """One tag's value: its TIFF type, how many of that type, and their bytes."""

    kind: int
    count: int
    data: bytes


Directory = dict[int, "Value | Directory"]


@dataclass(frozen=True)
class Place:
    """Where in the file a tag's value stands, and what it is."""

    kind: int
    count: int
    offset: int


@dataclass(frozen=True)
class TagFile:
    """A TIFF file, or EXIF bytes, opened at its first directory."""

    file: BinaryIO
    order: str  # "<" or ">"
    big: bool  # BigTIFF: 64-bit places
    first: int

    @classmethod
    def open(cls, file: BinaryIO) -> TagFile:
        """Reads the header; a ValueError when it is none."""
        file.seek(0)
        head = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None:
            raise ValueError("the header is not that of tags")
        magic, first = struct.unpack(f"{order}HL", head[2:8])
        if magic == 43:
            return cls(file, order, True, struct.unpack(f"{order}Q", head[8:16])[0])
        if magic != 42:
            raise ValueError("the header is not that of tags")
        return cls(file, order, False, first)

    def places(self, offset: int) -> tuple[dict[int, Place], int, int]:
        """The tags of the directory at `offset`; then where the next directory's place is written, and that place."""
        count_format, entry_format, place_format = ("Q", "HHQQ", "Q") if self.big else ("H", "HHLL", "L")
        inline = struct.calcsize(f"<{place_format}")
        (count,) = self._read(offset, count_format)
        at = offset + struct.calcsize(f"<{count_format}")
        size = struct.calcsize(f"<{entry_format}")
        found: dict[int, Place] = {}
        for _ in range(min(count, 65535)):
            tag, kind, number, place = self._read(at, entry_format)
            length = _SIZES.get(kind, 1) * number
            found.setdefault(tag, Place(kind, number, place if length > inline else at + size - inline))
            at += size
        (following,) = self._read(at, place_format)
        return found, at, following

    def value(self, place: Place) -> Value:
        """The bytes of a value; a ValueError when the file is too short for them."""
        length = _SIZES.get(place.kind, 1) * place.count
        if length > _LARGEST:
            raise ValueError(f"a value claims {length} bytes")
        self.file.seek(place.offset)
        data = self.file.read(length)
        if len(data) != length:
            raise ValueError("a value lies beyond the end of the file")
        return Value(place.kind, place.count, data)

    def numbers(self, place: Place) -> list[int]:
        """A value of whole numbers, or none at all when it is of another type."""
        code = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q"}.get(place.kind)
        if code is None:
            return []
        return list(struct.unpack(f"{self.order}{place.count}{code}", self.value(place).data))

    def tree(self, offset: int | None = None, depth: int = 0) -> Directory:
        """The directory at `offset`, by default the first, and those it names, less damaged and huge values."""
        found: Directory = {}
        budget = _LARGEST_TREE
        for tag, place in self.places(self.first if offset is None else offset)[0].items():
            try:
                if tag in DIRECTORIES:
                    if depth < 2 and (below := self.numbers(place)):
                        found[tag] = self.tree(below[0], depth + 1)
                elif (length := _SIZES.get(place.kind, 1) * place.count) <= budget:
                    found[tag] = self.value(place)
                    budget -= length
            except (ValueError, struct.error):
                continue
        return found

    def _read(self, offset: int, pattern: str) -> tuple[int, ...]:
        self.file.seek(offset)
        size = struct.calcsize(f"{self.order}{pattern}")
        return struct.unpack(f"{self.order}{pattern}", self.file.read(size))


def packed(order: str, directory: Directory, offset: int) -> bytes:
    """The bytes of a directory that will stand at `offset`, its values and lower directories after it."""
    head = struct.pack(f"{order}H", len(directory))
    start = offset + 2 + 12 * len(directory) + 4
    tail = b""
    for tag, value in sorted(directory.items()):
        here = struct.pack(f"{order}L", start + len(tail))
        if isinstance(value, dict):
            head += struct.pack(f"{order}HHL", tag, LONG, 1) + here
            tail += packed(order, value, start + len(tail))
        else:
            head += struct.pack(f"{order}HHL", tag, value.kind, value.count)
            inline = len(value.data) <= 4
            head += value.data.ljust(4, b"\0") if inline else here
            tail += b"" if inline else value.data
        tail += b"\0" * (len(tail) % 2)
    return head + bytes(4) + tail


def as_bytes(order: str, directory: Directory) -> bytes:
    """A directory on its own, as EXIF is kept in other files."""
    return {"<": b"II*\0\x08\0\0\0", ">": b"MM\0*\0\0\0\x08"}[order] + packed(order, directory, 8)


def opened_bytes(data: bytes) -> TagFile:
    """EXIF bytes as a file of tags; a ValueError when they are not."""
    return TagFile.open(io.BytesIO(data))
