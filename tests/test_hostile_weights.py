"""Weight files that mean harm: one clear line, exit code 1, nothing written, nothing executed."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import subprocess
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import Run, good_bytes, no_hang
from test_images import noise, save

import lightsr
from lightsr.weight_files import MAX_BYTES


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    with no_hang():
        yield Run(tmp_path, capfd)


class Evil:
    """Pickles to a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor_entry(shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"tail.0.weight": {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}}


def torch_saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def zipped(**entries: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(f"archive/{name.replace('_', '.')}", data)
    return file.getvalue()


def torchscript() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Conv2d(3, 4, 3)), file)
    return file.getvalue()


def state(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], bytes]:
    def make(_: Path) -> bytes:
        tensors = dict(lightsr.create("lmswn", 2).state_dict())
        return torch_saved(change(tensors) or tensors)

    return make


def touch(marker: Path) -> str:
    return f"touch {marker}"


def pathlib_touch(marker: Path) -> str:
    return f"__import__('pathlib').Path({str(marker)!r}).touch()"


WEIGHTS: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "st-empty": ("w.safetensors", lambda _: b""),
    "st-zero-bytes": ("w.safetensors", lambda _: bytes(4096)),
    "st-header-longer-than-file": ("w.safetensors", lambda _: safetensors({}, length=10_000)),
    "st-header-of-2^63": ("w.safetensors", lambda _: safetensors({}, length=2**63)),
    "st-header-of-2^64-1": ("w.safetensors", lambda _: safetensors({}, length=2**64 - 1)),
    "st-bad-json": ("w.safetensors", lambda _: safetensors(b'{"a": ')),
    "st-deep-json": ("w.safetensors", lambda _: safetensors(b"[" * 100_000)),
    "st-json-list": ("w.safetensors", lambda _: safetensors([1, 2])),
    "st-no-tensors": ("w.safetensors", lambda _: safetensors({})),
    "st-beyond-the-file": ("w.safetensors", lambda _: safetensors(tensor_entry([100], 0, 400), bytes(40))),
    "st-10-GB": ("w.safetensors", lambda _: safetensors(tensor_entry([50_000, 50_000], 0, 10**10), bytes(64))),
    "st-shape-against-bytes": (
        "w.safetensors",
        lambda _: safetensors(tensor_entry([50_000, 50_000], 0, 64), bytes(64)),
    ),
    "st-negative-shape": ("w.safetensors", lambda _: safetensors(tensor_entry([-4, -4], 0, 64), bytes(64))),
    "st-overflowing-shape": ("w.safetensors", lambda _: safetensors(tensor_entry([2**62, 2**62], 0, 64), bytes(64))),
    "st-backwards": ("w.safetensors", lambda _: safetensors(tensor_entry([4], 16, 0), bytes(16))),
    "st-other-keys": (
        "w.safetensors",
        lambda _: safetensors({"x": tensor_entry([4], 0, 16)["tail.0.weight"]}, bytes(16)),
    ),
    "pth-empty": ("w.pth", lambda _: b""),
    "pth-zero-bytes": ("w.pth", lambda _: bytes(5000)),
    "pth-text": ("w.pth", lambda _: b"not weights"),
    "pth-picture": ("w.pth", lambda _: good_bytes("png")),
    "pth-zip-of-others": ("w.pth", lambda _: zipped(readme_txt=b"hello")),
    "pth-zip-bomb": ("w.pth", lambda _: zipped(data_pkl=bytes(64 << 20))),
    "evil-system": ("w.pth", lambda marker: torch_saved(Evil(os.system, touch(marker)))),
    "evil-eval": ("w.pth", lambda marker: torch_saved(Evil(eval, pathlib_touch(marker)))),
    "evil-exec": ("w.pth", lambda marker: torch_saved(Evil(exec, pathlib_touch(marker)))),
    "evil-nested": (
        "w.pth",
        lambda marker: torch_saved({"params_ema": {"tail.0.weight": [Evil(os.system, touch(marker))]}}),
    ),
    "evil-key": (
        "w.pth",
        lambda marker: torch_saved({"params": {("a", Evil(os.system, touch(marker))): torch.ones(2)}}),
    ),
    "evil-subprocess": ("w.ckpt", lambda marker: torch_saved(Evil(subprocess.call, ["touch", str(marker)]))),
    "evil-compile": ("w.pth", lambda marker: torch_saved(Evil(compile, "1", "<weights>", "eval"))),
    "evil-plain-pickle": ("w.pth", lambda marker: pickle.dumps(Evil(os.system, touch(marker)))),
    "evil-plain-protocol-0": ("w.pth", lambda marker: pickle.dumps(Evil(os.system, touch(marker)), 0)),
    "evil-protocol-4": ("w.pth", lambda marker: pickle.dumps({"params": Evil(os.system, touch(marker))}, 4)),
    "evil-legacy": (
        "w.pth",
        lambda marker: torch_saved(Evil(os.system, touch(marker)), _use_new_zipfile_serialization=False),
    ),
    "evil-called-safetensors": ("w.safetensors", lambda marker: torch_saved(Evil(os.system, touch(marker)))),
    "torchscript": ("w.pt", lambda _: torchscript()),
    "torchscript-called-pth": ("w.pth", lambda _: torchscript()),
    "whole-module": ("w.pth", lambda _: torch_saved(torch.nn.Conv2d(3, 4, 3))),
    "list": ("w.pth", lambda _: torch_saved([torch.ones(3)])),
    "tensor": ("w.pth", lambda _: torch_saved(torch.ones(3))),
    "number": ("w.pth", lambda _: torch_saved(7)),
    "no-entries": ("w.pth", lambda _: torch_saved({})),
    "strings": ("w.pth", lambda _: torch_saved({"params": {"tail.0.weight": "a tensor, honestly"}})),
    "numbered": ("w.pth", lambda _: torch_saved({0: torch.ones(3), 1: torch.ones(3)})),
    "repeated-by-stride-0": ("w.pth", lambda _: torch_saved({"x": torch.ones(1).expand(10**10)})),
    "other-keys": ("w.pth", state(lambda tensors: {f"net_{key}": value for key, value in tensors.items()})),
    "missing-keys": ("w.pth", state(lambda tensors: dict(list(tensors.items())[5:]))),
    "other-shapes": ("w.pth", state(lambda tensors: {key: value.new_ones(2) for key, value in tensors.items()})),
    "scale-7": ("w.pth", state(lambda tensors: tensors.update({"tail.0.weight": torch.ones(147, 64, 3, 3)}))),
    "nan": ("w.pth", state(lambda tensors: tensors.update({"tail.0.bias": torch.full((12,), float("nan"))}))),
    "infinity": ("w.pth", state(lambda tensors: tensors.update({"tail.0.bias": torch.full((12,), float("inf"))}))),
    "complex": ("w.pth", state(lambda tensors: tensors.update({"tail.0.bias": torch.ones(12, dtype=torch.complex64)}))),
    "whole-numbers": ("w.pth", state(lambda tensors: {key: value.int() for key, value in tensors.items()})),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights(run: Run, case: str) -> None:
    name, make = WEIGHTS[case]
    path = run.folder / name
    path.write_bytes(make(run.marker))
    source = save(run.folder / "a.png", noise(4, 4, 3))
    run.fails(source, "-o", run.out, "-w", path, "-q", words="w." if case != "whole-numbers" else "floating-point")


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_cut_off_weights(run: Run, suffix: str, number: int) -> None:
    tensors = lightsr.create("lmswn", 2, folded=True).state_dict()
    path = run.folder / f"w.{suffix}"
    if suffix == "pth":
        torch.save(tensors, path)
    else:
        from lightsr.checkpoint import save as save_weights

        save_weights(path, tensors)
    os.truncate(path, random.Random(f"{suffix} {number}").randrange(1, path.stat().st_size - 1))
    run.fails(save(run.folder / "a.png", noise(4, 4, 3)), "-o", run.out, "-w", path, words="w.")


def test_paths_that_are_no_weight_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    cases = {tmp_path / "nothing.pth": "no such file", tmp_path: "is a folder", tmp_path / "pipe.pth": "a pipe"}
    for path, match in {**cases, Path("nul\0.pth"): None, Path("x" * 300 + ".pth"): None}.items():
        with pytest.raises(lightsr.InputError, match=match) as refusal:
            lightsr.load(path)
        assert "\n" not in str(refusal.value)


def test_files_of_any_length_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "w.safetensors").open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # takes no room on the disk
    with pytest.raises(lightsr.InputError, match="weight files up to"):
        lightsr.load(tmp_path / "w.safetensors")
