"""The cache folder: code is loaded from it, so nobody else may be able to write there."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from build_helpers import NEEDS_COMPILER, answer, small_csrc

from lightsr_kernels import build, cache
from lightsr_kernels.build import BuildError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="owners and modes of Unix")
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
NOT_ROOT = pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("LIGHTSR_JIT", raising=False)
    monkeypatch.setenv("LIGHTSR_CACHE", str(tmp_path / "deep" / "cache"))
    return tmp_path / "deep" / "cache"


def refused(words: str) -> None:
    with pytest.raises(BuildError, match=words) as caught:
        cache.kernels_folder()
    assert "\n" not in str(caught.value) and "LIGHTSR_CACHE" in str(caught.value)


def test_made_for_its_owner_alone(folder: Path) -> None:
    before = os.umask(0)
    try:
        found = cache.kernels_folder()
    finally:
        os.umask(before)
    assert found == folder / "kernels"
    assert [stat.S_IMODE(each.stat().st_mode) for each in (folder, found)] == [0o700, 0o700]


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702, 0o1777])
@pytest.mark.parametrize("which", [".", "kernels"])
def test_others_can_write(folder: Path, mode: int, which: str) -> None:
    cache.kernels_folder()
    (folder / which).chmod(mode)
    refused("can be written by other users; run chmod go-w")


def test_a_folder_that_others_can_only_read(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o755)
    assert cache.kernels_folder() == folder / "kernels"


def test_it_lies_where_everybody_can_change_it(folder: Path) -> None:
    cache.kernels_folder()
    folder.parent.chmod(0o777)
    refused("lies in .*deep, which everybody can change")
    folder.parent.chmod(0o1777)  # as /tmp: nobody can move away what is another's
    assert cache.kernels_folder()


@AS_ROOT
def test_it_belongs_to_another(folder: Path) -> None:
    cache.kernels_folder()
    os.chown(folder / "kernels", 12345, 12345)
    refused("belongs to another user")
    os.chown(folder, 12345, 12345)
    refused("belongs to another user")


@AS_ROOT
def test_a_published_folder_of_another_is_not_loaded(folder: Path, tmp_path: Path) -> None:
    place = cache.kernels_folder() / "cpu-1"
    place.mkdir()
    (place / "cpu.so").write_text("evil")
    cache.write_record(place, {"library": "cpu.so"})
    assert cache.whole(place)
    os.chown(place, 12345, 12345)
    assert not cache.whole(place)


def test_a_published_folder_that_is_a_link_is_not_loaded(folder: Path, tmp_path: Path) -> None:
    place = cache.kernels_folder() / "cpu-1"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "cpu.so").write_text("evil")
    cache.write_record(tmp_path / "elsewhere", {"library": "cpu.so"})
    place.symlink_to(tmp_path / "elsewhere")
    assert not cache.whole(place)


@AS_ROOT
def test_a_link_of_another_user(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    folder.parent.mkdir()
    folder.symlink_to(tmp_path / "real")
    assert cache.kernels_folder() == tmp_path / "real" / "kernels"  # a link of one's own leads where it leads
    os.chown(folder, 12345, 12345, follow_symlinks=False)
    refused("goes through .*cache, a link of another user")


def test_a_file_in_its_place(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("")
    refused("cannot be made")


def test_links_in_a_circle(folder: Path) -> None:
    folder.parent.mkdir()
    folder.symlink_to(folder)
    refused("cannot be made")


@NOT_ROOT
def test_a_read_only_home(folder: Path) -> None:
    folder.parent.mkdir()
    folder.parent.chmod(0o500)
    refused("cannot be made .Permission denied")


@NEEDS_COMPILER
def test_a_cache_that_became_read_only_still_serves(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    csrc = small_csrc(tmp_path / "csrc")
    assert answer(csrc) == 42

    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache, "_lock", denied)
    assert answer(csrc) == 42


@AS_ROOT
@NEEDS_COMPILER
def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,mode=700", "none", disk], check=False)
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        monkeypatch.setenv("LIGHTSR_CACHE", str(disk))
        csrc = small_csrc(tmp_path / "csrc")
        with pytest.raises(BuildError, match="No space left on device") as caught:
            build.built("cpu", "op", csrc)
        assert "\n" not in str(caught.value)
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        assert answer(csrc) == 42
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
