"""Pictures of 16 bits per channel, PNG and TIFF, read through libvips; Pillow would cut them to 8 bits."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from . import metadata, tags
from .errors import InputError
from .files import reason
from .images import Header, Picture
from .tags import TagFile

_SAMPLES, _NEXT_KIND, _EXTRA, _SAMPLE_FORMAT, _ICC = 277, 254, 338, 339, 34675
_SPACES = {0: "grey", 1: "grey", 2: "RGB", 3: "a palette", 5: "CMYK", 6: "YCbCr", 8: "Lab"}


def tiff_header(path: Path, file: BinaryIO) -> Header:
    """Reads what kind of TIFF this is; refuses in one line what is neither 8- nor 16-bit grey, palette or RGB."""
    tagged = TagFile.open(file)
    places, _, following = tagged.places(tagged.first)
    told = {tag: tagged.numbers(places[tag]) for tag in _HEADER_TAGS if tag in places}
    width, height = ((told.get(tag) or [0])[0] for tag in (tags.WIDTH, tags.HEIGHT))
    if following:
        raise InputError(f"{path}: has more than one page; extract the ones to enlarge as single pictures")
    bits, space = max(told.get(tags.BITS) or [1]), (told.get(tags.PHOTOMETRIC) or [1])[0]
    if any(kind not in (1, 4) for kind in told.get(_SAMPLE_FORMAT) or [1]) or bits not in (1, 2, 4, 8, 16):
        raise InputError(f"{path}: its pixels are {bits}-bit floating point, signed or odd; convert it to 8 or 16 bits")
    if bits == 16 and space not in (0, 1, 2):
        raise InputError(f"{path}: its pixels are {_SPACES.get(space, f'of kind {space}')}; convert it to RGB or grey")
    return Header("TIFF", width, height, max(bits, 8))


_HEADER_TAGS = (tags.WIDTH, tags.HEIGHT, tags.BITS, tags.PHOTOMETRIC, _SAMPLES, _EXTRA, _SAMPLE_FORMAT)


def read16(path: Path, file: BinaryIO, kind: str) -> Picture:
    """Decodes a 16-bit picture; of a TIFF the metadata too."""
    import pyvips

    # By descriptor, since libvips wants names in UTF-8; by one of its own, since `file` reads ahead.
    raw = path.open("rb", buffering=0)
    try:
        source = pyvips.Source.new_from_descriptor(raw.fileno())
        load = pyvips.Image.pngload_source if kind == "PNG" else pyvips.Image.tiffload_source
        image = load(source, access="sequential", fail_on="error")
        if image.format != "ushort" or image.bands not in (1, 2, 3, 4):
            raise InputError(
                f"{path}: its pixels are {image.bands} channels of {image.format}; convert it to RGB or grey"
            )
        levels = image.numpy().reshape(image.height, image.width, image.bands)
    except pyvips.Error as error:
        raise InputError(f"{path}: cannot be decoded; it is damaged or cut off ({reason(error)})") from error
    finally:
        raw.close()
    pixels = torch.from_numpy(levels.astype("float32")).permute(2, 0, 1).div_(65535)
    grey = image.bands < 3
    colour, alpha = (pixels[:-1], pixels[-1:]) if image.bands in (2, 4) else (pixels, None)
    picture = Picture(colour.expand(3, -1, -1), alpha, 16, grey, kind)
    if kind == "TIFF":
        _take_tags(picture, TagFile.open(file))
    return picture


def _take_tags(picture: Picture, tagged: TagFile) -> None:
    """What TIFF tags tell beside the pixels: orientation, EXIF, profile, DPI, and what the fourth channel is."""
    places = tagged.places(tagged.first)[0]
    extra = tagged.numbers(places[_EXTRA]) if _EXTRA in places else [0]
    if picture.alpha is not None and extra[:1] == [1]:
        picture.colour = unmultiplied(picture.colour, picture.alpha)
    elif picture.alpha is not None and extra[:1] != [2]:
        picture.alpha = None  # a channel of unsaid meaning, which no viewer shows
    orientation = (tagged.numbers(places[tags.ORIENTATION]) if tags.ORIENTATION in places else [1])[0]
    picture.colour = metadata.upright(picture.colour, orientation).contiguous()
    picture.alpha = None if picture.alpha is None else metadata.upright(picture.alpha, orientation).contiguous()
    picture.exif, picture.dpi = metadata.exif_of_tiff(tagged), metadata.dpi_of_tiff(tagged, places)
    picture.icc = tagged.value(places[_ICC]).data if _ICC in places else None


def unmultiplied(
    colour: Tensor,  # [3, H, W], already times alpha
    alpha: Tensor,  # [1, H, W]
) -> Tensor:  # [3, H, W]
    """Takes alpha out of the colour again; where nothing shows, black."""
    return torch.where(alpha > 0, colour / alpha.clamp_min(1e-6), 0.0).clamp_(0, 1)
