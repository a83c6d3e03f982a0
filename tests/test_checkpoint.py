"""Weights in and out, and the files that must not get in."""

from __future__ import annotations

import builtins
import io
import json
import logging
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import lightsr
from lightsr import InputError
from lightsr.checkpoint import WRAPPERS, fold, load, read_state_dict, save

SMALL: dict[str, dict[str, Any]] = {
    "lmswn": {"blocks": 1, "channels": 16, "distilled": 4},
    "mafdn": {"blocks": 1, "channels": 12, "distilled": 6},
    "hasn": {"blocks": 1, "channels": 12, "hidden": 36},
    "idsa_net": {"groups": 2, "channels": 16},
}
EACH_NETWORK = pytest.mark.parametrize("name", SMALL)


def small(name: str, scale: int = 2, dtype: torch.dtype = torch.float32) -> lightsr.networks.SRNetwork:
    """A network with every parameter away from its initial value, so that folding has something to fold."""
    net = lightsr.create(name, scale, **SMALL[name]).to(dtype).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return net


def refused(path: Path | str, match: str | None = None) -> str:
    with pytest.raises(InputError, match=match) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return {"head.weight": torch.arange(30.0).reshape(5, 6), "head.bias": torch.ones(5)}


# What load gives


@EACH_NETWORK
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_saved_network_comes_back_folded(name: str, suffix: str, tmp_path: Path) -> None:
    net = small(name, 3)
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(net.state_dict(), path)
    else:
        save(path, net.state_dict())
    found = load(path, network=name, scale=3)
    assert (found.name, found.scale, found.training, found.folded) == (name, 3, False, True)
    x = torch.rand(1, 3, 16, 17)
    with torch.no_grad():
        torch.testing.assert_close(found(x), net(x), rtol=0, atol=1e-5)


