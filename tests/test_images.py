"""Reading and writing pictures: what a file holds comes back, and what cannot be carried is refused."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import torch
from PIL import Image, ImageCms, ImageOps
from PIL.TiffImagePlugin import IFDRational

from lightsr.errors import InputError
from lightsr.images import Picture, list_pictures, read_header, read_picture, read_rgb8, write_picture

LOSSLESS = (".png", ".tif", ".tiff", ".bmp")
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def save(path: Path, pixels: Any, **options: Any) -> Path:
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


def noise(*shape: int, dtype: Any = np.uint8) -> Any:
    return np.random.default_rng(1).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def levels(picture: Picture) -> Any:  # [H, W, C]
    channels = [picture.colour[:1] if picture.grey else picture.colour]
    channels += [] if picture.alpha is None else [picture.alpha]
    top = 2**picture.bits - 1
    return (torch.cat(channels) * top).round().permute(1, 2, 0).numpy().astype(np.uint16 if top > 255 else np.uint8)


def save16(path: Path, pixels: Any, **options: Any) -> Path:
    height, width, bands = pixels.shape
    image = pyvips.Image.new_from_memory(pixels.tobytes(), width, height, bands, "ushort")
    image = image.copy(interpretation="grey16" if bands < 3 else "rgb16")
    getattr(image, "pngsave" if path.suffix == ".png" else "tiffsave")(str(path), **options)
    return path


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("bands", [1, 3], ids=["grey", "rgb"])
@pytest.mark.parametrize("size", [(1, 1), (7, 13), (64, 3)], ids=str)
def test_8_bits_come_back(tmp_path: Path, suffix: str, bands: int, size: tuple[int, int]) -> None:
    pixels = noise(*size, bands)
    path = save(tmp_path / f"in{suffix}", pixels[:, :, 0] if bands == 1 else pixels)
    picture = read_picture(path)
    assert (picture.bits, picture.grey, picture.alpha) == (8, bands == 1, None)
    assert picture.size == (size[1], size[0])
    assert np.array_equal(levels(picture), pixels)
    write_picture(tmp_path / f"out{suffix}", picture)
    assert np.array_equal(levels(read_picture(tmp_path / f"out{suffix}")), pixels)
    assert np.array_equal(np.asarray(Image.open(tmp_path / f"out{suffix}")).reshape(pixels.shape), pixels)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4], ids=["grey", "grey-alpha", "rgb", "rgba"])
@pytest.mark.parametrize("size", [(1, 1), (9, 300)], ids=str)
def test_16_bits_come_back(tmp_path: Path, suffix: str, bands: int, size: tuple[int, int]) -> None:
    pixels = noise(*size, bands, dtype=np.uint16)
    picture = read_picture(save16(tmp_path / f"in{suffix}", pixels))
    assert (picture.bits, picture.grey, picture.alpha is not None) == (16, bands < 3, bands in (2, 4))
    assert np.array_equal(levels(picture), pixels)
    out = tmp_path / f"out{suffix}"
    write_picture(out, picture)
    # libvips is the judge of what was written: it is another reader than writer for TIFF.
    assert np.array_equal(pyvips.Image.new_from_file(str(out)).numpy().reshape(pixels.shape), pixels)


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_dark_16_bit_picture_stays_16_bit(tmp_path: Path, suffix: str) -> None:
    pixels = noise(5, 6, 3).astype(np.uint16)  # no value above 255
    picture = read_picture(save16(tmp_path / f"dark{suffix}", pixels))
    assert picture.bits == 16
    assert np.array_equal(levels(picture), pixels)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzw"},
        {"compression": "deflate", "predictor": "horizontal"},
        {"tile": True, "tile_width": 16, "tile_height": 16},
        {"bigtiff": True},
        {"compression": "deflate", "predictor": "none", "bigtiff": True},
    ],
    ids=["lzw", "predictor", "tiled", "bigtiff", "bigtiff-deflate"],
)
def test_16_bit_tiff_of_any_build(tmp_path: Path, options: dict[str, Any]) -> None:
    pixels = noise(33, 21, 3, dtype=np.uint16)
    assert np.array_equal(levels(read_picture(save16(tmp_path / "a.tif", pixels, **options))), pixels)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("palette", [False, True])
def test_tiff_of_few_bits(tmp_path: Path, depth: int, palette: bool) -> None:
    rows = noise(5, 16, 1) >> (8 - depth)
    packed = np.packbits(np.unpackbits(rows, axis=2)[..., 8 - depth :].reshape(5, -1), axis=1).tobytes()
    count = 2**depth
    colours = np.random.default_rng(2).integers(0, 256, (3, count)).astype("<u2") * 257
    tags = {256: 16, 257: 5, 258: depth, 259: 1, 262: 3 if palette else 1, 273: 8, 277: 1, 278: 5, 279: len(packed)}
    entries = [struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags.items()]
    place = 8 + len(packed) + len(packed) % 2
    if palette:
        entries.append(struct.pack("<HHLL", 320, 3, 3 * count, place))
    head = b"II*\0" + struct.pack("<L", place + 6 * count)
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    (tmp_path / "a.tif").write_bytes(head + packed + b"\0" * (len(packed) % 2) + colours.tobytes() + directory)
    want = (colours // 257).T[rows[..., 0]] if palette else rows * (255 // (count - 1))
    picture = read_picture(tmp_path / "a.tif")
    assert picture.grey is not palette
    assert np.array_equal(levels(picture), want.astype(np.uint8))


@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_of_multiplied_alpha(tmp_path: Path, bits: int) -> None:
    top = 2**bits - 1
    pixels = np.full((3, 4, 4), (top // 2, 0, top // 4, top), "uint8" if bits == 8 else "uint16")
    pixels[1] = (top // 4, 0, 0, top // 2)  # half as much red as alpha
    image = pyvips.Image.new_from_memory(pixels.tobytes(), 4, 3, 4, "uchar" if bits == 8 else "ushort")
    image.copy(interpretation="srgb" if bits == 8 else "rgb16").tiffsave(str(tmp_path / "a.tif"))
    data = bytearray((tmp_path / "a.tif").read_bytes())
    at = data.index(struct.pack("<HHL", 338, 3, 1)) + 8
    assert data[at] == 2
    for kind, red in ((1, 0.5), (2, 0.25)):
        data[at] = kind
        (tmp_path / "b.tif").write_bytes(data)
        picture = read_picture(tmp_path / "b.tif")
        assert picture.alpha is not None
        assert float(picture.colour[0, 1, 1]) == pytest.approx(red, abs=0.01)
    data[at] = 0
    (tmp_path / "b.tif").write_bytes(data)
    with pytest.raises(InputError, match="has an extra channel of unknown meaning; save it without, or as alpha"):
        read_picture(tmp_path / "b.tif")


def test_tiff_with_jpeg_inside(tmp_path: Path) -> None:
    pixels = np.full((32, 32, 3), (200, 100, 50), np.uint8)
    save(tmp_path / "a.tif", pixels, compression="jpeg")
    assert np.abs(levels(read_picture(tmp_path / "a.tif")).astype(int) - pixels).max() <= 3


@pytest.mark.parametrize("bits", [8, 16])
def test_min_is_white_is_turned_round(tmp_path: Path, bits: int) -> None:
    pixels = noise(5, 7, 1, dtype=np.uint8 if bits == 8 else np.uint16)
    image = pyvips.Image.new_from_memory(pixels.tobytes(), 7, 5, 1, "uchar" if bits == 8 else "ushort")
    image.tiffsave(str(tmp_path / "a.tif"), miniswhite=True)
    want = pyvips.Image.new_from_file(str(tmp_path / "a.tif")).numpy().reshape(5, 7, 1)
    assert np.array_equal(levels(read_picture(tmp_path / "a.tif")), want)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_transparency_comes_back(tmp_path: Path, suffix: str) -> None:
    pixels = noise(9, 8, 4)
    pixels[..., 3] |= 1  # WebP clears colour under full transparency
    path = save(tmp_path / f"in{suffix}", pixels, **({"lossless": True} if suffix == ".webp" else {}))
    picture = read_picture(path)
    assert np.array_equal(levels(picture), pixels)
    write_picture(tmp_path / f"out{suffix}", picture, quality=100)
    assert np.array_equal(levels(read_picture(tmp_path / f"out{suffix}")), pixels)


def test_palette_becomes_rgb_and_its_transparency_alpha(tmp_path: Path) -> None:
    image = Image.fromarray(noise(8, 8, 3)).quantize(16)
    assert np.array_equal(levels(read_picture(save(tmp_path / "a.png", image))), np.asarray(image.convert("RGB")))
    save(tmp_path / "b.png", image, transparency=3)
    picture = read_picture(tmp_path / "b.png")
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha[0].numpy() == 0, np.asarray(image) == 3)


def test_transparent_colour_of_grey_png(tmp_path: Path) -> None:
    pixels = noise(6, 5)
    picture = read_picture(save(tmp_path / "a.png", pixels, transparency=int(pixels[2, 3])))
    assert picture.grey
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha[0].numpy() == 0, pixels == pixels[2, 3])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_one_bit_is_grey(tmp_path: Path, suffix: str) -> None:
    dots = noise(9, 11) > 99
    picture = read_picture(save(tmp_path / f"a{suffix}", Image.fromarray(dots)))
    assert picture.grey
    assert np.array_equal(levels(picture)[..., 0], dots * np.uint8(255))


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_quality_changes_the_file(tmp_path: Path, suffix: str) -> None:
    picture = Picture(torch.rand(3, 40, 40))
    sizes = []
    for quality in (30, 95):
        write_picture(tmp_path / f"{quality}{suffix}", picture, quality)
        sizes.append((tmp_path / f"{quality}{suffix}").stat().st_size)
    assert sizes[0] < sizes[1]


def test_content_counts_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    save(tmp_path / "a.png", noise(4, 4, 3)).rename(path)
    assert read_picture(path).format == "PNG"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_orientation_is_applied_and_reset(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
    path = save(tmp_path / f"a{suffix}", noise(5, 8, 3), exif=exif, **options)
    picture = read_picture(path)
    with Image.open(path) as image:
        assert np.array_equal(levels(picture), np.asarray(ImageOps.exif_transpose(image)))
    write_picture(tmp_path / f"b{suffix}", picture)
    with Image.open(tmp_path / f"b{suffix}") as image:
        assert image.getexif().get(274, 1) == 1
        assert image.size == picture.size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_orientation_of_16_bits(tmp_path: Path, suffix: str, orientation: int) -> None:
    pixels = noise(5, 8, 3, dtype=np.uint16)
    height, width, _ = pixels.shape
    image = pyvips.Image.new_from_memory(pixels.tobytes(), width, height, 3, "ushort").copy(interpretation="rgb16")
    image.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    image.write_to_file(str(tmp_path / f"a{suffix}"))
    want = Image.fromarray((pixels >> 8).astype(np.uint8))
    exif = want.getexif()
    exif[274] = orientation
    picture = read_picture(tmp_path / f"a{suffix}")
    assert np.array_equal(levels(picture) >> 8, np.asarray(ImageOps.exif_transpose(want)))


def camera_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0110], exif[0x8298], exif[0x0112] = "Model 1", b"\xc2\xa9 owner", 6
    below = exif.get_ifd(0x8769)
    below[0x9003], below[0x829A], below[0xA002], below[0xA003] = "2020:01:02 03:04:05", IFDRational(1, 125), 8, 5
    below[0x927C] = b"maker\0note"
    exif.get_ifd(0x8825)[1] = "N"
    return exif


def tell(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        exif = image.getexif()
        below = exif.get_ifd(0x8769)
        dpi = image.info.get("dpi")
        if image.format == "WEBP" and exif.get(296) == 2:
            dpi = (exif[282], exif[283])
        return {
            "model": exif.get(0x0110),
            "owner": exif.get(0x8298),
            "orientation": exif.get(0x0112, 1),
            "time": below.get(0x9003),
            "exposure": None if 0x829A not in below else float(below[0x829A]),
            "maker": below.get(0x927C),
            "size": (below.get(0xA002), below.get(0xA003)),
            "gps": exif.get_ifd(0x8825).get(1),
            "icc": image.info.get("icc_profile"),
            "dpi": None if dpi is None else tuple(round(float(each)) for each in dpi),
        }


@pytest.mark.parametrize("start", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize(
    ("end", "bits"), [(".jpg", 8), (".png", 8), (".webp", 8), (".tif", 8), (".bmp", 8), (".png", 16), (".tif", 16)]
)
def test_metadata_is_carried(tmp_path: Path, start: str, end: str, bits: int) -> None:
    exif = camera_exif()
    if start == ".webp":
        exif[282], exif[283], exif[296] = 240, 240, 2
    source = save(tmp_path / f"a{start}", noise(5, 8, 3), exif=exif.tobytes(), icc_profile=ICC, dpi=(240, 240))
    picture = read_picture(source)
    picture.bits = bits
    write_picture(tmp_path / f"b{end}", picture)
    got = tell(tmp_path / f"b{end}")
    assert got["dpi"] == (240, 240)
    if end == ".bmp":
        return
    assert got["icc"] == ICC
    assert (got["model"], got["time"], got["exposure"], got["gps"]) == (
        "Model 1",
        "2020:01:02 03:04:05",
        0.008,
        "N",
    )
    if start != ".tif":  # Pillow, which makes the input, spoils it there
        assert got["owner"] == "Â© owner"  # UTF-8 bytes that Pillow shows as Latin-1
    assert got["maker"] == b"maker\0note"
    assert got["orientation"] == 1
    assert got["size"] == (5, 8)  # turned


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_follows_the_byte_order_of_its_exif(tmp_path: Path, order: str, bits: int) -> None:
    exif = camera_exif()
    exif.endian = order
    picture = read_picture(save(tmp_path / "a.jpg", noise(5, 8, 3), exif=exif.tobytes()))
    picture.bits = bits
    write_picture(tmp_path / "b.tif", picture)
    assert (tmp_path / "b.tif").read_bytes()[:2] == {"<": b"II", ">": b"MM"}[order]
    assert tell(tmp_path / "b.tif")["time"] == "2020:01:02 03:04:05"
    assert np.array_equal(levels(read_picture(tmp_path / "b.tif")), levels(picture))


@pytest.mark.parametrize("order", ["<", ">", None])
def test_dpi_of_webp(tmp_path: Path, order: str | None) -> None:
    picture = Picture(torch.rand(3, 4, 5), dpi=(300.5, 72))
    if order is not None:
        exif = camera_exif()
        exif.endian = order
        exif[282], exif[283], exif[296] = 1000, 10, 3  # per centimetre, and not what the picture says
        save(tmp_path / "a.webp", noise(4, 5, 3), exif=exif.tobytes())
        read = read_picture(tmp_path / "a.webp")
        assert read.dpi == pytest.approx((2540, 25.4))
        picture.exif = read.exif
    for _ in range(2):  # written, and written over
        write_picture(tmp_path / "b.webp", picture)
        picture = read_picture(tmp_path / "b.webp")
        assert picture.dpi == (300.5, 72)
    got = tell(tmp_path / "b.webp")
    assert (got["model"], got["maker"]) == ((None, None) if order is None else ("Model 1", b"maker\0note"))


def test_files_without_metadata_get_none(tmp_path: Path) -> None:
    for suffix in LOSSLESS:
        picture = read_picture(save(tmp_path / f"a{suffix}", noise(4, 4, 3)))
        assert (picture.exif, picture.icc) == (None, None)
        assert picture.dpi is None or suffix == ".bmp"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0", b"Exif\0\0" + b"\xff" * 40, b"Exif\0\0nonsense"], ids=repr)
def test_damaged_exif_does_not_cost_the_picture(tmp_path: Path, suffix: str, exif: bytes) -> None:
    picture = read_picture(save(tmp_path / f"a{suffix}", noise(4, 4, 3), exif=exif))
    write_picture(tmp_path / f"b{suffix}", picture)
    assert read_picture(tmp_path / f"b{suffix}").size == (4, 4)


def test_grey_profile_is_not_put_on_colour(tmp_path: Path) -> None:
    grey_icc = ICC[:16] + b"GRAY" + ICC[20:]
    write_picture(tmp_path / "a.webp", Picture(torch.rand(1, 4, 4).expand(3, -1, -1), grey=True, icc=grey_icc))
    assert read_picture(tmp_path / "a.webp").icc is None
    write_picture(tmp_path / "a.png", Picture(torch.rand(1, 4, 4).expand(3, -1, -1), grey=True, icc=grey_icc))
    assert read_picture(tmp_path / "a.png").icc == grey_icc


def test_values_are_clipped_and_rounded(tmp_path: Path) -> None:
    values = torch.tensor([-1.0, 0.49 / 255, 0.5 / 255 + 1e-6, 1.0, 7.0])
    for bits, want in ((8, [0, 0, 1, 255, 255]), (16, [0, 126, 129, 65535, 65535])):
        write_picture(tmp_path / "a.png", Picture(values.expand(3, 1, -1), bits=bits, grey=True))
        assert levels(read_picture(tmp_path / "a.png"))[0, :, 0].tolist() == want


@pytest.mark.parametrize(
    ("picture", "name", "words"),
    [
        (Picture(torch.rand(3, 4, 4), bits=16), "a.jpg", "16 bits"),
        (Picture(torch.rand(3, 4, 4), bits=16), "a.webp", "16 bits"),
        (Picture(torch.rand(3, 4, 4), bits=16), "a.bmp", "16 bits"),
        (Picture(torch.rand(3, 4, 4), torch.rand(1, 4, 4) / 2), "a.jpg", "transparency"),
        (Picture(torch.rand(3, 4, 4), torch.rand(1, 4, 4) / 2), "a.bmp", "transparency"),
        (Picture(torch.zeros(3, 1, 16384)), "a.webp", "16383"),
        (Picture(torch.zeros(3, 1, 65501)), "a.jpg", "65500"),
        (Picture(torch.rand(3, 4, 4)), "a.gif", "suffix"),
        (Picture(torch.rand(3, 4, 4)), "a", "suffix"),
        (Picture(torch.rand(3, 4, 4), exif=b"II*\0\x08\0\0\0" + bytes(70000)), "a.jpg", "EXIF"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_a_format_cannot_hold_is_refused(tmp_path: Path, picture: Picture, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        write_picture(tmp_path / name, picture)
    assert list(tmp_path.iterdir()) == []


def test_opaque_alpha_may_be_left_out(tmp_path: Path) -> None:
    picture = Picture(torch.rand(3, 4, 4), torch.ones(1, 4, 4))
    write_picture(tmp_path / "a.bmp", picture)
    assert read_picture(tmp_path / "a.bmp").alpha is None
    write_picture(tmp_path / "a.png", picture)
    assert read_picture(tmp_path / "a.png").alpha is not None


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "F", "I"])
def test_other_pixels_are_refused(tmp_path: Path, mode: str) -> None:
    with pytest.raises(InputError, match=r"convert it") as caught:
        read_picture(save(tmp_path / "a.tif", Image.new(mode, (9, 7))))
    assert str(caught.value).startswith(f"{tmp_path / 'a.tif'}: ")


def test_16_bit_cmyk_and_several_pages_are_refused(tmp_path: Path) -> None:
    image = pyvips.Image.new_from_memory(noise(4, 4, 4, dtype=np.uint16).tobytes(), 4, 4, 4, "ushort")
    image.copy(interpretation="cmyk").tiffsave(str(tmp_path / "a.tif"))
    with pytest.raises(InputError, match="CMYK"):
        read_picture(tmp_path / "a.tif")
    pages = [Image.fromarray(noise(4, 4, 3))] * 2
    pages[0].save(tmp_path / "b.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match="more than one page"):
        read_picture(tmp_path / "b.tif")


def test_limit_of_pixels_is_before_decoding(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", noise(10, 10, 3))
    assert read_picture(path, max_pixels=100).size == (10, 10)
    limit = Image.MAX_IMAGE_PIXELS
    path.write_bytes(path.read_bytes()[:60])  # the pixels are gone, the size is there
    with pytest.raises(InputError, match="the limit is 99"):
        read_picture(path, max_pixels=99)
    with pytest.raises(InputError, match="damaged"):
        read_picture(path, max_pixels=100)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_larger_limit_than_pillows_can_be_asked_for(tmp_path: Path) -> None:
    path = save(tmp_path / "wide.png", Image.new("1", (400_000, 500)))
    with pytest.raises(InputError, match="the limit is 178956970"):
        read_header(path)
    assert read_header(path, max_pixels=10**9).width == 400_000


def test_read_rgb8(tmp_path: Path) -> None:
    grey = noise(5, 6)
    want = torch.from_numpy(grey).expand(3, -1, -1)
    assert torch.equal(read_rgb8(save(tmp_path / "g.png", grey)), want)
    colour = noise(5, 6, 3)
    assert torch.equal(read_rgb8(save(tmp_path / "c.png", colour)), torch.from_numpy(colour).permute(2, 0, 1))
    with pytest.raises(InputError, match="transparency"):
        read_rgb8(save(tmp_path / "a.png", noise(5, 6, 4)))
    with pytest.raises(InputError, match="16 bits"):
        read_rgb8(save16(tmp_path / "w.png", noise(5, 6, 3, dtype=np.uint16)))


def test_list_pictures(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", ".hidden.png", "c.txt", "d.tiff"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to("nowhere")
    assert [each.name for each in list_pictures(tmp_path)] == ["a.jpg", "b.PNG", "d.tiff", "gone.png"]
    with pytest.raises(InputError, match="cannot be listed"):
        list_pictures(tmp_path / "nowhere")


def test_a_phones_jpeg_with_extras_is_its_first_picture(tmp_path: Path) -> None:
    frames = [Image.fromarray(noise(8, 8, 3)), Image.fromarray(noise(4, 4, 3))]
    frames[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=frames[1:])
    picture = read_picture(tmp_path / "a.jpg")
    assert (picture.format, picture.size) == ("JPEG", (8, 8))


def test_names_that_libvips_would_read_options_from(tmp_path: Path) -> None:
    pixels = noise(4, 5, 3, dtype=np.uint16)
    path = save16(tmp_path / "plain.png", pixels).rename(tmp_path / "scan[page=2] é.png")
    assert np.array_equal(levels(read_picture(path)), pixels)


def test_replacing_keeps_the_old_file_on_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        write_picture(path, Picture(torch.rand(3, 4, 4)))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_errors_are_one_printable_line() -> None:
    assert str(InputError("a\nb\x1b[31m\udc80")) == "a\\nb\\x1b[31m\\udc80"


def test_pillow_and_ours_agree_on_jpeg(tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.fromarray(noise(16, 16, 3)).save(data, "JPEG")
    (tmp_path / "a.jpg").write_bytes(data.getvalue())
    assert np.array_equal(levels(read_picture(tmp_path / "a.jpg")), np.asarray(Image.open(data)))
