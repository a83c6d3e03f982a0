"""Exported files give the network's results, at sizes they were not made with."""

from __future__ import annotations

import copy
import json
import logging
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lightsr
from lightsr import InputError
from lightsr import export as module
from lightsr.checkpoint import load, save
from lightsr.export import export, format_of, network_to_export
from lightsr.images import read_rgb8
from lightsr.networks import SRNetwork
from lightsr.traceable import TraceableBicubic

needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")), reason="lightsr[export] is not here"
)
SMALL: dict[str, dict[str, Any]] = {
    "bicubic": {},
    "lmswn": {"blocks": 1, "channels": 16, "distilled": 4},
    "mafdn": {"blocks": 1, "channels": 12, "distilled": 6},
    "hasn": {"blocks": 1, "channels": 12, "hidden": 36},
    "idsa_net": {"groups": 1, "channels": 16},  # tracing a group takes seconds
}
SIZES = ((1, 1), (2, 9), (9, 2), (14, 15), (16, 16), (20, 33), (41, 8))


@pytest.fixture(autouse=True)
def no_traces() -> Iterator[None]:
    """torch writes volumes of debug traces when it sees that somebody, here pytest, would take them."""
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


def small(name: str, scale: int = 2) -> SRNetwork:
    torch.manual_seed(3)
    return lightsr.create(name, scale, **SMALL[name])


def onnx_session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run_onnx(session: Any, picture: Tensor) -> Tensor:
    return torch.from_numpy(session.run(["result"], {"picture": picture.numpy()})[0])


def close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


@needs_onnx
@pytest.mark.parametrize("name", SMALL)
def test_onnx(name: str, tmp_path: Path) -> None:
    net, path = small(name), tmp_path / "net.onnx"
    line = export(net, path)
    assert line.startswith(f"{path}: ONNX (any batch, height and width) of {name} x2; ")
    assert line.endswith(" from PyTorch at 33x20 and 16x41 (limit 1e-04)")
    assert [each.name for each in tmp_path.iterdir()] == ["net.onnx"]
    session = onnx_session(path)
    facts = {"network": name, "scale": "2", "lightsr": lightsr.__version__}
    assert session.get_modelmeta().custom_metadata_map == facts
    assert [(each.name, each.shape) for each in session.get_inputs()] == [("picture", ["batch", 3, "height", "width"])]
    net.eval()
    with torch.no_grad():
        for batch, size in enumerate(SIZES, start=1):
            picture = torch.rand(batch, 3, *size)
            close(run_onnx(session, picture), net(picture))


