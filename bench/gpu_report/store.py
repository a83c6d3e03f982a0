"""The report's JSON: written anew after each finding, whole or not at all; what a section is given to work with."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE = "report.json"
PATIENCE = 0.5  # seconds between two writings


class Store:
    """The sections by name, each {"status", "seconds", "data"} and, where something is missing, "reason"."""

    def __init__(self, folder: Path, keep: bool = False) -> None:
        self.path = folder / FILE
        self.sections: dict[str, dict[str, Any]] = {}
        self._written = 0.0
        if keep and self.path.exists():
            self.sections = read(folder)["sections"]

    def done(self, name: str) -> bool:
        return self.sections.get(name, {}).get("status") == "done"

    def data(self, name: str) -> dict[str, Any]:
        """What a section has found so far; nothing where it has not run."""
        found: dict[str, Any] = self.sections.get(name, {}).get("data", {})
        return found

    def write(self, soon: bool = False) -> None:
        """Now, or, where a little later will do, if the last time is long enough ago."""
        now = time.monotonic()
        if soon and now - self._written < PATIENCE:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"sections": self.sections}, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.path)
        self._written = now


class UnusableError(ValueError):
    """A file that is no report: told in one line."""


def read(folder: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if all(isinstance(each, dict) and "status" in each for each in content["sections"].values()):
            return content
    except (ValueError, TypeError, KeyError, AttributeError):  # no JSON, or none of ours
        pass
    raise UnusableError(f"{folder / FILE} is cut short or no report; move it away, and run without --resume and --only")


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


@dataclass
class Context:
    """A section's device, deadline and findings."""

    name: str
    store: Store
    folder: Path
    device: str  # "cuda", or "cpu" in a dry run
    until: float  # by time.monotonic()
    data: dict[str, Any] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)  # what there was no time for

    @property
    def dry(self) -> bool:
        return self.device == "cpu"

    def left(self) -> float:
        """Seconds until this section should end."""
        return self.until - time.monotonic()

    def put(self, key: str, value: Any) -> None:
        """Keeps a finding, also of a section that is ended from outside."""
        self.data[key] = value
        self.store.sections[self.name] = {"status": "running", "data": self.data}
        self.store.write(soon=True)

    def has(self, key: str) -> bool:
        """Whether an earlier run, which this one goes on with, has found it already."""
        return key in self.data and "why_not" not in self.data[key]

    def reaches(self, what: str, seconds: float = 0.0) -> bool:
        """Whether there is time for something that takes about so long; notes it down where there is not."""
        if self.left() > seconds:
            return True
        self.missed.append(what)
        return False
