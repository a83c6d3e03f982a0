"""What libvips reads: TIFF, and PNG of 16 bits per channel, which Pillow would cut to 8.

TIFF of 8 bits too, because Pillow's libtiff writes its complaints about damaged files to stderr on its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import torch

from . import metadata, tags
from .errors import InputError
from .files import reason
from .images import Header, Picture
from .tags import TagFile

_EXTRA, _SAMPLE_FORMAT, _ICC = 338, 339, 34675
_SPACES = {5: "CMYK", 8: "LAB", 9: "LAB", 10: "LAB"}
_READABLE = (0, 1, 2, 3, 6)  # grey either way, RGB, palette, YCbCr


def tiff_header(path: Path, file: BinaryIO) -> Header:
    """Reads what kind of TIFF this is; refuses in one line what is neither grey, palette nor RGB of up to 16 bits."""
    tagged = TagFile.open(file)
    places, _, following = tagged.places(tagged.first)
    wanted = (tags.WIDTH, tags.HEIGHT, tags.BITS, tags.PHOTOMETRIC, _SAMPLE_FORMAT)
    told = {tag: tagged.numbers(places[tag]) for tag in wanted if tag in places}
    width, height = ((told.get(tag) or [0])[0] for tag in (tags.WIDTH, tags.HEIGHT))
    if following:
        raise InputError(f"{path}: has more than one page; extract the ones to enlarge as single pictures")
    bits, space = max(told.get(tags.BITS) or [1]), (told.get(tags.PHOTOMETRIC) or [1])[0]
    if any(kind not in (1, 4) for kind in told.get(_SAMPLE_FORMAT) or [1]) or bits not in (1, 2, 4, 8, 16):
        raise InputError(f"{path}: its pixels are {bits}-bit floating point, signed or odd; convert it to 8 or 16 bits")
    if space not in _READABLE:
        raise InputError(f"{path}: its pixels are {_SPACES.get(space, f'of kind {space}')}; convert it to RGB or grey")
    return Header("TIFF", width, height, max(bits, 8))


def read(path: Path, file: BinaryIO, kind: str) -> Picture:
    """Decodes a TIFF with its metadata, or the pixels of a 16-bit PNG."""
    import pyvips

    # By descriptor, since libvips wants names in UTF-8; by one of its own, since `file` reads ahead.
    raw = path.open("rb", buffering=0)
    try:
        source = pyvips.Source.new_from_descriptor(raw.fileno())
        load = pyvips.Image.pngload_source if kind == "PNG" else pyvips.Image.tiffload_source
        image = load(source, access="sequential", fail_on="error")
        if image.format not in ("uchar", "ushort") or image.bands not in (1, 2, 3, 4):
            shown = f"{image.bands} channels of {image.format}"
            raise InputError(f"{path}: its pixels are {shown}; convert it to RGB or grey")
        levels = image.numpy().reshape(image.height, image.width, image.bands)
    except pyvips.Error as error:
        raise InputError(f"{path}: cannot be decoded; it is damaged or cut off ({reason(error)})") from error
    finally:
        raw.close()
    bits = 16 if image.format == "ushort" else 8
    pixels = torch.from_numpy(levels.astype("float32")).permute(2, 0, 1).div_(2**bits - 1)
    grey = image.bands < 3
    colour, alpha = (pixels[:-1], pixels[-1:]) if image.bands in (2, 4) else (pixels, None)
    picture = Picture(colour.expand(3, -1, -1), alpha, bits, grey, kind)
    if kind == "TIFF":
        _take_tags(path, picture, TagFile.open(file))
    return picture


def _take_tags(path: Path, picture: Picture, tagged: TagFile) -> None:
    """What TIFF tags tell beside the pixels: orientation, EXIF, profile, DPI, and whether the last channel is alpha."""
    places = tagged.places(tagged.first)[0]
    extra = tagged.numbers(places[_EXTRA]) if _EXTRA in places else [0]
    # 1 is alpha multiplied into the colour, which libvips undoes, 2 alpha on its own, 0 whatever its maker meant.
    if picture.alpha is not None and extra[:1] not in ([1], [2]):
        raise InputError(f"{path}: has an extra channel of unknown meaning; save it without, or as alpha")
    orientation = (tagged.numbers(places[tags.ORIENTATION]) if tags.ORIENTATION in places else [1])[0]
    picture.colour = metadata.upright(picture.colour, orientation).contiguous()
    picture.alpha = None if picture.alpha is None else metadata.upright(picture.alpha, orientation).contiguous()
    picture.exif, picture.dpi = metadata.exif_of_tiff(tagged), metadata.dpi_of_tiff(tagged, places)
    picture.icc = tagged.value(places[_ICC]).data if _ICC in places else None
