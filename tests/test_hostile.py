"""Files, names and disks that mean harm or fail: one clear line, exit code 1, nothing half-written or executed."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import random
import resource
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_images import noise, save, save16

import lightsr
from lightsr.cli import main

Maker = Callable[[Path], Path]
GOOD = ("png", "jpg", "tif", "webp")


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """Ends a test that hangs; loaded machines get some more than the 5 seconds promised."""

    def stop(*_: object) -> None:
        raise AssertionError("hung for 30 seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


class Run:
    """Runs the command line in a folder of its own and tells what became of it."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder, self.out, self.capfd = folder, folder / "out", capfd
        self.marker = folder / "executed"

    def __call__(self, *arguments: object) -> tuple[int, list[str], list[str]]:
        self.capfd.readouterr()
        with warnings.catch_warnings(record=True) as told:  # a warning would be one more line on stderr
            warnings.simplefilter("always")
            code = main(["upscale", *map(str, arguments)])
        assert [str(each.message) for each in told] == []
        printed = self.capfd.readouterr()
        return code, printed.out.splitlines(), printed.err.splitlines()

    def fails(self, *arguments: object, words: str = "") -> None:
        before = self.files()
        code, out, err = self(*arguments)
        assert (code, out, len(err)) == (1, [], 1), err
        assert err[0].startswith("lightsr: error: ")
        assert words in err[0]
        assert len(err[0]) < 900 + sum(len(str(each)) for each in arguments)
        assert err[0].isprintable()
        assert self.files() == before
        assert not self.marker.exists()

    def works(self, *arguments: object) -> Path:
        code, out, err = self(*arguments)
        assert (code, len(out), err) == (0, 1, [])
        assert not [name for name in self.files() if ".tmp-" in name]
        return Path(out[0])

    def files(self) -> list[str]:
        return sorted(str(each.relative_to(self.folder)) for each in self.folder.rglob("*") if not each.is_dir())


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    return Run(tmp_path, capfd)


BICUBIC = ("-n", "bicubic", "-s", "2")


def good_bytes(kind: str) -> bytes:
    file = io.BytesIO()
    smooth = np.kron(noise(6, 6, 3), np.ones((8, 8, 1), np.uint8))
    if kind.startswith("16"):
        import pyvips

        image = pyvips.Image.new_from_memory(noise(48, 48, 3, dtype=np.uint16).tobytes(), 48, 48, 3, "ushort")
        data: bytes = image.copy(interpretation="rgb16").write_to_buffer(f".{kind[2:]}")
        return data
    options = {"tif": {"format": "TIFF"}, "lzw": {"format": "TIFF", "compression": "tiff_lzw"}}
    others = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "bmp": "BMP"}
    Image.fromarray(smooth).save(file, **options.get(kind, {"format": others.get(kind)}))
    return file.getvalue()


SUFFIXES = {"lzw": "tif", "16png": "png", "16tif": "tif"}


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


def make_pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def make_dangling(path: Path) -> Path:
    path.symlink_to("nowhere")
    return path


def make_loop(path: Path) -> Path:
    path.symlink_to(path.name)
    return path


def make_folder(path: Path) -> Path:
    path.mkdir()
    (path / "b.png").mkdir()
    return path


NOT_FILES: dict[str, Maker] = {
    "missing": lambda path: path,
    "pipe": make_pipe,
    "dangling-link": make_dangling,
    "link-to-itself": make_loop,
    "folder-of-nothing": make_folder,
    "endless-device": lambda _: Path("/dev/zero"),
    "terminal-device": lambda _: Path("/dev/null"),
    "below-a-file": lambda path: save(path, noise(3, 3, 3)) / "b.png",
    "NUL": lambda path: path.with_name("a\0b.png"),
    "300-characters": lambda path: path.with_name("x" * 300 + ".png"),
    "6000-characters": lambda path: path.parent / "/".join(["y" * 100] * 60) / "a.png",
    "escape-codes": lambda path: path.with_name("a\x1b[2J\nb.png"),
    "not-unicode": lambda path: path.with_name("a\udcff.png"),
}


@pytest.mark.parametrize("case", NOT_FILES)
def test_inputs_that_are_no_files(run: Run, case: str) -> None:
    run.fails(NOT_FILES[case](run.folder / "a.png"), "-o", run.out, *BICUBIC)


@pytest.mark.parametrize("case", NOT_FILES)
def test_weights_that_are_no_files(run: Run, case: str) -> None:
    source = save(run.folder / "good.png", noise(4, 4, 3))
    path = NOT_FILES[case](run.folder / "a.png")
    run.fails(source, "-o", run.out, "-w", path.with_suffix(".pth") if case in ("missing", "escape-codes") else path)


OUTPUTS: dict[str, Maker] = {
    "pipe": make_pipe,
    "device": lambda _: Path("/dev/full"),
    "NUL": lambda path: path.with_name("a\0b.png"),
    "300-characters": lambda path: path.with_name("x" * 300 + ".png"),
    "300-characters-folder": lambda path: path.with_name("x" * 300),
    "missing-folder": lambda path: path.parent / "nowhere" / "b.png",
    "below-a-file": lambda path: save(path.with_name("file.png"), noise(3, 3, 3)) / "b.png",
    "folder-below-a-file": lambda path: save(path.with_name("file.png"), noise(3, 3, 3)) / "b",
    "no-picture-suffix": lambda path: path.with_suffix(".txt"),
    "input-through-dots": lambda path: path.parent / "." / ".." / path.parent.name / "good.png",
    "input-through-link": lambda path: make_link(path, "good.png"),
}


