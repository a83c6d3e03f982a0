"""Figures of the networks, and the weights at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import lightsr
from lightsr import InputError
from lightsr.at_hand import weights_at_hand, weights_for
from lightsr.checkpoint import save
from lightsr.folders import cache_folder, weight_folders
from lightsr.info import as_text, info

PACKAGED = lightsr.folders.PACKAGED


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only weight folder with anything in it."""
    monkeypatch.setattr(lightsr.folders, "PACKAGED", tmp_path / "none")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("LIGHTSR_WEIGHTS", str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def small_weights(path: Path, scale: int) -> None:
    save(path, lightsr.create("hasn", scale, blocks=1, channels=12).state_dict())


@pytest.mark.parametrize(
    ("name", "scale", "folded", "training", "multi_adds"),
    [
        ("hasn", 4, 435_272, 435_272, 23.28),
        ("mafdn", 4, 596_904, 672_720, 33.75),
        ("lmswn", 2, 522_680, 799_160, 119.98),
        ("bicubic", 3, 0, 0, 0.0),
    ],
)
def test_figures_of_the_papers(name: str, scale: int, folded: int, training: int, multi_adds: float) -> None:
    (row,) = info(name, scale)["networks"]
    assert (row["name"], row["scale"]) == (name, scale)
    assert (row["parameters"], row["training_parameters"]) == (folded, training)
    assert round(row["multi_adds"] / 1e9, 2) == multi_adds


def test_tiles_and_sources_are_the_classes() -> None:
    rows = {row["name"]: row for row in info(scale=2)["networks"]}
    assert list(rows) == list(lightsr.networks.REGISTRY)
    for name, cls in lightsr.networks.REGISTRY.items():
        row, net = rows[name], cls(2)
        facts = (net.title, net.radius, net.multiple, net.exact_tiles, net.source)
        assert (row["title"], row["radius"], row["multiple"], row["exact_tiles"], row["source"]) == facts


def test_one_network_has_all_its_scales() -> None:
    assert [row["scale"] for row in info("lmswn")["networks"]] == [2, 3, 4]


def test_unknown_names_are_told() -> None:
    with pytest.raises(InputError, match=r"network must be one of .*hasn.*; got 'hasm'"):
        info("hasm")


def test_facts_are_json() -> None:
    facts = info("lmswn", 4)
    assert json.loads(json.dumps(facts)) == facts


def test_text_has_every_figure() -> None:
    text = as_text(info("mafdn", 4))
    for shown in ("mafdn", "x4", "596,904", "672,720", "33.75 G", "approximate", "MAFDN: ", "10.1155/2024/3255233"):
        assert shown in text


def test_weights_are_known_by_what_they_hold(folder: Path) -> None:
    small_weights(folder / "named_badly.safetensors", 3)
    torch.save({"params": {"a": torch.ones(1)}}, folder / "other.pth")
    (folder / "notes.txt").write_text("not looked at")
    assert [(each.path.name, each.network, each.scale) for each in weights_at_hand()] == [
        ("named_badly.safetensors", "hasn", 3),
        ("other.pth", None, None),
    ]
    assert weights_for("hasn", 3) == folder / "named_badly.safetensors"
    facts = info("hasn", 3)
    assert facts["networks"][0]["weights"] == [str(folder / "named_badly.safetensors")]
    text = as_text(facts)
    assert "1 at hand" in text and "named_badly.safetensors: hasn x3" in text
    assert "other.pth: not usable: the weights fit none of" in text


def test_the_first_folder_wins(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "lightsr" / "weights").mkdir(parents=True)
    small_weights(tmp_path / "data" / "lightsr" / "weights" / "a.safetensors", 2)
    assert weights_for("hasn", 2).parent.parent.name == "lightsr"
    small_weights(folder / "b.safetensors", 2)
    assert weights_for("hasn", 2) == folder / "b.safetensors"


def test_missing_weights_say_where_to_put_them(folder: Path) -> None:
    small_weights(folder / "a.safetensors", 2)
    with pytest.raises(InputError, match="no trained weights for idsa_net x2 at hand; there are hasn x2; ") as caught:
        weights_for("idsa_net", 2)
    assert str(folder) in str(caught.value) and "-w" in str(caught.value)
    assert f"put it in {folder}" in as_text(info("hasn", 4))


def test_nothing_at_hand(folder: Path) -> None:
    with pytest.raises(InputError, match="no trained weights for hasn x4 at hand; there are none; others come from"):
        weights_for("hasn", 4)
    assert info("hasn", 4)["weight_files"] == [] and "  none there\n" in as_text(info("hasn", 4))


def test_folders_without_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("LIGHTSR_WEIGHTS", "LIGHTSR_CACHE", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert weight_folders() == [tmp_path / ".local/share/lightsr/weights", lightsr.folders.PACKAGED]
    assert Path(lightsr.__file__).parent / "weights" == PACKAGED
    assert cache_folder() == tmp_path / ".cache/lightsr"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == tmp_path / "Library/Caches/lightsr"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "Local"))
    assert cache_folder() == tmp_path / "Local/lightsr"
    monkeypatch.setenv("LIGHTSR_CACHE", str(tmp_path / "elsewhere"))
    assert cache_folder() == tmp_path / "elsewhere"
