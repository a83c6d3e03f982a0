"""Pictures in and out: PNG, JPEG, WebP, TIFF and BMP.

TIFF and PNG of 16 bits are read through libvips, the others through Pillow.

Nothing is lost silently: what cannot be carried whole (CMYK, floating point, animation) is refused in one line.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from . import metadata
from .errors import InputError
from .files import opened, reason, replacing

MAX_PIXELS = 178_956_970  # where Pillow, too, takes a picture for a decompression bomb
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
_HEADS = ((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"BM", "BMP"))
_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_GREY, _COLOUR = ("1", "L", "LA", "La"), ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr")
_pillow_limit = threading.Lock()


@dataclass
class Picture:
    """A picture the right way up, and what its file told beside the pixels."""

    colour: Tensor  # [3, H, W] float32, 0..1; three equal channels when grey
    alpha: Tensor | None = None  # [1, H, W] float32, 0..1, not multiplied into the colour
    bits: int = 8  # per channel: 8 or 16
    grey: bool = False
    format: str = "PNG"  # PNG, JPEG, WEBP, TIFF, BMP
    exif: bytes | None = None  # TIFF bytes with the orientation reset
    icc: bytes | None = None  # colour profile
    dpi: tuple[float, float] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.colour.shape[2], self.colour.shape[1]


@dataclass
class Header:
    """What is known of a picture before its pixels are decoded."""

    format: str
    width: int
    height: int
    bits: int


def read_picture(path: str | Path, max_pixels: int = MAX_PIXELS) -> Picture:
    """Reads a picture, turned as its EXIF orientation says.

    Args:
        path: a PNG, JPEG, WebP, TIFF or BMP file; what it holds counts, not its suffix.
        max_pixels: a picture of more pixels is refused before it is decoded.

    Returns:
        The picture, 8 bits or, from a 16-bit PNG or TIFF, 16 bits. 1 bit becomes grey, a palette RGB, a transparent
        palette or colour alpha.

    Raises InputError in one line for anything that is no such file, is damaged or too large, and for CMYK, other colour
    spaces, 32-bit and floating-point pixels, and more than one frame or page.

    Example:
        >>> from lightsr.images import read_picture
        >>> read_picture("photo.jpg").size  # doctest: +SKIP
        (1920, 1080)
    """
    path = Path(path)
    with _decoding(path) as file:
        header, image = _open(path, file, max_pixels)
        if image is None or header.bits == 16:
            from .libvips import read

            picture = read(path, file, header.format)
            if image is not None:
                picture.colour, picture.alpha = _turned(picture.colour, picture.alpha, image)
                picture.exif, picture.icc = metadata.exif_of(image), metadata.icc_of(image)
                picture.dpi = metadata.dpi_of(image)
            return picture
        return _read8(image, header)


def read_header(path: str | Path, max_pixels: int = MAX_PIXELS) -> Header:
    """What a picture is, without decoding it; refuses what `read_picture` refuses by the header alone."""
    with _decoding(Path(path)) as file:
        return _open(Path(path), file, max_pixels)[0]


def read_rgb8(path: str | Path) -> Tensor:  # [3, H, W] uint8
    """Reads an 8-bit picture without transparency as RGB, a grey one in three equal channels, as measures need it."""
    picture = read_picture(path)
    if picture.bits != 8:
        raise InputError(f"{path}: has 16 bits per channel; training and measures take 8, so convert it")
    if picture.alpha is not None:
        raise InputError(f"{path}: has transparency; training and measures take opaque pictures, so flatten it")
    return (picture.colour * 255).round_().to(torch.uint8)


def write_picture(path: str | Path, picture: Picture, quality: int = 95) -> None:
    """Writes a picture in the format of the path's suffix, whole or not at all.

    Args:
        path: ends in .png, .jpg, .jpeg, .webp, .tif, .tiff or .bmp; an existing file is replaced.
        picture: values beyond 0..1 are clipped. EXIF, colour profile and DPI are written where the format has them.
        quality: of JPEG and WebP, 1 to 100; a WebP of 100 is lossless.

    Raises InputError in one line when the format cannot hold the picture (16 bits, transparency, size), or when the
    file cannot be written.
    """
    path = Path(path)
    kind = format_of(path)
    check_fits(kind, picture)
    from .encode import encoded

    try:
        data = encoded(kind, picture, quality)
    except MemoryError:
        raise
    except Exception as error:  # encoders raise all kinds, such as for metadata that they cannot hold
        raise InputError(f"{path}: {kind} cannot hold this picture: {reason(error)}") from error
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def check_fits(kind: str, picture: Picture, scale: int = 1) -> None:
    """Raises InputError when a format cannot hold a picture, enlarged `scale` times, without losing part of it."""
    width, height = (side * scale for side in picture.size)
    if picture.bits == 16 and kind not in ("PNG", "TIFF"):
        raise InputError(
            f"has 16 bits per channel and {kind} holds 8; write PNG or TIFF, or convert it to 8 bits first"
        )
    if kind in ("JPEG", "BMP") and picture.alpha is not None and bool((picture.alpha < 1).any()):
        raise InputError(f"has transparency and {kind} holds none; write PNG, WebP or TIFF, or flatten it first")
    limit = {"JPEG": 65500, "WEBP": 16383}.get(kind)
    if limit is not None and max(width, height) > limit:
        raise InputError(f"the result has {width}x{height} pixels and {kind} holds {limit} a side; write PNG or TIFF")
    if kind in ("TIFF", "BMP") and width * height * 4 * picture.bits // 8 >= 2**32 - 2**24:
        raise InputError(f"the result has {width}x{height} pixels, more than {kind} holds in 4 GB; write PNG")


def format_of(path: Path) -> str:
    """The format of a path by its suffix; an InputError when there is none."""
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path}: suffix {path.suffix!r} is none of {', '.join(FORMATS)}")
    return kind


def list_pictures(folder: str | Path) -> list[Path]:
    """The picture files directly in a folder, by suffix, in order of name; hidden ones are left out."""
    folder = Path(folder)
    try:
        found = [each for each in folder.iterdir() if each.suffix.lower() in FORMATS and not each.name.startswith(".")]
        return sorted(each for each in found if not each.is_dir())
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: cannot be listed: {reason(error)}") from error


@contextmanager
def _decoding(path: Path) -> Iterator[BinaryIO]:
    """The open file; whatever a decoder raises on it becomes an InputError, and what it warns of stays unsaid."""
    with opened(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield file
        except (InputError, MemoryError):
            raise
        except Exception as error:  # strangers' bytes make decoders raise anything
            raise InputError(f"{path}: cannot be decoded; it is damaged or cut off ({reason(error)})") from error


def _open(path: Path, file: BinaryIO, max_pixels: int) -> tuple[Header, Any]:
    """The header, and the Pillow image unless it is a TIFF; all refusals that need no pixels."""
    kind = _sniff(path, file)
    if kind == "TIFF":
        from .libvips import tiff_header

        header = tiff_header(path, file)
        _check_size(path, header.width, header.height, max_pixels)
        return header, None
    image = _open_pillow(path, file, kind)
    width, height = image.size
    _check_size(path, width, height, max_pixels)
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a phone's JPEG with extras
    if frames > 1:
        raise InputError(f"{path}: has {frames} frames or pages; extract the ones to enlarge as single pictures")
    bits = 8
    if kind == "PNG":
        file.seek(24)
        bits = max(8, file.read(1)[0])
    if image.mode not in (*_GREY, *_COLOUR) and bits == 8:
        raise InputError(f"{path}: its pixels are {image.mode}; convert it to RGB or grey with 8 or 16 bits first")
    return Header(kind, width, height, bits), image


def _sniff(path: Path, file: BinaryIO) -> str:
    head = file.read(16)
    if not head:
        raise InputError(f"{path}: is empty")
    kind = next((kind for start, kind in _HEADS if head.startswith(start)), None)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        kind = "WEBP"
    elif head[:4] in _TIFF_HEADS:
        kind = "TIFF"
    if kind is None:
        raise InputError(f"{path}: is not a PNG, JPEG, WebP, TIFF or BMP picture, whatever its name says")
    return kind


def _open_pillow(path: Path, file: BinaryIO, kind: str) -> Any:
    from PIL import Image, UnidentifiedImageError

    file.seek(0)
    # Pillow's own limit is one for the whole process and would come before ours, with another message.
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=[kind])
        except UnidentifiedImageError:
            raise InputError(f"{path}: cannot be decoded; its {kind} header is damaged or cut off") from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise InputError(
            f"{path}: has {width}x{height} pixels and the limit is {max_pixels}; if you trust it, raise --max-pixels"
        )
    if width * height == 0:
        raise InputError(f"{path}: has no pixels ({width}x{height})")


def _read8(image: Any, header: Header) -> Picture:
    import numpy as np

    transparent, grey = image.has_transparency_data, image.mode in _GREY
    image.load()
    mode = ("L" if grey else "RGB") + ("A" if transparent else "")
    levels = np.array(image if image.mode == mode else image.convert(mode))
    pixels = torch.from_numpy(levels.reshape(*levels.shape[:2], -1)).permute(2, 0, 1).float().div_(255)
    colour, alpha = (pixels[:-1], pixels[-1:]) if transparent else (pixels, None)
    colour, alpha = _turned(colour, alpha, image)
    colour = colour.expand(3, -1, -1)
    exif, icc, dpi = metadata.exif_of(image), metadata.icc_of(image), metadata.dpi_of(image)
    return Picture(colour, alpha, 8, grey, header.format, exif, icc, dpi)


def _turned(colour: Tensor, alpha: Tensor | None, image: Any) -> tuple[Tensor, Tensor | None]:
    orientation = metadata.orientation_of(image)
    turn = metadata.upright
    return turn(colour, orientation).contiguous(), None if alpha is None else turn(alpha, orientation).contiguous()
