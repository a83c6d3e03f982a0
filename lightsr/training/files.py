"""What a training writes: the checkpoint it resumes from, and weights for everybody else."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor

from .. import __version__
from ..checkpoint import fold
from ..errors import InputError
from ..files import check_file, reason, replacing

LAST, WEIGHTS = "last.ckpt", "weights.safetensors"
PARTS = ("state_dict", "averaged", "optimizer_states", "global_step")  # of a checkpoint
TOLD = ("config", "stage", "pictures", "seconds", "random")  # of what `State.saved` puts there


class WholeFiles(TorchCheckpointIO):
    """Lightning's way to files, but each is the old one or the whole new one, on the disk before it has its name."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint; InputError when the disk is full or the folder is gone, with the old file untouched."""
        # Not torch.save into the file: it reports a full disk as an error of its own kind, and writes in many pieces.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(buffer.getbuffer())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint of ours; no code in it is run. InputError in one line when it cannot be read."""
    check_file(path)
    try:
        content = WholeFiles().load_checkpoint(path, map_location=lambda storage, place: storage, weights_only=True)
    except Exception as error:  # torch has no one exception for bad files
        raise InputError(f"{path}: cannot be read as a checkpoint: {reason(error)}; --fresh starts anew") from error
    if not isinstance(content, dict) or "lightsr" not in content:
        raise InputError(f"{path}: no checkpoint of lightsr train; --fresh starts anew")
    told = content["lightsr"]
    missing = [name for name in PARTS if name not in content]
    missing += [name for name in TOLD if not isinstance(told, dict) or name not in told]
    if missing:
        raise InputError(f"{path}: of another version of lightsr, without {missing[0]}; --fresh starts anew")
    return content


def save_weights(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str], half: bool, folded: bool) -> None:
    """Writes a network's weights as safetensors with facts of the training in the metadata.

    Args:
        path: an existing file is replaced in one step.
        tensors: the network's state_dict.
        facts: what the metadata says: network, scale, recipe, steps, pictures, hours, machine.
        half: float16, which halves the file; what is read from it is float32 again.
        folded: training-only tensors folded into plain filters, for inference; training goes on from unfolded ones.
    """
    from safetensors.torch import save

    if folded:
        tensors = fold({name: value.cpu() for name, value in tensors.items()})
    dtype = torch.float16 if half else torch.float32
    plain = {name: value.detach().to("cpu", dtype, copy=True).contiguous() for name, value in tensors.items()}
    for name, value in plain.items():
        if not value.isfinite().all():
            raise InputError(f"{path}: {name} has values that are not finite in {dtype}; nothing was written")
    metadata = {"format": "pt", "lightsr": __version__, **facts}
    with replacing(path) as temporary:
        temporary.write_bytes(save(plain, metadata))
