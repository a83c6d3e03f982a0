"""What the tests of hostile files share: a command line whose every outcome is checked, and good files to spoil."""

from __future__ import annotations

import io
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_images import noise

from lightsr.cli import main

Maker = Callable[[Path], Path]
GOOD = ("png", "jpg", "tif", "webp")


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


@contextmanager
def no_hang() -> Iterator[None]:
    """Ends a test that hangs; loaded machines get some more than the 5 seconds promised."""

    def stop(*_: object) -> None:
        raise AssertionError("hung for 30 seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
