"""Files from strangers, opened with care, and files that are either the old one or the whole new one."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import InputError


def check_file(path: Path) -> None:
    """Raises an InputError unless `path` is a regular file: a pipe would block for ever, a device never end."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        dangling = path.is_symlink()
        raise InputError(f"{path}: {'is a link to a file that is not there' if dangling else 'no such file'}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{path}: cannot be opened: {reason(error)}") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise InputError(f"{path}: is {kind}; a file is needed")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Opens a regular file to read; an InputError in one line when that cannot be done."""
    check_file(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {reason(error)}") from error
    with file:
        yield file


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path` to write to, then puts it in place of `path` in one step.

    The file is flushed to disk before it gets its name. On any error, and on Ctrl-C (by the command line on SIGTERM
    too), the temporary file is removed and `path` is as it was. A link stays one: the file that it leads to is
    replaced. An existing file's mode is kept.

    Raises InputError in one line when `path` is a folder, pipe or device, and for any OSError (no space, no rights).
    """
    target, exists = _target(path)
    # The real suffix stays last, because image writers choose the format by it. 40 characters are 160 bytes at most.
    temporary = target.with_name(f".{path.stem[:40]}.tmp-{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            if exists:
                with suppress(OSError):  # file systems without modes
                    shutil.copymode(target, temporary)
            os.fsync(file.fileno())
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise InputError(f"cannot write {path}: {reason(error)}") from error
    finally:
        # In a read-only folder even removing what is not there is an error; the first one is the one to be told.
        with suppress(OSError, ValueError):
            temporary.unlink()


def reason(error: BaseException) -> str:
    """What an exception says, in one short line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = text.strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _target(path: Path) -> tuple[Path, bool]:
    """The file that a path leads to, and whether there is one; renaming onto a device would destroy it."""
    try:
        # Asked of the path as given, since what /dev/stdout leads to need not have a name.
        mode: int | None = path.stat().st_mode
    except FileNotFoundError:
        mode = None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"cannot write {path}: {reason(error)}") from error
    if mode is not None and not stat.S_ISREG(mode):
        raise InputError(f"cannot write {path}: is no regular file; give another path")
    try:
        return path.resolve(), mode is not None
    except (OSError, RuntimeError) as error:
        raise InputError(f"cannot write {path}: {reason(error)}") from error


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself survive a power cut, where the system can (Windows cannot open a folder)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
