"""`lightsr export`: a network as ONNX, as a torch.export program or as folded weights, read back and compared."""

from __future__ import annotations

import copy
import importlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import __version__
from .at_hand import weights_for
from .checkpoint import load, load_with_note, save
from .errors import InputError
from .files import replacing
from .networks import SRNetwork, create, network_class
from .traceable import traceable

FORMATS = {".onnx": "onnx", ".pt2": "pt2", ".safetensors": "safetensors"}
LIMIT = 1e-4  # the largest difference from PyTorch that a checked file may show, for pictures in 0..1
TRACED = (23, 38)  # height and width; odd, so that nothing of it looks like a constant of the networks
CHECKED = ((33, 20), (16, 41))  # other sizes, at which the written file is compared
# Below these sides one of torch.export's guards fails, on how a tensor of one window or one pixel lies in memory.
PT2_FROM = {"mafdn": 2, "idsa_net": 9}


def export(net: SRNetwork, path: str | Path, format: str | None = None, check: bool = True) -> str:
    """Writes a network to a file that runs without this library, or without its training-only weights.

    Args:
        net: any network; it stays as it is. Its plain-PyTorch path is written, folded, in float32, for the CPU.
        path: the file to write; it is either the old one or the whole new one.
        format: onnx (any batch, height and width; needs the extra lightsr[export]), pt2 (a torch.export program for
            one picture of any height and width, MAFDN's from 2 and IDSA-Net's from 9), safetensors (folded weights);
            None goes by the suffix of `path`.
        check: reads the file back and compares results at two sizes other than the traced one.

    Returns:
        One line: what was written, and the largest difference found.

    Raises InputError when the format is unknown, an extra is missing, the file cannot be written, or its results
    differ from the network's by more than 1e-4; then nothing is written.

    Example:
        >>> import lightsr
        >>> from lightsr.export import export
        >>> print(export(lightsr.load("HASN.pth"), "hasn.onnx"))  # doctest: +SKIP
        hasn.onnx: ONNX (any batch, height and width) of hasn x4; 1.8e-06 from PyTorch at 33x20 and 16x41 (limit 1e-04)
    """
    path = Path(path)
    format = format_of(path, format)
    if format == "safetensors" and not net.state_dict():
        raise InputError(f"{net.name} has no weights to write; export it as onnx or pt2")
    if format == "onnx":
        _require("onnx", "onnxscript", *(["onnxruntime"] if check else []))
    plain = copy.deepcopy(net).cpu().float().fold().set_fused(False).eval()
    write, run, what = _KINDS[format]
    with replacing(path) as temporary, torch.no_grad():
        write(plain, temporary)
        told = f"; {_compare(plain, run(temporary), path)}" if check else "; not checked"
    return f"{path}: {what.format(least=PT2_FROM.get(net.name, 1))} of {net.name} x{net.scale}{told}"


def format_of(path: str | Path, format: str | None) -> str:
    """The format asked for, or the one of the suffix; InputError for an unknown one."""
    found = format or FORMATS.get(Path(path).suffix.lower(), "")
    if found not in FORMATS.values():
        raise InputError(f"{path}: give a name in {', '.join(FORMATS)}, or a format of {', '.join(FORMATS.values())}")
    return found


def network_to_export(weights: str | Path | None, network: str | None, scale: int | None) -> SRNetwork:
    """The network of a weight file, or of the weights at hand for a network and scale; bicubic needs none."""
    if weights is not None:
        return load(weights, network=network, scale=scale)
    if network is None or scale is None:
        raise InputError("give a weight file, or a network with -n and its scale with -s")
    if network_class(network).name == "bicubic":
        return create(network, scale)
    return load(weights_for(network, scale), network=network, scale=scale)


def _write_onnx(net: SRNetwork, path: Path) -> None:
    picture = torch.zeros(2, 3, *TRACED)
    with _quietly():
        program: Any = torch.onnx.export(
            traceable(net),
            (picture,),
            input_names=["picture"],
            output_names=["result"],
            dynamic_shapes={"x": {0: "batch", 2: "height", 3: "width"}},
            dynamo=True,
            verbose=False,
        )
        program.model.metadata_props.update(_facts(net))
        program.save(os.fspath(path), external_data=False)


def _run_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    return lambda picture: torch.from_numpy(session.run(None, {"picture": picture.numpy()})[0])


def _write_pt2(net: SRNetwork, path: Path) -> None:
    import torch.fx.experimental._config as settings

    sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    # Without this setting, which torch's own ONNX exporter uses too, the program would refuse every picture whose
    # sides are, or are not, multiples of 8 as the traced one's are.
    oblivious = settings.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with _quietly(), oblivious:
        program = torch.export.export(traceable(net), (torch.zeros(1, 3, *TRACED),), dynamic_shapes={"x": sides})
        torch.export.save(program, path, extra_files={"lightsr.json": json.dumps(_facts(net))})


def _run_pt2(path: Path) -> Callable[[Tensor], Tensor]:
    program: Any = torch.export.load(path).module()
    return lambda pictures: torch.cat([program(each[None]) for each in pictures])


def _write_weights(net: SRNetwork, path: Path) -> None:
    save(path, net.state_dict())


def _run_weights(path: Path) -> Callable[[Tensor], Tensor]:
    return load_with_note(path)[0]  # nobody need hear of the temporary file


_KINDS: dict[str, tuple[Callable[[SRNetwork, Path], None], Callable[[Path], Callable[[Tensor], Tensor]], str]] = {
    "onnx": (_write_onnx, _run_onnx, "ONNX (any batch, height and width)"),
    "pt2": (_write_pt2, _run_pt2, "torch.export program (one picture, height and width from {least})"),
    "safetensors": (_write_weights, _run_weights, "folded weights"),
}


def _compare(net: SRNetwork, run: Callable[[Tensor], Tensor], path: Path) -> str:
    worst = 0.0
    generator = torch.Generator().manual_seed(0)
    for batch, size in enumerate(CHECKED, start=1):
        picture = torch.rand(batch, 3, *size, generator=generator)
        wanted, got = net(picture), run(picture)
        if got.shape != wanted.shape:
            raise InputError(
                f"{path}: not written, its result at {size} is {list(got.shape)}, not {list(wanted.shape)}"
            )
        difference = (got - wanted).abs().max().item()
        if not difference <= LIMIT:  # NaN too
            raise InputError(
                f"{path}: not written, it is {difference:.1e} from PyTorch at {size}; the limit is {LIMIT:.0e}"
            )
        worst = max(worst, difference)
    sizes = " and ".join(f"{height}x{width}" for height, width in CHECKED)
    return f"{worst:.1e} from PyTorch at {sizes} (limit {LIMIT:.0e})"


def _facts(net: SRNetwork) -> dict[str, str]:
    return {"network": net.name, "scale": str(net.scale), "lightsr": __version__}


def _require(*packages: str) -> None:
    for name in packages:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise InputError(f"ONNX needs {name}, which is not installed; pip install 'lightsr[export]'") from error


@contextmanager
def _quietly() -> Iterator[None]:
    """The exporters warn about torchvision, which nothing here uses, and about their own insides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
