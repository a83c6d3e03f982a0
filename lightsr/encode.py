"""A picture as the bytes of a file: PNG, JPEG, WebP, TIFF or BMP."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

from . import metadata, tags
from .tags import Value

if TYPE_CHECKING:
    import numpy as np

    from .images import Picture

_STRIP = 1 << 18  # bytes of a TIFF strip before compression


def encoded(kind: str, picture: Picture, quality: int) -> bytes:
    """The whole file, with the metadata the format has a place for. Encoders' errors come as they are."""
    alpha = kind not in ("JPEG", "BMP") and picture.alpha is not None
    grey = picture.grey and kind != "WEBP"  # WebP has no grey
    levels = _levels(picture, grey, alpha)
    exif = metadata.with_size(picture.exif, *picture.size) if picture.exif else None
    if kind == "WEBP" and picture.dpi:
        exif = metadata.with_dpi(exif, picture.dpi)
    icc = picture.icc
    if icc is not None and icc[16:20] != (b"GRAY" if grey else b"RGB "):
        icc = None  # a profile for other channels than are written
    if kind == "TIFF":
        return _tiff(levels, alpha, exif, icc, picture.dpi)
    if picture.bits == 16:
        return _with_chunks(_png16(levels), exif, icc, picture.dpi)
    return _pillow(kind, levels, quality, exif, icc, picture.dpi)


def _levels(picture: Picture, grey: bool, alpha: bool) -> np.ndarray[Any, Any]:  # [H, W, C] uint8 or uint16
    import numpy as np

    channels = [picture.colour[0]] if grey else list(picture.colour)
    if alpha and picture.alpha is not None:
        channels.append(picture.alpha[0])
    top, dtype = 2**picture.bits - 1, np.uint16 if picture.bits == 16 else np.uint8
    levels = np.empty((*channels[0].shape, len(channels)), dtype)
    for k, channel in enumerate(channels):  # one at a time, to keep memory low
        levels[:, :, k] = channel.clamp(0, 1).mul_(top).add_(0.5).floor_().numpy()
    return levels


def _pillow(
    kind: str,
    levels: np.ndarray[Any, Any],
    quality: int,
    exif: bytes | None,
    icc: bytes | None,
    dpi: tuple[float, float] | None,
) -> bytes:
    from PIL import Image

    options: dict[str, Any] = {"dpi": dpi} if dpi else {}
    if kind in ("PNG", "JPEG", "WEBP"):
        options |= {"exif": b"Exif\0\0" + exif} if exif else {}
        options |= {"icc_profile": icc} if icc else {}
    if kind == "JPEG":
        # Full colour resolution: halving it would undo part of what was just made.
        options |= {"quality": quality, "subsampling": 0, "optimize": True}
    elif kind == "WEBP":
        options |= {"quality": quality, "lossless": quality == 100}
    file = io.BytesIO()
    Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels).save(file, kind, **options)
    return file.getvalue()


def _png16(levels: np.ndarray[Any, Any]) -> bytes:
    import pyvips

    height, width, bands = levels.shape
    image = pyvips.Image.new_from_memory(levels.data, width, height, bands, "ushort")
    image = image.copy(interpretation="grey16" if bands < 3 else "rgb16")
    data: bytes = image.pngsave_buffer(keep="none", filter="all", bitdepth=16)
    return data


def _with_chunks(png: bytes, exif: bytes | None, icc: bytes | None, dpi: tuple[float, float] | None) -> bytes:
    """A PNG with metadata put after its header, byte for byte; libvips would write EXIF anew in its own way."""
    chunks = b""
    if icc:
        chunks += _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))
    if dpi:
        chunks += _chunk(b"pHYs", struct.pack(">LLB", *(round(each / 0.0254) for each in dpi), 1))
    if exif:
        chunks += _chunk(b"eXIf", exif)
    header_end = 8 + 25
    kept, at = [], header_end
    while at < len(png):
        (length,) = struct.unpack_from(">L", png, at)
        if png[at + 4 : at + 8] not in (b"pHYs", b"eXIf", b"iCCP"):
            kept.append(png[at : at + length + 12])
        at += length + 12
    return b"".join([png[:header_end], chunks, *kept])


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))


def _tiff(
    levels: np.ndarray[Any, Any],
    alpha: bool,
    exif: bytes | None,
    icc: bytes | None,
    dpi: tuple[float, float] | None,
) -> bytes:
    """A TIFF of deflated strips; Pillow writes EXIF into no compressed TIFF, and libvips into none at all."""
    order, directory = metadata.describing_tags(exif) if exif else ("<", {})
    height, width, bands = levels.shape
    kind = levels.dtype.newbyteorder(order)
    rows = max(1, _STRIP // (width * bands * levels.itemsize))
    offsets, lengths, data = [], [], [b""]
    at = 8
    for top in range(0, height, rows):
        strip = levels[top : top + rows].astype(kind)
        strip[:, 1:] -= levels[top : top + rows, :-1]  # predictor 2: differences wrap around, as the reader's sums do
        packed = zlib.compress(strip.tobytes())
        offsets.append(at)
        lengths.append(len(packed))
        data.append(packed + b"\0" * (len(packed) % 2))
        at += len(data[-1])
    short, long = (_numbers(order, code, number) for code, number in (("H", tags.SHORT), ("L", tags.LONG)))
    bits = 8 * levels.itemsize
    directory = directory | {
        tags.WIDTH: long(width),
        tags.HEIGHT: long(height),
        tags.BITS: short(*[bits] * bands),
        259: short(8),  # Compression: deflate
        tags.PHOTOMETRIC: short(1 if bands < 3 else 2),
        273: long(*offsets),  # StripOffsets
        tags.ORIENTATION: short(1),
        277: short(bands),  # SamplesPerPixel
        278: long(rows),  # RowsPerStrip
        279: long(*lengths),  # StripByteCounts
        317: short(2),  # Predictor: horizontal differences
        339: short(*[1] * bands),  # SampleFormat: unsigned
    }
    if alpha:
        directory[338] = short(2)  # ExtraSamples: alpha that is not multiplied in
    if icc:
        directory[34675] = Value(7, len(icc), icc)
    if dpi:
        x, y = (struct.pack(f"{order}LL", round(each * 1000), 1000) for each in dpi)
        directory |= {282: Value(5, 1, x), 283: Value(5, 1, y), 296: short(2)}
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}L", at)
    return b"".join([head, *data, tags.packed(order, directory, at)])


def _numbers(order: str, code: str, kind: int) -> Any:
    return lambda *values: Value(kind, len(values), struct.pack(f"{order}{len(values)}{code}", *values))