@pytest.mark.parametrize("name", SMALL)
def test_pt2(name: str, tmp_path: Path) -> None:
    net, path = small(name, 3), tmp_path / "net.pt2"
    least = {"mafdn": 2, "idsa_net": 9}.get(name, 1)
    assert f"(one picture, height and width from {least}) of {name} x3" in export(net, path, check=name == "lmswn")
    extra = {"lightsr.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    assert json.loads(extra["lightsr.json"]) == {"network": name, "scale": "3", "lightsr": lightsr.__version__}
    net.eval()
    with torch.no_grad():
        for height, width in SIZES:
            picture = torch.rand(1, 3, max(height, least), max(width, least))
            close(program(picture), net(picture))


@needs_onnx
def test_released_hasn_as_onnx(shared: Path, tmp_path: Path) -> None:
    net = load(shared / "weights" / "HASN" / "HASN.pth")
    export(net, tmp_path / "hasn.onnx")
    picture = read_rgb8(shared / "testsets" / "Set5" / "LR_bicubic" / "X4" / "womanx4.png").float()[None] / 255
    with torch.no_grad():
        wanted = net(picture)
    torch.testing.assert_close(run_onnx(onnx_session(tmp_path / "hasn.onnx"), picture), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["lmswn", "mafdn", "hasn"])
def test_folded_weights(name: str, tmp_path: Path) -> None:
    net = small(name, 4)
    line = export(net, tmp_path / "w.safetensors")
    assert "folded weights of" in line
    found = load(tmp_path / "w.safetensors", network=name, scale=4)
    picture = torch.rand(1, 3, 16, 15)
    with torch.no_grad():
        assert torch.equal(found(picture), copy.deepcopy(net).eval().fold()(picture))


@pytest.mark.parametrize("name", ["mafdn", "hasn"])
def test_the_network_stays_as_it_is(name: str, tmp_path: Path) -> None:
    net = small(name).set_fused().train()
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    export(net, tmp_path / "net.pt2", check=False)
    assert net.training and net.use_fused
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(net.state_dict()[key], before[key]) for key in before)
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt2"])
@pytest.mark.parametrize("fault", [1e-3, float("nan")])
def test_a_file_that_differs_is_not_written(
    name: str, fault: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, path = small("hasn").eval(), tmp_path / name
    path.write_bytes(b"as it was")
    kind = format_of(path, None)
    write, _, what = module._KINDS[kind]
    monkeypatch.setitem(module._KINDS, kind, (write, lambda _: lambda picture: net(picture) + fault, what))
    with pytest.raises(InputError, match=r"not written, it is (1.0e-03|nan) from PyTorch at .*; the limit is 1e-04"):
        export(net, path)
    monkeypatch.setitem(module._KINDS, kind, (write, lambda _: lambda picture: picture, what))
    with pytest.raises(InputError, match=r"not written, its result at \(33, 20\) is \[1, 3, 33, 20\]"):
        export(net, path)
    assert path.read_bytes() == b"as it was"
    assert len(list(tmp_path.iterdir())) == 1


def test_unchecked_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_compare", None)
    assert export(small("hasn"), tmp_path / "w.safetensors", check=False).endswith("; not checked")


def test_formats() -> None:
    assert [format_of(f"a{suffix}", None) for suffix in (".onnx", ".PT2", ".safetensors")] == list(
        module.FORMATS.values()
    )
    assert format_of("a.bin", "onnx") == "onnx"
    for path, asked in (("a.bin", None), ("a", None), ("a.onnx", "tflite")):
        with pytest.raises(InputError, match=r"give a name in \.onnx, \.pt2, \.safetensors"):
            format_of(path, asked)


def test_the_format_asked_for_beats_the_suffix(tmp_path: Path) -> None:
    export(small("hasn"), tmp_path / "w.bin", format="safetensors")
    assert load(tmp_path / "w.bin").name == "hasn"


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_extras_are_named(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    for name in {"onnx", "onnxscript", "onnxruntime"} - {missing}:
        monkeypatch.setitem(sys.modules, name, sys)  # anything that can be imported
    with pytest.raises(InputError, match=rf"needs {missing}, which is not installed; pip install 'lightsr\[export\]'"):
        export(small("hasn"), tmp_path / "net.onnx")


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"):
        export(small("hasn"), tmp_path / "no" / "folder" / "w.safetensors")


def test_bicubic_has_no_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bicubic has no weights"):
        export(small("bicubic"), tmp_path / "w.safetensors")


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_as_one_convolution(scale: int) -> None:
    for size in SIZES:
        picture = torch.rand(2, 3, *size)
        close(TraceableBicubic(scale)(picture), lightsr.create("bicubic", scale)(picture))


def test_which_network_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTSR_WEIGHTS", str(tmp_path))
    save(tmp_path / "w.safetensors", small("hasn", 3).state_dict())
    assert network_to_export(tmp_path / "w.safetensors", None, None).scale == 3
    assert network_to_export(None, "hasn", 3).name == "hasn"
    assert network_to_export(None, "bicubic", 2).name == "bicubic"
    with pytest.raises(InputError, match="holds hasn x3, and hasn x2 was asked for"):
        network_to_export(tmp_path / "w.safetensors", None, 2)
    with pytest.raises(InputError, match="no trained weights for mafdn x2"):
        network_to_export(None, "mafdn", 2)
    with pytest.raises(InputError, match="give a weight file, or a network with -n and its scale with -s"):
        network_to_export(None, "hasn", None)
    with pytest.raises(InputError, match="network must be one of"):
        network_to_export(None, "hasm", 2)
