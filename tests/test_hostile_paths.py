"""Names that mean harm and disks that fail: one clear line, exit code 1, nothing half-written."""

from __future__ import annotations

import errno
import os
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import BICUBIC, Maker, Run, no_hang
from test_images import noise, save, save16

import lightsr
from lightsr.errors import InputError
from lightsr.files import replacing
from lightsr.images import Picture, read_picture, write_picture


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    with no_hang():
        yield Run(tmp_path, capfd)


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


@pytest.mark.parametrize("make", [make_pipe, lambda path: make_link(path, "/dev/null")], ids=["pipe", "device"])
def test_a_pipe_or_device_in_the_place_of_the_output(run: Run, make: Maker) -> None:
    source = save(run.folder / "good.png", noise(4, 4, 3))
    run.out.mkdir()
    path = make(run.out / "good_bicubicx2.png")
    run.fails(source, "-o", run.out, *BICUBIC, words="is no regular file")
    assert path.exists()
    assert not path.is_file()


def test_replacing_keeps_links_and_modes(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    real, link, new = tmp_path / "below" / "real.dat", tmp_path / "link.png", tmp_path / "new.png"
    real.write_bytes(b"old")
    real.chmod(0o440)
    link.symlink_to("below/real.dat")
    new.symlink_to("below/new.png")  # leads to no file yet
    for each in (link, new):
        write_picture(each, Picture(torch.rand(3, 4, 4)))
        assert each.is_symlink()
        assert read_picture(each).size == (4, 4)
    assert real.stat().st_mode & 0o777 == 0o440
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["below", "link.png", "new.png", "new.png", "real.dat"]


def test_replacing_refuses_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "device").symlink_to("/dev/null")
    for name in ("pipe", "folder", "link", "device"):
        with pytest.raises(InputError, match="is no regular file; give another path"), replacing(tmp_path / name):
            pytest.fail("came in")
    for path in (tmp_path / "loop", tmp_path / "a\0b"):
        with pytest.raises(InputError, match="cannot write"), replacing(path):
            pytest.fail("came in")
    assert (tmp_path / "pipe").is_fifo()
    assert len(list(tmp_path.iterdir())) == 5


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
