"""Where this user's files of ours are: the cache of built kernels, and trained weights."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGED = Path(__file__).parent / "weights"  # those that come with the package, with a manifest


def cache_folder() -> Path:
    """LIGHTSR_CACHE, or `lightsr` in the system's cache folder of this user. It need not exist."""
    named = os.environ.get("LIGHTSR_CACHE")
    return _expanded(named) if named else _user_folder("XDG_CACHE_HOME", ".cache", "Library/Caches") / "lightsr"


def weight_folders() -> list[Path]:
    """Where trained weights are looked for: LIGHTSR_WEIGHTS, the user's data folder, the package's own. Best first."""
    named = os.environ.get("LIGHTSR_WEIGHTS")
    folders = [_expanded(named)] if named else []
    data = _user_folder("XDG_DATA_HOME", ".local/share", "Library/Application Support")
    return [*folders, data / "lightsr" / "weights", PACKAGED]


def _expanded(named: str) -> Path:
    try:
        return Path(named).expanduser()
    except RuntimeError:  # ~somebody who is not a user here
        return Path(named)


def _user_folder(variable: str, linux: str, mac: str) -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local")
    if sys.platform == "darwin":
        return Path.home() / mac
    return Path(os.environ.get(variable) or Path.home() / linux)
