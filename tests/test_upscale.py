"""The upscale verb: names, colour, transparency, depth, metadata, and what becomes of bad files."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_images import ICC, camera_exif, levels, noise, save, save16, tell
from torch import Tensor

import lightsr
from lightsr.errors import InputError
from lightsr.images import Picture, read_picture
from lightsr.networks import SRNetwork
from lightsr.resize import imresize
from lightsr.upscale import upscale, upscale_picture


def bicubic(source: Path, output: Path, **options: Any) -> Any:
    return upscale(source, output, **{"network": "bicubic", "scale": 2, "quiet": True} | options)


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


class Odd(SRNetwork):
    """Repeats pixels, and does to them what a test wants."""

    name = "odd"
    title = "Odd"
    exact_tiles = True
    radius = 0

    def __init__(self, change: Any) -> None:
        super().__init__(2, use_fused=False)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.change(x.repeat_interleave(2, -1).repeat_interleave(2, -2))
        return out


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_8_bit_colour_is_the_networks(tmp_path: Path, suffix: str, scale: int) -> None:
    pixels = noise(7, 9, 3)
    source = save(tmp_path / f"a{suffix}", pixels)
    report = bicubic(source, tmp_path / "out", scale=scale)
    assert report.done == [tmp_path / "out" / f"a_bicubicx{scale}{suffix}"]
    assert (report.failed, report.notes) == ([], [])
    want = imresize(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255, scale).clamp(0, 1) * 255
    got = levels(read_picture(report.done[0]))
    assert np.array_equal(got, (want + 0.5).floor().byte().permute(1, 2, 0).numpy())


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_16_bits_in_16_bits_out(tmp_path: Path, suffix: str, bands: int) -> None:
    pixels = np.full((6, 7, bands), 0x1234, np.uint16)  # Pillow would make 0x1200 of it
    pixels[..., -1] |= 0xFFFF if bands in (2, 4) else 0
    report = bicubic(save16(tmp_path / f"a{suffix}", pixels), tmp_path / "b.tif")
    assert report.failed == []
    got = levels(read_picture(tmp_path / "b.tif"))
    assert got.dtype == np.uint16
    assert got.shape == (12, 14, bands)
    assert np.array_equal(got, np.broadcast_to(pixels[:1, :1], got.shape))


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp"])
def test_16_bits_are_not_cut(tmp_path: Path, suffix: str) -> None:
    source = save16(tmp_path / "a.png", noise(5, 5, 3, dtype=np.uint16))
    report = bicubic(source, tmp_path / f"b{suffix}")
    assert report.done == []
    assert "has 16 bits per channel" in report.failed[0][1]
    assert "write PNG or TIFF" in report.failed[0][1]
    assert names(tmp_path) == ["a.png"]


def test_network_sees_colour_and_gives_the_result(tmp_path: Path) -> None:
    seen = []

    def swapped(x: Tensor) -> Tensor:
        seen.append(x)
        return x.flip(1)

    colour = torch.rand(3, 4, 5)
    out = upscale_picture(Odd(swapped), Picture(colour))
    assert torch.equal(out.colour, colour.flip(0).repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert seen[0].dtype == torch.float32


def test_grey_stays_grey(tmp_path: Path) -> None:
    tinted = Odd(lambda x: x * torch.tensor([1.0, 0.5, 0.0])[None, :, None, None])
    out = upscale_picture(tinted, Picture(torch.ones(3, 2, 2), grey=True))
    assert torch.equal(out.colour[0], out.colour[1])
    torch.testing.assert_close(out.colour[0], torch.full((4, 4), 0.299 + 0.587 / 2))
    report = bicubic(save(tmp_path / "a.png", noise(5, 6)), tmp_path / "b.png")
    with Image.open(report.done[0]) as image:
        assert (image.mode, image.size) == ("L", (12, 10))


def test_values_beyond_the_range_are_clipped() -> None:
    out = upscale_picture(Odd(lambda x: x * 4 - 1), Picture(torch.rand(3, 5, 5)))
    assert 0 <= float(out.colour.min()) <= float(out.colour.max()) <= 1


def test_hidden_colour_does_not_bleed() -> None:
    colour, alpha = torch.zeros(3, 8, 8), torch.ones(1, 8, 8)
    colour[0, :, :4], colour[1, :, 4:] = 1, 1  # red, and green that nobody sees
    alpha[:, :, 4:] = 0
    out = upscale_picture(lightsr.create("bicubic", 4), Picture(colour, alpha))
    assert out.alpha is not None
    torch.testing.assert_close(out.alpha, imresize(alpha, 4).clamp(0, 1))
    shown = (out.alpha > 0).expand(3, -1, -1)
    assert float(out.colour[1][shown[1]].max()) == 0
    assert float(out.colour[0][shown[0]].min()) > 0.99


def test_opaque_stays_opaque(tmp_path: Path) -> None:
    pixels = noise(9, 9, 4)
    pixels[..., 3] = 255
    report = bicubic(save(tmp_path / "a.png", pixels), tmp_path / "b.png")
    got = levels(read_picture(report.done[0]))
    assert got.shape == (18, 18, 4)
    assert (got[..., 3] == 255).all()
    plain = bicubic(save(tmp_path / "c.png", pixels[..., :3]), tmp_path / "d.png")
    assert np.array_equal(got[..., :3], levels(read_picture(plain.done[0])))
    pixels[0, 0, 3] = 0  # one see-through corner must not make the rest less opaque
    report = bicubic(save(tmp_path / "e.png", pixels), tmp_path / "f.png")
    assert (levels(read_picture(report.done[0]))[8:, 8:, 3] == 255).all()


def test_palette_and_one_bit_and_transparent_palette(tmp_path: Path) -> None:
    palette = Image.fromarray(noise(8, 8, 3)).quantize(8)
    save(tmp_path / "p.png", palette)
    save(tmp_path / "t.png", palette, transparency=2)
    save(tmp_path / "b.png", Image.fromarray(noise(8, 8) > 99))
    report = bicubic(tmp_path, tmp_path / "out")
    assert report.failed == []
    modes = {each.stem[0]: Image.open(each).mode for each in report.done}
    assert modes == {"p": "RGB", "t": "RGBA", "b": "L"}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_orientation_and_metadata(tmp_path: Path, suffix: str) -> None:
    exif = camera_exif().tobytes()
    source = save(tmp_path / f"a{suffix}", noise(5, 8, 3), exif=exif, icc_profile=ICC, dpi=(240, 240))
    bicubic(source, tmp_path / f"b{suffix}")
    got = tell(tmp_path / f"b{suffix}")
    with Image.open(tmp_path / f"b{suffix}") as image:
        assert image.size == (10, 16)  # turned by its orientation
    assert (got["model"], got["orientation"], got["icc"], got["size"]) == ("Model 1", 1, ICC, (10, 16))
    assert got["dpi"] == (240, 240) or suffix == ".webp"
    bicubic(source, tmp_path / f"c{suffix}", strip_metadata=True)
    got = tell(tmp_path / f"c{suffix}")
    assert (got["model"], got["gps"], got["icc"]) == (None, None, None)
    assert got["dpi"] != (240, 240)


def test_format_and_quality(tmp_path: Path) -> None:
    source = save(tmp_path / "a.png", noise(40, 40, 3))
    sizes = []
    for quality in (20, 95):
        report = bicubic(source, tmp_path / "out", format="jpeg", quality=quality)
        assert report.done == [tmp_path / "out" / "a_bicubicx2.jpg"]
        sizes.append(report.done[0].stat().st_size)
    assert sizes[0] < sizes[1]
    for name, kind in (("png", "PNG"), ("webp", "WEBP"), ("tiff", "TIFF"), ("bmp", "BMP")):
        with Image.open(bicubic(source, tmp_path / "out", format=name).done[0]) as image:
            assert image.format == kind


def test_folder_is_taken_flat_and_bad_files_are_listed(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "below").mkdir(parents=True)
    for name in ("b.png", "a.JPG", "below/c.png"):
        save(folder / name, noise(4, 4, 3))
    (folder / "bad.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture and not meant to be one")
    report = bicubic(folder, tmp_path / "out")
    assert [each.name for each in report.done] == ["a_bicubicx2.JPG", "b_bicubicx2.png"]
    assert [(path.name, reason[:8]) for path, reason in report.failed] == [("bad.png", "is not a")]
    assert names(tmp_path / "out") == ["a_bicubicx2.JPG", "b_bicubicx2.png"]


def test_names_that_would_be_one(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.png"):
        save(tmp_path / name, noise(4, 4, 3))
    assert bicubic(tmp_path, tmp_path / "out").failed == []
    report = bicubic(tmp_path, tmp_path / "out2", format="png")
    assert [each.name for each in report.done] == ["a_bicubicx2.png", "b_bicubicx2.png"]
    assert [path.name for path, _ in report.failed] == ["a.png"]
    assert "as" in report.failed[0][1]


def test_no_input_is_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "a_bicubicx2.png", "b.png", "c.png"):
        save(folder / name, noise(4, 4, 3))
    (folder / "b_bicubicx2.png").symlink_to("c.png")
    (folder / "c_bicubicx2.png").hardlink_to(folder / "c.png")
    before = {each.name: each.read_bytes() for each in folder.iterdir()}
    report = bicubic(folder, folder)
    assert [path.name for path, _ in report.failed] == ["a.png", "b.png", "c.png"]
    assert all(reason.endswith(", which is another input; write to another folder") for _, reason in report.failed)
    assert report.failed[0][1].startswith(f"would overwrite {folder / 'a_bicubicx2.png'}, ")
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert {f"{each}_bicubicx2_bicubicx2.png" for each in "abc"} == set(names(folder)) - set(before)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a_bicubicx2.png").symlink_to(folder / "a.png")
    report = bicubic(folder / "a.png", tmp_path / "out")
    assert report.done == []
    assert "which is the input itself" in report.failed[0][1]
    assert (folder / "a.png").read_bytes() == before["a.png"]


def test_suffix_of_a_folder_decides_nothing(tmp_path: Path) -> None:
    (tmp_path / "v1.0").mkdir()
    source = save(tmp_path / "a.png", noise(4, 4, 3))
    assert bicubic(source, tmp_path / "v1.0").done == [tmp_path / "v1.0" / "a_bicubicx2.png"]
    assert bicubic(source, tmp_path / "new" / "deep").done == [tmp_path / "new" / "deep" / "a_bicubicx2.png"]


def test_an_existing_output_is_replaced(tmp_path: Path) -> None:
    source = save(tmp_path / "a.png", noise(4, 4, 3))
    (tmp_path / "b.png").write_bytes(b"old")
    bicubic(source, tmp_path / "b.png")
    assert read_picture(tmp_path / "b.png").size == (8, 8)


@pytest.mark.parametrize(
    ("output", "options", "words"),
    [
        ("a.png", {}, "is the input itself"),
        ("link.png", {}, "is the input itself"),
        ("b.gif", {}, "suffix '.gif'"),
        ("nowhere/b.png", {}, "no such folder"),
        ("b.png", {"format": "jpeg"}, "leave one out"),
        ("b.png", {"format": "gif"}, "format must be one of"),
        ("b.png", {"scale": 5}, "scale must be 2, 3 or 4"),
        ("b.png", {"tile": 0}, "tile must be"),
        ("b.png", {"quality": 0}, "quality must be"),
        ("b.png", {"backend": "fast"}, "backend must be one of"),
        ("b.png", {"device": "abacus"}, "device 'abacus' cannot be used"),
        ("b.png", {"network": "esrgan"}, "network must be one of"),
        ("b.png", {"network": "idsa_net", "scale": 2}, "no trained weights for idsa_net x2"),
        ("b.png", {"weights": "a.png"}, "bicubic has no weights"),
        ("b.png", {"network": "hasn", "weights": "gone.pth"}, "gone.pth"),
    ],
)
def test_slips_that_concern_all_pictures(tmp_path: Path, output: str, options: dict[str, Any], words: str) -> None:
    source = save(tmp_path / "a.png", noise(4, 4, 3))
    (tmp_path / "link.png").symlink_to(source)
    with pytest.raises(InputError) as caught:
        bicubic(source, tmp_path / output, **options)
    assert words in str(caught.value)
    assert names(tmp_path) == ["a.png", "link.png"]


def test_other_slips(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        bicubic(tmp_path / "gone.png", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no picture in it"):
        bicubic(tmp_path / "empty", tmp_path / "out")
    save(tmp_path / "empty" / "a.png", noise(4, 4, 3))
    with pytest.raises(InputError, match="several pictures need a folder"):
        bicubic(tmp_path / "empty", tmp_path / "empty" / "a.png")
    assert not (tmp_path / "out").exists()


def test_without_weights_the_error_says_where_they_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTSR_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    source = save(tmp_path / "a.png", noise(4, 4, 3))
    with pytest.raises(InputError, match=r"lmswn x3.*-w"):
        upscale(source, tmp_path / "b.png", network="lmswn", scale=3)


def test_weights_tell_network_and_scale(tmp_path: Path) -> None:
    torch.save(lightsr.create("lmswn", 2).state_dict(), tmp_path / "w.pth")
    source = save(tmp_path / "a.png", noise(6, 5, 3))
    report = upscale(source, tmp_path / "out", weights=tmp_path / "w.pth", quiet=True)
    assert report.done == [tmp_path / "out" / "a_lmswnx2.png"]
    assert read_picture(report.done[0]).size == (10, 12)
    with pytest.raises(InputError, match="holds lmswn x2"):
        upscale(source, tmp_path / "out", network="hasn", weights=tmp_path / "w.pth")


def test_authors_weights(tmp_path: Path, shared: Path) -> None:
    source = save(tmp_path / "a.png", noise(17, 20, 3))
    report = upscale(source, tmp_path / "out", weights=shared / "weights" / "HASN" / "HASN.pth", tile=16, quiet=True)
    assert report.done == [tmp_path / "out" / "a_hasnx4.png"]
    assert report.notes == []  # smaller than any tile worth running


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(value: float) -> None:
    def spoil(x: Tensor) -> Tensor:
        x[..., 3, 3] = value
        return x

    with pytest.raises(InputError, match="not finite: its numbers overflowed on this picture"):
        upscale_picture(Odd(spoil), Picture(torch.rand(3, 4, 4)))
    net = lightsr.create("lmswn", 2)
    with torch.no_grad():
        net.tail[0].bias[1] = value
    with pytest.raises(InputError, match=r"its weights hold NaN or infinity \(tail.0.bias\)"):
        upscale_picture(net, Picture(torch.rand(3, 4, 4)))


def test_tiling_of_pooling_networks_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightsr.tiles.SMALLEST_PATCH", 0)
    torch.save(lightsr.create("mafdn", 2).state_dict(), tmp_path / "w.pth")
    source = save(tmp_path / "a.png", noise(3, 110, 3))
    report = upscale(source, tmp_path / "b.png", weights=tmp_path / "w.pth", tile=60, quiet=True)
    assert len(report.notes) == 1
    assert report.notes[0].startswith("tiling is approximate for MAFDN: ")
    assert upscale(source, tmp_path / "b.png", weights=tmp_path / "w.pth", tile="off").notes == []
    assert bicubic(source, tmp_path / "b.png", tile=8).notes == []


def test_too_large_for_memory_is_told_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(tmp_path / "a.png", noise(40, 40, 3))
    source.write_bytes(source.read_bytes()[:60])
    monkeypatch.setattr("lightsr.upscale.usable_memory", lambda _, held=0: 100_000)
    report = bicubic(source, tmp_path / "b.png")
    assert "need 0.128 MB and 0.1 MB are free" in report.failed[0][1]


def test_limit_of_pixels(tmp_path: Path) -> None:
    source = save(tmp_path / "a.png", noise(10, 10, 3))
    assert "the limit is 99" in bicubic(source, tmp_path / "b.png", max_pixels=99).failed[0][1]
    assert bicubic(source, tmp_path / "b.png", max_pixels=100).failed == []


def test_ctrl_c_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png"):
        save(tmp_path / name, noise(4, 4, 3))
    calls = []

    def stop_at_second(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 2:  # file and folder of the first picture
            raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        bicubic(tmp_path, tmp_path / "out")
    assert names(tmp_path / "out") == ["a_bicubicx2.png"]


@pytest.mark.parametrize(
    ("quiet", "terminal", "shown"), [(False, True, True), (True, True, False), (False, False, False)]
)
def test_progress_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: bool, terminal: bool, shown: bool
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    for name in ("a.png", "b.png"):
        save(tmp_path / name, noise(4, 4, 3))
    bicubic(tmp_path, tmp_path / "out", quiet=quiet)
    assert ("/2 pictures" in stream.getvalue()) is shown


def test_backend_is_obeyed(tmp_path: Path) -> None:
    torch.save(lightsr.create("hasn", 2).state_dict(), tmp_path / "w.pth")
    source = save(tmp_path / "a.png", noise(16, 16, 3))
    with pytest.raises(InputError, match="triton"):
        upscale(source, tmp_path / "b.png", weights=tmp_path / "w.pth", backend="triton", device="cpu")
    assert upscale(source, tmp_path / "b.png", weights=tmp_path / "w.pth", backend="reference").failed == []
