"""The weights that come with the package: they are what the manifest says, and reach what it says."""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import lightsr
from lightsr import folders
from lightsr.at_hand import manifest, weights_for
from lightsr.checkpoint import read_state_dict
from lightsr.evaluate import Entry, evaluate
from lightsr.training.config import read_config
from lightsr.upscale import upscale

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # at the end: bench comes from the checkout, the packages from where they are installed

from bench.weights import BLOCK, PAGE, table  # noqa: E402

SET5 = ROOT.parent / "shared/data/testsets/Set5/HR"
MANIFEST = manifest()
README = (ROOT / "README.md").read_text()


@pytest.fixture(autouse=True)
def no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "nothing"))
    monkeypatch.delenv("LIGHTSR_WEIGHTS", raising=False)


def test_every_network_has_some() -> None:
    wanted = {"hasn_x2", "hasn_x3", "hasn_x4", "lmswn_x4", "mafdn_x4", "idsa_net_x4"}
    assert {Path(name).stem for name in MANIFEST} == wanted
    assert {path.name for path in folders.PACKAGED.iterdir()} == {*MANIFEST, "manifest.json"}
    # In dB, with room below what was measured; bicubic has 33.7, 30.4 and 28.4.
    bars = {"hasn_x2": 36.5, "hasn_x3": 32.5, "hasn_x4": 31.0, "lmswn_x4": 30.5, "mafdn_x4": 30.5, "idsa_net_x4": 30.5}
    assert all(each["Set5"]["psnr"] >= bars[Path(name).stem] for name, each in MANIFEST.items())


@pytest.mark.parametrize("name", MANIFEST)
def test_the_manifest(name: str) -> None:
    path, told = folders.PACKAGED / name, MANIFEST[name]
    assert (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()) == (told["bytes"], told["sha256"])
    assert weights_for(told["network"], told["scale"]) == path
    net = lightsr.load(path)
    assert (
        (net.name, net.scale)
        == (told["network"], told["scale"])
        == tuple(convert(each) for convert, each in zip((str, int), path.stem.rsplit("_x", 1), strict=True))
    )
    assert all(each.dtype == torch.float32 for each in read_state_dict(path).tensors.values())
    assert path.stat().st_size < 2.2 * sum(each.numel() for each in net.parameters())  # it is float16
    words = shlex.split(told["command"])
    config = read_config(words[2], [words[i + 1] for i, word in enumerate(words) if word == "--set"])
    assert (config.network.name, config.network.scale, config.steps) == (net.name, net.scale, told["steps"])
    assert told["patches seen"] == sum(stage.steps * stage.batch for stage in config.stages)


@pytest.mark.skipif(not SET5.is_dir(), reason="needs shared/data")
@pytest.mark.parametrize("name", MANIFEST)
def test_they_reach_what_the_manifest_says(name: str) -> None:
    told = MANIFEST[name]
    (mean,) = evaluate(SET5, [Entry(told["network"])], told["scale"]).means()
    assert abs(mean.psnr - told["Set5"]["psnr"]) < 0.002 and abs(mean.ssim - told["Set5"]["ssim"]) < 1e-4


def test_a_picture_alone_is_enough(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes((ROOT / "examples/picture.png").read_bytes())
    (target,) = upscale(tmp_path / "photo.png").done
    assert target == tmp_path / "photo_hasnx4.png"
    source, large = (Image.open(path) for path in (tmp_path / "photo.png", target))
    assert large.size == tuple(4 * each for each in source.size)


def test_a_folder_alone_is_enough(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes((ROOT / "examples/picture.png").read_bytes())
    (target,) = upscale(tmp_path / "photos", network="bicubic", scale=2).done
    assert target == tmp_path / "photos_bicubicx2" / "a_bicubicx2.png"


def test_what_the_pages_say_of_them() -> None:
    found = BLOCK.search(PAGE.read_text())
    assert found and found[2] == table(MANIFEST)
    for each in MANIFEST.values():
        if each["scale"] == 4:
            cells = " | ".join(f"{each[which]['psnr']:.2f} / {each[which]['ssim']:.4f}" for which in ("Set5", "Set14"))
            assert re.search(rf"^\| .*{each['network']}.*\| {re.escape(cells)} \|", README, re.MULTILINE), each[
                "network"
            ]
