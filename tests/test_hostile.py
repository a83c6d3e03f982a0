"""Pictures that mean harm: one clear line, exit code 1, nothing half-written, nothing executed."""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import BICUBIC, GOOD, SUFFIXES, Run, good_bytes, no_hang
from PIL import Image
from test_images import noise, save, save16


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    with no_hang():
        yield Run(tmp_path, capfd)


@pytest.mark.parametrize("number", range(20))
@pytest.mark.parametrize("kind", [*GOOD, "bmp", "lzw", "16png", "16tif"])
def test_cut_off_at_random(run: Run, kind: str, number: int) -> None:
    data = good_bytes(kind)
    at = random.Random(f"{kind} {number}").randrange(1, len(data) * 95 // 100)
    path = run.folder / f"cut.{SUFFIXES.get(kind, kind)}"
    path.write_bytes(data[:at])
    run.fails(path, "-o", run.out, *BICUBIC, words="cut.")


@pytest.mark.parametrize("number", range(12))
@pytest.mark.parametrize("kind", [*GOOD, "bmp", "lzw", "16png", "16tif"])
def test_scrambled(run: Run, kind: str, number: int) -> None:
    """Some bytes changed: either a picture comes out or one line, and neither a crash nor half a file."""
    draw = random.Random(f"{kind} {number}")
    data = bytearray(good_bytes(kind))
    for _ in range(draw.choice([1, 3, 30])):
        data[draw.randrange(len(data))] = draw.randrange(256)
    path = run.folder / f"bent.{SUFFIXES.get(kind, kind)}"
    path.write_bytes(data)
    code, out, err = run(path, "-o", run.out, *BICUBIC)
    assert (code, len(out), len(err)) in {(0, 1, 0), (1, 0, 1)}, err
    assert not [name for name in run.files() if ".tmp-" in name]


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes, rows: bytes = b"", bits: int = 8) -> bytes:
    head = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, bits, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows or bytes(height * (1 + 3 * width))))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + body + chunk(b"IEND", b"")


def tiff(*entries: tuple[int, int, int, int], following: int = 0, count: int | None = None) -> bytes:
    body = b"".join(struct.pack("<HHLL", *each) for each in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", count or len(entries)) + body + struct.pack("<L", following)


def plain_tiff(width: int, height: int, strip: int = 0, **options: int) -> bytes:
    tags = (
        (256, width),
        (257, height),
        (258, 8),
        (259, 1),
        (262, 1),
        (273, strip),
        (277, 1),
        (278, height),
        (279, 100),
    )
    return tiff(*((tag, 4, 1, value) for tag, value in tags), **options)


def saved(kind: str, *frames: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    frames[0].save(
        file, kind, **({"save_all": True, "append_images": frames[1:]} if len(frames) > 1 else {}), **options
    )
    return file.getvalue()


def picture(mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (9, 7))


TWO = (Image.new("RGB", (9, 7), "red"), Image.new("RGB", (9, 7), "blue"))
_PACKER = zlib.compressobj(9)
BOMB = b"".join([_PACKER.compress(bytes(1 << 20)) for _ in range(200)]) + _PACKER.flush()  # 200 MB in 200 kB

PICTURES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    **{f"zero-bytes-{kind}": (f"a.{kind}", lambda: bytes(1000), "is not a") for kind in (*GOOD, "bmp")},
    **{f"empty-{kind}": (f"a.{kind}", lambda: b"", "is empty") for kind in (*GOOD, "bmp")},
    "one-byte": ("a.png", lambda: b"\x89", "is not a"),
    "text": ("a.png", lambda: b"just words\n" * 20, "is not a"),
    "html": ("a.jpg", lambda: b"<!doctype html><script>alert(1)</script>", "is not a"),
    "svg": ("a.png", lambda: b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "is not a"),
    "postscript": ("a.tif", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "is not a"),
    "gif": ("a.gif", lambda: saved("GIF", picture("P")), "is none of"),
    "gif-called-png": ("a.png", lambda: saved("GIF", picture("P")), "is not a"),
    "animated-gif": ("a.png", lambda: saved("GIF", *TWO), "is not a"),
    "animated-webp": ("a.webp", lambda: saved("WEBP", *TWO), "2 frames"),
    "animated-png": ("a.png", lambda: saved("PNG", *TWO), "2 frames"),
    "pages": ("a.tif", lambda: saved("TIFF", *TWO), "more than one page"),
    "cmyk-jpeg": ("a.jpg", lambda: saved("JPEG", picture("CMYK")), "CMYK"),
    "cmyk-tiff": ("a.tif", lambda: saved("TIFF", picture("CMYK")), "CMYK"),
    "lab-tiff": ("a.tif", lambda: saved("TIFF", picture("LAB")), "LAB"),
    "float-tiff": ("a.tif", lambda: saved("TIFF", picture("F")), "convert it"),
    "32-bit-tiff": ("a.tif", lambda: saved("TIFF", picture("I")), "convert it"),
    "bomb-png": ("a.png", lambda: png(60000, 60000, rows=bytes(100)), "60000x60000"),
    "bomb-16-bit-png": ("a.png", lambda: png(60000, 60000, rows=bytes(100), bits=16), "60000x60000"),
    "bomb-text": ("a.png", lambda: png(4, 4, chunk(b"zTXt", b"Comment\0\0" + BOMB)), "Decompressed data too large"),
    "bomb-international-text": (
        "a.png",
        lambda: png(4, 4, chunk(b"iTXt", b"Comment\0\1\0\0\0" + BOMB)),
        "Decompressed data too large",
    ),
    "bomb-in-the-profile": ("a.png", lambda: png(4, 4, chunk(b"iCCP", b"x\0\0" + BOMB)), "Decompressed data too large"),
    "bomb-tiff": ("a.tif", lambda: plain_tiff(1 << 20, 1 << 20), "1048576x1048576"),
    "bomb-bmp": (
        "a.bmp",
        lambda: b"BM" + bytes(12) + struct.pack("<LllHHLLllLL", 40, 1 << 20, 1 << 20, 1, 24, *[0] * 6),
        "",
    ),
    "no-size-png": ("a.png", lambda: png(0, 5), "a.png"),
    "no-size-tiff": ("a.tif", lambda: plain_tiff(0, 5), "no pixels"),
    "page-loop": ("a.tif", lambda: plain_tiff(9, 7, following=8), "more than one page"),
    "tiff-nowhere": ("a.tif", lambda: b"II*\0" + struct.pack("<L", 1 << 31), "damaged"),
    "tiff-many-tags": ("a.tif", lambda: tiff((256, 4, 1, 9), count=65535), "damaged"),
    "tiff-no-tags": ("a.tif", tiff, ""),
    "tiff-lying-strip": ("a.tif", lambda: plain_tiff(9, 7, strip=1 << 30), "damaged"),
    "tiff-huge-value": ("a.tif", lambda: tiff((256, 4, 0xFFFFFFFF, 8), (257, 4, 1, 5)), "damaged"),
    "bigtiff-huge-count": ("a.tif", lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 1 << 60), "damaged"),
    "png-cut-in-header": ("a.png", lambda: png(4, 4)[:20], "damaged"),
    "png-wrong-checksum": ("a.png", lambda: png(4, 4)[:30] + b"xxxx" + png(4, 4)[34:], "damaged"),
    "webp-head-only": ("a.webp", lambda: b"RIFF\x24\0\0\0WEBPVP8 ", "damaged"),
    "jpeg-head-only": ("a.jpg", lambda: b"\xff\xd8\xff\xe0", "damaged"),
}


