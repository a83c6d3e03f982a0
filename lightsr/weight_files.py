"""Reads weight files from strangers: sizes are checked before anything is allocated, and no code in a file is run.

A safetensors file has no code, and its library checks every size against the file. A .pth file holds a pickle, so it
passes three gates: the pickle's opcodes are read without running them and may name only what tensors are made of; torch
loads it with weights_only=True; and the tensors are views of the mapped file (mmap=True), so that a size that lies runs
into the end of the file instead of allocating memory.
"""

from __future__ import annotations

import io
import os
import pickletools
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .errors import InputError
from .files import opened, reason

MAX_BYTES = 2**30  # a light network is under 10 MB, its whole training state under 100 MB
MAX_HEADER = 2**24  # bytes of a safetensors header, or of the pickle in a .pth file
ACCEPTED = "weights are .safetensors, or .pth, .pt or .ckpt files of tensors"

# What the pickle of a state_dict, with an optimiser's state beside it, consists of.
_TENSOR_PARTS = re.compile(
    r"torch\._utils _rebuild_(tensor_v2|tensor_v3|parameter)"
    r"|torch ([A-Z]\w*Storage|Size|device|b?float\d+|u?int\d+|bool)"
    r"|torch\.storage UntypedStorage|torch\.nn\.parameter Parameter|collections (OrderedDict|Counter)"
)
_OTHER_NAMES = {"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"}  # ways to name code that torch.save never writes


def read_weight_file(path: Path) -> Mapping[Any, Any]:
    """What a weight file holds: tensors by name, or for .pth whatever dictionary was saved. Tensors may be lazy views.

    The kind of file is told by its first bytes, not by its name. Raises InputError in one line.
    """
    start = _first_bytes(path)
    if start.startswith(b"PK"):
        return _read_zip(path)
    if len(start) == 9 and start[8:] == b"{":
        return _read_safetensors(path, struct.unpack("<Q", start[:8])[0])
    if start.startswith(b"\x80"):
        raise InputError(
            f"{path}: saved in the format of torch before 1.6, whose sizes cannot be checked; open it with "
            "torch.load(weights_only=True) and save it again with torch.save"
        )
    raise InputError(f"{path}: not a weight file; {ACCEPTED}")


def _first_bytes(path: Path) -> bytes:
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise InputError(f"{path}: {size} bytes, and weight files up to {MAX_BYTES} are read")
        return file.read(9)


def _read_safetensors(path: Path, header: int) -> Mapping[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    size = path.stat().st_size
    if header > min(size - 8, MAX_HEADER):
        raise InputError(f"{path}: its header claims {header} bytes in a file of {size}; it is damaged or no weights")
    try:
        return dict(load_file(path, device="cpu"))
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged safetensors file: {reason(error)}") from error


def _read_zip(path: Path) -> Mapping[Any, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            _check_pickle(path, archive.read(_pickle_in(path, archive)))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: damaged checkpoint: {reason(error)}; fetch or save it again") from error
    try:
        # os.fspath, because mmap=True wants a string.
        content = torch.load(os.fspath(path), weights_only=True, map_location="cpu", mmap=True)
    except Exception as error:
        # torch has no one exception for bad files; whatever it is, nothing of the file was run.
        said = reason(error)
        if "resize storage" in said:
            said = "a tensor claims more bytes than the file has"
        raise InputError(f"{path}: torch cannot load it as weights: {said}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: holds a {type(content).__name__}, not tensors by name; save net.state_dict()")
    return content


def _pickle_in(path: Path, archive: zipfile.ZipFile) -> str:
    """The name of the one pickle of a plain checkpoint; programs and models in the same kind of zip are refused."""
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        raise InputError(f"{path}: a TorchScript program, which would run code; {ACCEPTED}")
    if "archive_format" in inside or any(name.startswith("models/") for name in inside):
        raise InputError(f"{path}: an exported program (.pt2), which would run code; {ACCEPTED}")
    pickles = [entry for entry in entries if entry.filename.partition("/")[2] == "data.pkl"]
    if len(pickles) != 1 or len(set(names)) != len(names):
        raise InputError(f"{path}: a zip file, but no checkpoint of torch; {ACCEPTED}")
    # torch never compresses, so that a compressed entry is somebody's attempt to claim more than the file holds.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise InputError(f"{path}: its entries are compressed, which torch.save never does; save it again")
    if sum(entry.file_size for entry in entries) > path.stat().st_size or pickles[0].file_size > MAX_HEADER:
        raise InputError(f"{path}: its entries claim more bytes than the file has; it is damaged")
    return pickles[0].filename


def _check_pickle(path: Path, data: bytes) -> None:
    """Refuses a pickle that names anything but the parts of tensors. Reads opcodes; runs none."""
    for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
        if opcode.name in _OTHER_NAMES or (opcode.name == "GLOBAL" and not _TENSOR_PARTS.fullmatch(str(argument))):
            wanted = str(argument).replace(" ", ".") if opcode.name == "GLOBAL" else opcode.name
            raise InputError(
                f"{path}: asks for {wanted[:80]!r}, which is no part of a tensor; nothing was loaded. If you trust the "
                "file, save its net.state_dict() alone"
            )
