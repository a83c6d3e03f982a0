"""The cache of compiled kernels: folders only this user can write, each published whole or not at all.

A build happens in a folder of its own beside the place where its result belongs, under a lock of the operating system,
which goes when its holder dies. The result is written to disk, described by a record (size and hash of each file), and
renamed into place. So whatever stands in place is whole; whatever else lies there, when the lock is ours, was left by a
builder that was killed, and is removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

RECORD = "record.json"
PATIENCE = 1200.0  # seconds to wait for another process that builds the same; a build itself is ended sooner


class BuildError(RuntimeError):
    """A compiled part cannot be had here; the message is one line and says why and what to do."""


def cache_folder() -> Path:
    """LIGHTSR_CACHE, or `lightsr` in the system's cache folder of this user. It need not exist."""
    named = os.environ.get("LIGHTSR_CACHE")
    try:
        if named:
            return Path(named).expanduser()
        if sys.platform == "darwin":
            return Path.home() / "Library/Caches/lightsr"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightsr"
    except RuntimeError:  # no home folder, or ~somebody who is not a user here
        return Path(named or "/nonexistent/lightsr")


def kernels_folder() -> Path:
    """The folder that compiled parts are in, made where it is missing; BuildError if it is not safe."""
    return private_folder(private_folder(cache_folder()) / "kernels")


def private_folder(path: Path) -> Path:
    """The real path of a folder that this user alone can write; makes it, mode 0700, where it is missing."""
    advice = "set LIGHTSR_CACHE to a folder of your own"
    try:
        for each in (path, *path.parents):
            if each.is_symlink() and not _trusted(each.lstat()):
                raise BuildError(f"the cache folder {path} goes through {each}, a link of another user; {advice}")
        path = path.resolve()
        for each in (*reversed(path.parents), path):
            if not each.is_dir():
                each.mkdir(mode=0o700, exist_ok=True)
        for each in path.parents:
            mode = each.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                raise BuildError(f"the cache folder {path} lies in {each}, which everybody can change; {advice}")
        status = path.stat()
    except (OSError, RuntimeError) as error:
        if isinstance(error, BuildError):
            raise
        raise BuildError(f"the cache folder {path} cannot be made ({reason(error)}); {advice}") from error
    if status.st_uid != os.geteuid():
        raise BuildError(f"the cache folder {path} belongs to another user; {advice}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BuildError(f"the cache folder {path} can be written by other users; run chmod go-w on it, or {advice}")
    return path


def fetch(place: Path, build: Callable[[Path], dict[str, Any]]) -> Path:
    """The folder `place` of the cache, built by `build(temporary folder) -> facts` where it is not there whole.

    Any number of processes may ask at once: one builds, the others wait and take what it made.
    """
    folder, name = place.parent, place.name
    if whole(place):
        return place
    log, before = log_of(place), _stamp(log_of(place))
    with _lock(folder / f"{name}.lock"):
        if whole(place):
            return place
        if _stamp(log) not in (None, before):  # another failed while this one waited, and so would this one
            raise BuildError(log.read_text(errors="replace").partition("\n")[0])
        try:
            _remove_leftovers(folder, name)
            work = Path(tempfile.mkdtemp(prefix=f"{name}.building-", dir=folder))  # mode 0700
        except OSError as error:
            raise BuildError(f"the cache folder {folder} cannot be written ({reason(error)})") from error
        try:
            facts = build(work)
            _publish(work, place, facts)
        except OSError as error:
            raise BuildError(f"building in {folder} failed ({reason(error)})") from error
        finally:
            _remove_leftovers(folder, name)  # its own; and a killed builder's compilers may have written on
        with suppress(OSError):
            log.unlink()  # of an earlier build that failed
    return place


def log_of(place: Path) -> Path:
    """Where the log of a failed build is kept."""
    return place.with_name(f"{place.name}.log")


def whole(place: Path, ours: bool = True) -> bool:
    """Whether a published folder is our own (where that is asked) and holds what its record says, to the byte."""
    try:
        status = place.lstat()
        if not stat.S_ISDIR(status.st_mode) or (ours and not _trusted(status)):
            return False
        files = record(place)["files"]
        return bool(files) and all(_measure(place / name) == measure for name, measure in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def record(place: Path) -> dict[str, Any]:
    """The record of a published folder: what was built, with which tools and flags, and the files' sizes and hashes."""
    facts: dict[str, Any] = json.loads((place / RECORD).read_text(encoding="utf-8"))
    return facts


def write_record(folder: Path, facts: dict[str, Any]) -> None:
    """Describes the files of a folder in its record."""
    files = {path.name: _measure(path) for path in sorted(folder.iterdir()) if path.name != RECORD and path.is_file()}
    (folder / RECORD).write_text(json.dumps({**facts, "files": files}, indent=2) + "\n", encoding="utf-8")


def reason(error: BaseException) -> str:
    """An error of the operating system in few words."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]


def _trusted(status: os.stat_result) -> bool:
    return status.st_uid in (0, os.geteuid())


def _measure(path: Path) -> list[Any]:
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    try:
        from filelock import FileLock, Timeout
    except ImportError as error:
        raise BuildError("the package filelock is missing; run pip install filelock") from error
    lock = FileLock(path, mode=0o600)
    try:
        lock.acquire(timeout=PATIENCE, poll_interval=0.05)
    except Timeout as error:
        raise BuildError(
            f"another process has held {path} for {PATIENCE:.0f} s; end it, or set LIGHTSR_CACHE"
        ) from error
    except (OSError, NotImplementedError) as error:
        raise BuildError(f"the cache folder {path.parent} cannot be written ({reason(error)})") from error
    try:
        yield
    finally:
        lock.release()


def _stamp(path: Path) -> tuple[int, int] | None:
    """Changes whenever the file does; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _remove_leftovers(folder: Path, name: str, keep: Path | None = None) -> None:
    for each in folder.glob(f"{name}.building-*"):
        if each != keep:
            shutil.rmtree(each, ignore_errors=True)


def _publish(work: Path, place: Path, facts: dict[str, Any]) -> None:
    write_record(work, facts)
    for path in (*work.iterdir(), work):
        _to_disk(path)
    if place.exists() or place.is_symlink():  # damaged: first out of the way, because a full folder is not replaced
        place.rename(Path(tempfile.mkdtemp(prefix=f"{place.name}.building-", dir=place.parent)) / "damaged")
        _remove_leftovers(place.parent, place.name, keep=work)
    work.rename(place)
    _to_disk(place.parent)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