def make_link(path: Path, to: str) -> Path:
    path.symlink_to(to)
    return path


@pytest.mark.parametrize("case", OUTPUTS)
def test_outputs(run: Run, case: str) -> None:
    source = save(run.folder / "good.png", noise(4, 4, 3))
    before = source.read_bytes()
    run.fails(source, "-o", OUTPUTS[case](run.folder / "b.png"), *BICUBIC)
    assert source.read_bytes() == before


def test_a_name_too_long_with_its_addition(run: Run) -> None:
    source = save(run.folder / f"{'n' * 248}.png", noise(4, 4, 3))
    run.fails(source, "-o", run.out, *BICUBIC, words="too long")
    assert not any(run.out.iterdir())


def test_a_folder_in_the_place_of_the_output(run: Run) -> None:
    source = save(run.folder / "good.png", noise(4, 4, 3))
    (run.out / "good_bicubicx2.png").mkdir(parents=True)
    run.fails(source, "-o", run.out, *BICUBIC, words="which is a folder")


NAMES = {
    "spaces": " a  b .png",
    "non-ascii": "Überraschung 図 🎨.png",
    "dots": "..a..b..png",
    "percent-and-braces": "%s{stem}$HOME`x`.png",
    "vips-options": "a[page=1].png",
    "leading-dash": "-rf.png",
    "not-unicode": "a\udcff.png",
    "line-break": "a\nb.png",
    "80-wide-characters": "図" * 70 + ".png",
}


@pytest.mark.parametrize("case", NAMES)
def test_odd_names_work(run: Run, case: str) -> None:
    try:
        source = save(run.folder / NAMES[case], noise(4, 4, 3), format="PNG")
    except OSError:
        pytest.skip("the file system has no such names")
    code, _, err = run(source, "-o", run.out, *BICUBIC)
    assert (code, err) == (0, [])
    assert [each.name for each in run.out.iterdir()] == [f"{source.stem}_bicubicx2.png"]


def test_dots_stay_inside_the_folder(run: Run) -> None:
    (run.folder / "in").mkdir()
    save(run.folder / "evil.png", noise(4, 4, 3))
    run.works(run.folder / "in" / ".." / "evil.png", "-o", run.out, *BICUBIC)
    assert run.files() == ["evil.png", "out/evil_bicubicx2.png"]


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


@pytest.fixture
def locked(run: Run) -> Iterator[Path]:
    """A folder in which not even root can write."""
    run.out.mkdir()
    if (
        shutil.which("chattr")
        and subprocess.run(["chattr", "+i", run.out], capture_output=True, check=False).returncode == 0
    ):
        yield run.out
        subprocess.run(["chattr", "-i", run.out], check=True)
    elif os.geteuid() != 0:
        run.out.chmod(0o555)
        yield run.out
        run.out.chmod(0o755)
    else:
        pytest.skip("no way to lock a folder against root here")


def test_read_only_folder(run: Run, locked: Path) -> None:
    source = save(run.folder / "a.png", noise(4, 4, 3))
    run.fails(source, "-o", locked, *BICUBIC, words="cannot write")
    run.fails(source, "-o", locked / "b.png", *BICUBIC, words="cannot write")
    run.fails(source, "-o", locked / "deeper", *BICUBIC, words="cannot be made")


@pytest.mark.parametrize("call", ["write_bytes", "replace", "mkdir"])
@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_failing_calls(run: Run, monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    source = save(run.folder / "a.png", noise(4, 4, 3))

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, call, fail)
    run.fails(source, "-o", run.out, *BICUBIC, words=os.strerror(number))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp"])
def test_full_disk(run: Run, suffix: str) -> None:
    """A limit on the size of files: the write itself breaks off half-way, as it does when the disk is full."""
    source = save(run.folder / "a.png", noise(64, 64, 3))
    old = run.folder / f"b.{suffix}"
    old.write_bytes(b"the file of last time")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        run.fails(source, "-o", old, *BICUBIC, words="cannot write")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert old.read_bytes() == b"the file of last time"


def test_really_full_disk(run: Run) -> None:
    """A disk of 16 kB, in a mount namespace of its own, so that nothing stays mounted whatever happens."""
    run.out.mkdir()
    source = save16(run.folder / "a.png", noise(64, 64, 3, dtype=np.uint16))
    mount = f"mount -t tmpfs -o size=16k tmpfs {shlex.quote(str(run.out))} || exit 77"
    command = shlex.join([sys.executable, "-m", "lightsr", "upscale", str(source), "-o", str(run.out), *BICUBIC])
    listing = f"; code=$?; ls -A {shlex.quote(str(run.out))}; exit $code"
    if not shutil.which("unshare"):
        pytest.skip("no unshare here")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"{mount}; {command} {listing}"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(lightsr.__file__).parents[1])},
    )
    if done.returncode == 77 or "unshare:" in done.stderr:
        pytest.skip("no file system can be mounted here")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "No space left" in done.stderr


def test_changing_or_vanishing_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save16(run.folder / "a.png", noise(8, 8, 3, dtype=np.uint16))

    def late(*_: object) -> None:
        source.unlink()

    monkeypatch.setattr("lightsr.upscale._check_room", late)
    code, out, err = run(source, "-o", run.out, *BICUBIC)
    assert (code, out, len(err)) == (1, [], 1)
    assert "no such file" in err[0]