@pytest.mark.parametrize("case", PICTURES)
def test_pictures(run: Run, case: str) -> None:
    name, make, words = PICTURES[case]
    path = run.folder / name
    path.write_bytes(make())
    run.fails(path, "-o", run.out, *BICUBIC, words=words)


def test_bad_ones_in_a_folder_do_not_stop_the_good_one(run: Run) -> None:
    folder = run.folder / "in"
    folder.mkdir()
    for k, case in enumerate(each for each in PICTURES if PICTURES[each][0] != "a.gif"):
        name, make, _ = PICTURES[case]
        (folder / f"{k:02}{name[1:]}").write_bytes(make())
    save(folder / "good.png", noise(5, 5, 3))
    os.mkfifo(folder / "pipe.png")
    (folder / "gone.png").symlink_to("nowhere")
    code, out, err = run(folder, "-o", run.out, *BICUBIC)
    assert (code, out) == (1, [str(run.out / "good_bicubicx2.png")])
    assert len(err) == len(PICTURES) - 1 + 2
    assert [each.name for each in run.out.iterdir()] == ["good_bicubicx2.png"]


HARMLESS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "one-bit": ("a.png", lambda: saved("PNG", picture("1"))),
    "one-pixel": ("a.png", lambda: png(1, 1)),
    "jpeg-called-png": ("a.png", lambda: saved("JPEG", picture())),
    "png-called-tif": ("a.tif", lambda: saved("PNG", picture())),
    "exif-in-circles": (
        "a.jpg",
        lambda: saved("JPEG", picture(), exif=b"Exif\0\0" + tiff((34665, 4, 1, 8), following=8)),
    ),
    "exif-of-many-tags": (
        "a.jpg",
        lambda: saved("JPEG", picture(), exif=b"Exif\0\0" + tiff((274, 3, 1, 6), count=65535)),
    ),
    "exif-orientation-of-9": ("a.png", lambda: saved("PNG", picture(), exif=tiff((274, 3, 1, 9)))),
    "words-after-the-end": ("a.png", lambda: png(4, 4) + b"<?php system($_GET[0]); ?>"),
    "profile-of-nonsense": ("a.jpg", lambda: saved("JPEG", picture(), icc_profile=b"nonsense" * 9)),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_odd_pictures_work(run: Run, case: str) -> None:
    name, make = HARMLESS[case]
    path = run.folder / name
    path.write_bytes(make())
    assert run.works(path, "-o", run.out, *BICUBIC).exists()


def peak_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def test_memory_of_a_bomb_stays_low(run: Run) -> None:
    path = run.folder / "a.png"
    path.write_bytes(png(4, 4, chunk(b"iCCP", b"x\0\0" + BOMB), chunk(b"zTXt", b"Comment\0\0" + BOMB)))
    run(save(run.folder / "good.png", noise(4, 4, 3)), "-o", run.out, *BICUBIC)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    except OSError:
        pytest.skip("the peak of memory cannot be read here")
    before = peak_memory()
    run(path, "-o", run.out, *BICUBIC)
    assert peak_memory() - before < 50 << 20


def test_changing_or_vanishing_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save16(run.folder / "a.png", noise(8, 8, 3, dtype=np.uint16))

    def late(*_: object) -> None:
        source.unlink()

    monkeypatch.setattr("lightsr.upscale._check_room", late)
    code, out, err = run(source, "-o", run.out, *BICUBIC)
    assert (code, out, len(err)) == (1, [], 1)
    assert "no such file" in err[0]
