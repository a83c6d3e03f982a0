"""Puts the training pictures into one file that travels with a checkout: a plain zip, which `data.train` takes."""

from __future__ import annotations

import io
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from ..files import replacing
from ..images import FORMATS, read_rgb8
from .overlap import refuse_test_sets
from .pictures import Source, find_pictures
from .settings import Config

STAMP = (1980, 1, 1, 0, 0, 0)  # the same pictures give the same file


def pack(config: Config, target: str | Path) -> str:
    """Writes the pictures of `data.train` into one file, and returns a line about it.

    JPEG and WebP files go in as they are, the others as lossless WebP, which is a third smaller than PNG; every pixel
    stays what it is. Raises InputError for pictures that cannot be read.

    Example:
        >>> from lightsr.training.config import read_config
        >>> from lightsr.training.pack import pack
        >>> pack(read_config("hasn_x4", ["data.train=DIV2K"]), "div2k.zip")  # doctest: +SKIP
        'div2k.zip: 800 pictures, 2417.0 MB'
    """
    refuse_test_sets(config.data.train)
    with ExitStack() as stack:
        sources = list(dict.fromkeys(find_pictures(config.data.train, stack)))
        with ThreadPoolExecutor() as pool:
            contents = pool.map(_content, sources)
            with replacing(Path(target)) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
                for number, (source, (suffix, content)) in enumerate(zip(sources, contents, strict=True)):
                    name = f"{number:05d}_{Path(source.name).stem}{suffix}"
                    archive.writestr(zipfile.ZipInfo(name, STAMP), content)
    return f"{target}: {len(sources)} pictures, {Path(target).stat().st_size / 1e6:.1f} MB"


def _content(source: Source) -> tuple[str, bytes]:
    from PIL import Image

    picture = read_rgb8(source.path)  # whatever training could not read is refused here
    kind = FORMATS[source.path.suffix.lower()]
    if kind in ("JPEG", "WEBP"):
        return source.path.suffix.lower(), source.path.read_bytes()
    buffer = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, "WEBP", lossless=True, quality=60, method=4)
    return ".webp", buffer.getvalue()