def test_fused_and_device_are_passed_on(tmp_path: Path) -> None:
    save(tmp_path / "w.safetensors", small("hasn").state_dict())
    assert load(tmp_path / "w.safetensors", use_fused=True).use_fused
    assert not load(tmp_path / "w.safetensors").use_fused
    assert next(load(tmp_path / "w.safetensors", device="meta").parameters()).is_meta
    with pytest.raises(InputError, match="device 'nowhere' cannot be used"):
        load(tmp_path / "w.safetensors", device="nowhere")


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    save(tmp_path / "w.safetensors", small("hasn").state_dict())
    before = torch.get_rng_state()
    load(tmp_path / "w.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


def test_what_was_asked_for_must_be_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save(path, small("hasn", 2).state_dict())
    with pytest.raises(InputError, match="holds hasn x2, and mafdn x2 was asked for"):
        load(path, network="mafdn")
    with pytest.raises(InputError, match="holds hasn x2, and hasn x4 was asked for"):
        load(path, scale=4)
    with pytest.raises(InputError, match="network must be one of"):
        load(path, network="swinir")


def test_weights_of_no_network_name_the_closest(tmp_path: Path) -> None:
    state = small("hasn").state_dict()
    state["blocks.0.extra"] = state.pop("blocks.0.norm.bias")
    torch.save(state, tmp_path / "w.pth")
    message = refused(tmp_path / "w.pth", "closest is HASN")
    assert str(tmp_path / "w.pth") in message
    assert "blocks.0.norm.bias is missing" in message and "blocks.0.extra is unknown" in message


def test_released_hasn(shared: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = shared / "weights" / "HASN" / "HASN.pth"
    with caplog.at_level(logging.INFO, "lightsr"):
        net = load(path)
    assert (net.name, net.scale) == ("hasn", 4)
    assert sum(each.numel() for each in net.parameters()) == 435_272
    assert [each.getMessage() for each in caplog.records] == ["HASN.pth: hasn x4, weights taken from 'params_ema'"]
    content = torch.load(path, weights_only=True)
    assert torch.equal(net.state_dict()["head.weight"], content["params_ema"]["conv_1.weight"])
    assert not torch.equal(net.state_dict()["head.weight"], content["params"]["conv_1.weight"])


# Where in a file the tensors are


@pytest.mark.parametrize("key", WRAPPERS)
def test_wrappers_are_opened(key: str, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"epoch": 3, key: tensors, "optimizer": {"lr": 1e-4, "steps": [1, 2]}}, tmp_path / "w.pth")
    loaded = read_state_dict(tmp_path / "w.pth")
    assert loaded.key == key
    assert str(loaded) == f"weights taken from {key!r}"
    assert loaded.tensors.keys() == tensors.keys()
    assert all(torch.equal(loaded.tensors[name], tensors[name]) for name in tensors)


def test_averaged_weights_come_first(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    averaged = {name: value + 1 for name, value in tensors.items()}
    torch.save({"params": tensors, "params_ema": averaged}, tmp_path / "w.pth")
    loaded = read_state_dict(tmp_path / "w.pth")
    assert loaded.key == "params_ema"
    assert torch.equal(loaded.tensors["head.bias"], averaged["head.bias"])


def test_wrappers_in_wrappers(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"model": {"state_dict": tensors}}, tmp_path / "w.pth")
    assert read_state_dict(tmp_path / "w.pth").key == "model.state_dict"


def test_bare_tensors_have_no_key(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(OrderedDict(tensors), tmp_path / "w.pth")
    loaded = read_state_dict(tmp_path / "w.pth")
    assert (loaded.key, loaded.prefix, str(loaded)) == ("", "", "weights taken from the whole file")


@pytest.mark.parametrize("prefix", ["module.", "netG.", "_orig_mod.", "netG.module.", "module._orig_mod."])
def test_prefixes_are_taken_off(prefix: str, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"params": {prefix + name: value for name, value in tensors.items()}}, tmp_path / "w.pth")
    loaded = read_state_dict(tmp_path / "w.pth")
    assert loaded.tensors.keys() == tensors.keys()
    assert loaded.prefix == prefix
    assert str(loaded) == f"weights taken from 'params', names without {prefix!r}"


def test_a_discriminator_beside_is_left_out(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    both = {f"netG.{name}": value for name, value in tensors.items()} | {"netD.weight": torch.ones(3)}
    torch.save({"state_dict": both}, tmp_path / "w.ckpt")
    assert read_state_dict(tmp_path / "w.ckpt").tensors.keys() == tensors.keys()


def test_a_prefix_of_some_names_stays(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(tensors | {"module.weight": torch.ones(1)}, tmp_path / "w.pth")
    assert "module.weight" in read_state_dict(tmp_path / "w.pth").tensors


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_other_floats_become_float32(dtype: torch.dtype, suffix: str, tmp_path: Path) -> None:
    value = torch.tensor([0.5, -2.0, 3.25], dtype=dtype)
    path = tmp_path / f"w.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)({"a": value}, path)
    found = read_state_dict(path).tensors["a"]
    assert found.dtype == torch.float32 and found.tolist() == [0.5, -2.0, 3.25]


def test_the_file_may_change_afterwards(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    for path in (tmp_path / "w.pth", tmp_path / "w.safetensors"):
        (save_file if path.suffix == ".safetensors" else torch.save)(tensors, path)
        loaded = read_state_dict(path)
        path.write_bytes(bytes(path.stat().st_size))
        assert torch.equal(loaded.tensors["head.weight"], tensors["head.weight"])


def test_the_content_tells_the_kind_not_the_name(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "w.pth")
    assert read_state_dict(tmp_path / "w.pth").tensors.keys() == tensors.keys()


# Fold and save


@EACH_NETWORK
def test_folded_weights_give_the_same_pictures(name: str) -> None:
    net = small(name, 2, torch.float64)
    folded = fold(net.state_dict())
    cls, config = lightsr.networks.detect(folded)
    again = cls(**config).double().eval()
    again.load_state_dict(folded)
    assert again.folded
    x = torch.rand(1, 3, 16, 17, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(again(x), net(x), rtol=0, atol=1e-12)
    twice = fold(folded)
    assert twice.keys() == folded.keys() and all(torch.equal(twice[key], folded[key]) for key in folded)


def test_folding_leaves_its_argument_alone() -> None:
    state = small("mafdn").state_dict()
    copy = {key: value.clone() for key, value in state.items()}
    assert len(fold(state)) < len(state)
    assert all(torch.equal(state[key], copy[key]) for key in copy)


def test_saved_files_say_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save(path, small("lmswn", 4).state_dict())
    with safe_open(path, framework="pt") as file:
        found = file.metadata()
    assert found == {"format": "pt", "network": "lmswn", "scale": "4", "lightsr": lightsr.__version__}


def test_weights_of_no_network_are_not_saved(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    with pytest.raises(InputError, match="fit none of"):
        save(tmp_path / "w.safetensors", tensors)
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        save(tmp_path / "w.safetensors", small("hasn").state_dict())
    assert [each.name for each in tmp_path.iterdir()] == ["w.safetensors"]


# What must not get in

RAN = "ran"  # the file that an evil pickle makes when it is run


class Runs:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def evil(kind: str, marker: Path) -> Any:
    return {
        "system": Runs(os.system, f"touch {marker}"),
        "eval": Runs(builtins.eval, f"open({str(marker)!r}, 'w')"),
        "open": Runs(open, str(marker), "w"),
        "getattr": Runs(getattr, "", "join"),
        "module": nn.Conv2d(1, 1, 1),
        "bytearray": Runs(bytearray, 1 << 40),
        "tensor": Runs(torch.Tensor, 1 << 40),
    }[kind]


EVIL = ("system", "eval", "open", "getattr", "module", "bytearray", "tensor")


@pytest.mark.parametrize("place", ["top", "entry", "nested", "beside"])
@pytest.mark.parametrize("kind", EVIL)
def test_evil_pickles_do_not_run(kind: str, place: str, tmp_path: Path) -> None:
    marker, payload = tmp_path / RAN, evil(kind, tmp_path / RAN)
    content = {
        "top": payload,
        "entry": {"params": {"weight": payload}},
        "nested": {"params": OrderedDict(weight=torch.ones(1)), "state": [{"a": (payload,)}]},
        "beside": OrderedDict(weight=torch.ones(2), other=payload),
    }[place]
    torch.save(content, tmp_path / "w.pth")
    assert "nothing was loaded" in refused(tmp_path / "w.pth", "no part of a tensor")
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_evil_pickles_of_any_protocol_do_not_run(protocol: int, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "good.pth")
    body = pickle.dumps(evil("system", tmp_path / RAN), protocol)
    rewrite(tmp_path / "good.pth", tmp_path / "w.pth", lambda _: body)
    refused(tmp_path / "w.pth")
    (tmp_path / "plain.pth").write_bytes(body)
    refused(tmp_path / "plain.pth")
    assert not (tmp_path / RAN).exists()


def rewrite(source: Path, target: Path, change: Callable[[bytes], bytes], **options: Any) -> None:
    """A copy of a checkpoint with another pickle in it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry.filename, change(data) if entry.filename.endswith("/data.pkl") else data)


def integer(value: int) -> bytes:
    """A whole number as a pickle writes it."""
    return b"\x8a\x08" + struct.pack("<q", value)


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    path = tmp_path / "ten.pth"
    torch.save({"a": torch.arange(10.0)}, path)
    return path


@pytest.mark.parametrize("elements", [11, 2**20, 2**40, 2**62, -1])
def test_sizes_that_lie(elements: int, ten: Path, tmp_path: Path) -> None:
    # In the pickle, the number 10 stands first for the elements of the storage and then for the tensor's size.
    for name, change in {
        "both": lambda data: data.replace(b"K\n", integer(elements)),
        "shape": lambda data: data.replace(b"K\n\x85", integer(elements) + b"\x85"),
    }.items():
        rewrite(ten, tmp_path / f"{name}.pth", change)
        refused(tmp_path / f"{name}.pth")


def test_one_value_repeated_without_end(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1).expand(10**9)}, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "claim more bytes than the file has")


def test_one_storage_behind_many_names(tmp_path: Path) -> None:
    value = torch.ones(1000)
    torch.save({str(name): value for name in range(1000)}, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "claim more bytes than the file has")


def test_compressed_entries(ten: Path, tmp_path: Path) -> None:
    rewrite(ten, tmp_path / "w.pth", lambda data: data, compression=zipfile.ZIP_DEFLATED)
    refused(tmp_path / "w.pth", "compressed")


def test_a_pickle_twice(ten: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(ten, "a") as archive:
        archive.writestr("ten/data.pkl", b"\x80\x02}.")
    refused(ten, "no checkpoint of torch")


def test_programs_are_not_weights(tmp_path: Path) -> None:
    net = nn.Conv2d(3, 3, 1).eval()
    with pytest.warns(DeprecationWarning):
        torch.jit.save(torch.jit.script(net), tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "TorchScript program")
    with zipfile.ZipFile(tmp_path / "w.pt2", "w") as archive:
        archive.writestr("w/archive_format", "pt2")
        archive.writestr("w/models/model.json", "{}")
        archive.writestr("w/data.pkl", b"\x80\x02}.")
    refused(tmp_path / "w.pt2", "exported program")


def test_old_torch_files_say_how_to_go_on(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(tensors, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    refused(tmp_path / "w.pth", "before 1.6.*save it again with torch.save")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_cut_off_anywhere(suffix: str, tmp_path: Path) -> None:
    path, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    state = small("hasn").state_dict()
    (save_file if suffix == "safetensors" else torch.save)(state, path)
    data = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for length in [
        0,
        1,
        7,
        8,
        9,
        10,
        len(data) - 1,
        *torch.randint(11, len(data), (20,), generator=generator).tolist(),
    ]:
        cut.write_bytes(data[:length])
        refused(cut)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_flipped_bytes_load_or_are_refused(suffix: str, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / f"w.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(tensors, path)
    data = path.read_bytes()
    generator = torch.Generator().manual_seed(1)
    for place in torch.randint(0, len(data), (150,), generator=generator).tolist():
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :])
        try:
            read_state_dict(path)
        except InputError as error:
            assert "\n" not in str(error)


def header(content: Any, length: int | None = None, data: bytes = bytes(40)) -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


TEN = {"dtype": "F32", "shape": [10], "data_offsets": [0, 40]}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(header({"a": TEN}, length=2**63), id="header-of-8-EiB"),
        pytest.param(header({"a": TEN}, length=10**6), id="header-longer-than-the-file"),
        pytest.param(header({"a": TEN | {"shape": [2**40]}}), id="shape-of-4-TiB"),
        pytest.param(header({"a": TEN | {"shape": [2**40], "data_offsets": [0, 2**42]}}), id="offsets-of-4-TiB"),
        pytest.param(header({"a": TEN | {"shape": [2**62, 4]}}), id="shape-overflows"),
        pytest.param(header({"a": TEN | {"data_offsets": [-4, 36]}}), id="offset-below-0"),
        pytest.param(header({"a": TEN, "b": TEN}), id="tensors-overlap"),
        pytest.param(header({"a": TEN}, data=bytes(80)), id="bytes-of-nobody"),
        pytest.param(header({"a": TEN | {"dtype": "EVIL"}}), id="unknown-dtype"),
        pytest.param(header(b'{"a": ' * 5000), id="nested-deeply"),
        pytest.param(header(b"{not json}"), id="not-json"),
        pytest.param(header({}, data=b""), id="no-tensors"),
        pytest.param(header({"__metadata__": {"a": "b"}}, data=b""), id="metadata-only"),
    ],
)
def test_lying_safetensors(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(data)
    refused(tmp_path / "w.safetensors")


def loop() -> dict[str, Any]:
    itself: dict[str, Any] = {}
    itself["params"] = itself
    return itself


@pytest.mark.parametrize(
    ("content", "match"),
    [
        pytest.param({}, "holds no tensors", id="empty"),
        pytest.param({"params": {}}, "no tensors under 'params'", id="empty-wrapper"),
        pytest.param([torch.ones(1)], "holds a list", id="list"),
        pytest.param(torch.ones(1), "holds a Tensor", id="tensor"),
        pytest.param({"a": torch.ones(1), "epoch": 3}, "'epoch' is of type int", id="number-among-tensors"),
        pytest.param({1: torch.ones(1)}, "1 is of type Tensor, not a named tensor", id="number-as-name"),
        pytest.param({"a": {"b": torch.ones(1)}}, "'a' is of type dict", id="unknown-wrapper"),
        pytest.param({"a": torch.tensor([1.0, float("nan")])}, "a has NaN or infinite", id="nan"),
        pytest.param({"a": torch.tensor([float("-inf")])}, "a has NaN or infinite", id="infinity"),
        pytest.param({"a": torch.ones(1, dtype=torch.complex64)}, "a is not a plain tensor", id="complex"),
        pytest.param({"a": torch.eye(3).to_sparse()}, "no part of a tensor", id="sparse"),
        pytest.param({"a": torch.empty(3, device="meta")}, "no part of a tensor", id="meta"),
        pytest.param({"\x1b[2J\n": 1}, r"x1b\[2J", id="terminal-codes"),
        pytest.param(loop(), "is of type dict", id="holds-itself"),
    ],
)
def test_contents_that_are_no_weights(content: Any, match: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", match)


def test_quantised_weights(tmp_path: Path) -> None:
    state = small("hasn").state_dict()
    state["head.weight"] = state["head.weight"].mul(100).to(torch.int8)
    save_file(state, tmp_path / "w.safetensors")
    refused(tmp_path / "w.safetensors", r"w.safetensors: head.weight is torch.int8, a quantised weight")


@pytest.mark.parametrize("data", [b"", bytes(5000), b"PK\x03\x04" + bytes(100), b"\x89PNG\r\n\x1a\n", b"\x80", b"PK"])
def test_other_bytes(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(data)
    refused(tmp_path / "w.safetensors")


def test_other_zip_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("../../evil", b"x")
    refused(tmp_path / "w.pth", "no checkpoint of torch")
    torch.save({}, (data := io.BytesIO()))
    (tmp_path / "w.pth").write_bytes(b"junk" * 3 + data.getvalue())
    refused(tmp_path / "w.pth", "not a weight file")


def test_names_of_any_alphabet(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "重み ü.pth"
    torch.save(tensors, path)
    assert read_state_dict(path).tensors.keys() == tensors.keys()
