"""Decoded pictures kept in the cache folder and mapped from there: quick to start from, shared by all processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..errors import InputError
from ..files import reason, replacing
from ..folders import cache_folder
from .pictures import Pictures, Planes, Source, load_pictures

FORM = 1  # of the files; another number when what they hold changes


def cached_pictures(sources: Sequence[Source], scale: int, smallest: int, low_resolution: bool) -> Pictures:
    """As `load_pictures`, from a file of the cache folder, which is made first if need be.

    Files are known by names, sizes and times of change of the pictures. Old ones are not removed: the folder is
    `training` in the cache folder, and may be deleted at any time.
    """
    from filelock import FileLock

    told = [FORM, scale, smallest, low_resolution, [[each.name, each.stamp] for each in sources]]
    key = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:24]
    path = cache_folder() / "training" / f"{key}.safetensors"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # of several processes the first decodes, the others wait
            if not path.exists():
                _write(path, load_pictures(sources, scale, smallest, low_resolution))
    except OSError as error:
        raise InputError(
            f"{path.parent}: cannot be written to: {reason(error)}; data.cache = memory does without"
        ) from error
    return _mapped(path, scale)


def _write(path: Path, pictures: Pictures) -> None:
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {"hr": pictures.hr.values}
    told = {"names": pictures.names, "hr": [pictures.hr.offsets, pictures.hr.sizes]}
    if pictures.lr is not None:
        tensors["lr"] = pictures.lr.values
        told["lr"] = [pictures.lr.offsets, pictures.lr.sizes]
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"pictures": json.dumps(told)})


def _mapped(path: Path, scale: int) -> Pictures:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            told = json.loads(file.metadata()["pictures"])
            planes = {
                name: Planes(file.get_tensor(name), told[name][0], [(high, wide) for high, wide in told[name][1]])
                for name in ("hr", "lr")
                if name in told
            }
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged: {reason(error)}; delete it, and it is made anew") from error
    return Pictures(told["names"], planes["hr"], planes.get("lr"), scale)
