"""Training data: patches are pieces of the pictures, their low resolution is MATLAB's, and steps decide everything."""

from __future__ import annotations

import os
import zipfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from train_helpers import draw

from lightsr.cli import main
from lightsr.errors import InputError
from lightsr.images import read_rgb8
from lightsr.resize import imresize
from lightsr.training.batches import Batches, Cut, Sampler, finished
from lightsr.training.cache import cached_pictures
from lightsr.training.overlap import refuse_overlap, refuse_test_sets
from lightsr.training.pictures import Pictures, find_pictures, load_pictures


def load(folder: Path, scale: int, low_resolution: bool = True, smallest: int = 8) -> Pictures:
    with ExitStack() as stack:
        return load_pictures(find_pictures([folder], stack), scale, smallest, low_resolution)


def sampler(pictures: Pictures, **more: int | bool) -> Sampler:
    settings = {"seed": 1, "stage": 0, "patch": 8, "batch": 16, "flips": True, "rotations": True, **more}
    return Sampler.over(pictures, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_patches_are_pieces_of_the_pictures(tmp_path: Path, scale: int) -> None:
    folder = draw(tmp_path / "a", 3, 53, 61)
    pictures = load(folder, scale)
    draws = sampler(pictures)
    seen = set()
    for step in range(4):
        lr, hr = Batches(pictures, draws, range(9)).batch(step)
        assert (lr.dtype, hr.dtype) == (torch.uint8, torch.uint8)
        for k, cut in enumerate(draws.cuts(step)):
            whole = read_rgb8(folder / f"p{cut.picture}.png")
            whole = whole[:, : 53 // scale * scale, : 61 // scale * scale]
            for got, source, unit in ((hr[k], whole, scale), (lr[k], imresize(whole, 1 / scale), 1)):
                top, left, side = cut.top * unit, cut.left * unit, 8 * unit
                wanted = source[:, top : top + side, left : left + side]
                wanted = wanted.flip(2) if cut.turn & 1 else wanted
                wanted = wanted.flip(1) if cut.turn & 2 else wanted
                assert torch.equal(got, wanted.mT if cut.turn & 4 else wanted)
            seen.add(cut.turn)
    assert seen == set(range(8))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_low_resolution_of_patches_has_the_bytes_of_whole_pictures(tmp_path: Path, scale: int) -> None:
    folder = draw(tmp_path / "a", 2, 61, 49)
    whole, parts = load(folder, scale), load(folder, scale, low_resolution=False)
    draws = sampler(whole, batch=64)
    for step in range(3):
        wanted = Batches(whole, draws, range(3)).batch(step)
        found = finished(*Batches(parts, draws, range(3)).batch(step), scale)
        assert torch.equal(found[0], wanted[0])
        assert torch.equal(found[1], wanted[1])
    # All of a picture that is its own patch: every border is mirrored.
    height, width = (side // scale for side in whole.hr.sizes[0])
    side = min(height, width)
    corners = [Cut(0, top, left, 0) for top in (0, height - side) for left in (0, width - side)]
    for cut in corners:

        class Fixed(Sampler):
            def cuts(self, step: int, cut: Cut = cut) -> list[Cut]:
                return [cut]

        fixed = Fixed(draws.sizes, 0, 0, side, 1, 7)
        wanted, found = (Batches(each, fixed, range(1)).batch(0) for each in (whole, parts))
        assert torch.equal(finished(*found, scale)[0], wanted[0])


def test_one_gather_cuts_what_slices_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightsr.training import batches

    pictures = load(draw(tmp_path / "a", 3, 40, 52), 2)
    cuts = sampler(pictures, batch=32).cuts(5)
    assert torch.equal(batches._gathered(pictures.hr, cuts, 8, 2, 0), batches._cut(pictures.hr, cuts, 8, 2))


def test_processes_and_workers_share_one_batch(tmp_path: Path) -> None:
    pictures = load(draw(tmp_path / "a"), 2)
    draws = sampler(pictures, batch=6)
    whole = Batches(pictures, draws, range(3, 9))
    parts = [Batches(pictures, draws, range(3, 9), rank, 2) for rank in range(2)]
    loaded = list(DataLoader(whole, batch_size=None, num_workers=2))
    assert len(loaded) == 6
    for step, got in zip(range(3, 9), loaded, strict=True):
        for k in range(2):
            assert torch.equal(got[k], whole.batch(step)[k])
            assert torch.equal(torch.stack([part.batch(step)[k] for part in parts], 1).flatten(0, 1), got[k])


def test_steps_seeds_and_stages_draw_other_patches_and_every_place_is_as_likely(tmp_path: Path) -> None:
    draw(tmp_path / "a", 1, 24, 40)
    draw(tmp_path / "b", 1, 60, 60, seed=1)
    with ExitStack() as stack:
        pictures = load_pictures(find_pictures([tmp_path / "a", tmp_path / "b"], stack), 2, 8, True)
    one = sampler(pictures).cuts(1)
    assert sampler(pictures).cuts(1) == one
    for other in (sampler(pictures).cuts(2), sampler(pictures, seed=2).cuts(1), sampler(pictures, stage=1).cuts(1)):
        assert other != one
    many = sampler(pictures, batch=20_000).cuts(0)
    places = [5 * 13, 23 * 23]
    share = sum(cut.picture == 0 for cut in many) / len(many)
    assert share == pytest.approx(places[0] / sum(places), rel=0.1)
    assert {(cut.top, cut.left) for cut in many if cut.picture == 0} == {(y, x) for y in range(5) for x in range(13)}
    assert {cut.turn for cut in sampler(pictures, batch=200, rotations=False).cuts(0)} == {0, 1, 2, 3}
    assert {cut.turn for cut in sampler(pictures, batch=200, flips=False).cuts(0)} == {0, 4}


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    folder = draw(tmp_path / "a")
    (folder / "broken.png").write_bytes((folder / "p0.png").read_bytes()[:500])
    (folder / "text.jpg").write_text("no picture")
    with pytest.raises(
        InputError, match=r"2 of 5 training pictures cannot be read: .*broken\.png.*text\.jpg: is not a"
    ):
        load(folder, 2)


def test_small_pictures_are_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = draw(tmp_path / "a")
    Image.new("RGB", (20, 10)).save(folder / "small.png")
    with caplog.at_level("INFO", "lightsr"):
        assert len(load(folder, 2).names) == 3
    assert "1 pictures under 16 pixels a side left out" in caplog.text
    with pytest.raises(InputError, match="none of 4 training pictures has 200 pixels a side"):
        load(folder, 2, smallest=100)


@pytest.mark.parametrize(
    ("place", "message"),
    [("nowhere", "no such file"), ("empty", "no pictures in it"), ("text", "no folder, and cannot be")],
)
def test_places_without_pictures_are_told(tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no zip")
    with pytest.raises(InputError, match=message), ExitStack() as stack:
        find_pictures([tmp_path / place], stack)


def test_a_folder_named_twice_counts_twice(tmp_path: Path) -> None:
    folder = draw(tmp_path / "a", 2)
    with ExitStack() as stack:
        pictures = load_pictures(find_pictures([folder, folder], stack), 2, 8, True)
    assert len(pictures.names) == 4
    assert pictures.hr.values.numel() == load(folder, 2).hr.values.numel()
    assert torch.equal(pictures.hr.picture(1), pictures.hr.picture(3))


def test_a_packed_file_has_every_pixel_and_the_same_bytes_each_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = draw(tmp_path / "a")
    Image.fromarray(np.tile(np.arange(60, dtype=np.uint8), (40, 1))).save(folder / "grey.jpg")
    for name in ("one.zip", "two.zip"):
        assert main(["train", "short", "--set", f"data.train={folder}", "--pack", str(tmp_path / name)]) == 0
    assert "one.zip: 4 pictures, " in capsys.readouterr().out
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    packed, plain = load(tmp_path / "one.zip", 2), load(folder, 2)
    assert torch.equal(packed.hr.values, plain.hr.values)
    assert packed.names[0] == f"{tmp_path / 'one.zip'}:00000_grey.jpg"


def test_names_in_a_packed_file_reach_no_path(tmp_path: Path) -> None:
    picture = (draw(tmp_path / "a", 1) / "p0.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../../evil.png", picture)
        archive.writestr("/tmp/evil.png", picture)
    before = set(tmp_path.rglob("*"))
    assert len(load(tmp_path / "evil.zip", 2).names) == 2
    assert set(tmp_path.rglob("*")) == before


def test_the_cache_holds_what_was_decoded_and_notices_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTSR_CACHE", str(tmp_path / "cache"))
    folder = draw(tmp_path / "a")

    def cached() -> Pictures:
        with ExitStack() as stack:
            return cached_pictures(find_pictures([folder], stack), 2, 8, True)

    first, plain = cached(), load(folder, 2)
    for found in (first, cached()):
        assert torch.equal(found.hr.values, plain.hr.values)
        assert found.lr is not None
        assert plain.lr is not None
        assert torch.equal(found.lr.values, plain.lr.values)
        assert (found.names, found.hr.sizes) == (plain.names, plain.hr.sizes)
    assert len(list((tmp_path / "cache" / "training").glob("*.safetensors"))) == 1
    (folder / "p0.png").write_bytes((folder / "p1.png").read_bytes())
    os.utime(folder / "p0.png", (1, 1))
    assert torch.equal(cached().hr.picture(0), plain.hr.picture(1))


def test_test_pictures_are_refused(tmp_path: Path) -> None:
    train, validate = draw(tmp_path / "train"), draw(tmp_path / "validate", 2, seed=9)
    pictures = load(train, 2)
    refuse_overlap(pictures, [str(validate)], 2)
    Image.open(train / "p1.png").crop((1, 0, 60, 53)).save(validate / "other_name.bmp")
    with pytest.raises(InputError, match=r"other_name\.bmp is among the training pictures, as .*p1\.png"):
        refuse_overlap(pictures, [str(validate)], 2)
    with pytest.raises(InputError, match="no such folder"):
        refuse_overlap(pictures, [str(tmp_path / "nowhere")], 2)
    refuse_test_sets(["DIV2K/train", "Set55"])
    for name in ("Set5", "set14/HR", "B100", "BSD100", "Urban100", "Manga109_x4"):
        with pytest.raises(InputError, match="a test set"):
            refuse_test_sets([f"data/{name}"])
