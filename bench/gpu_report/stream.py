"""A pytest plug-in that writes each test's outcome down at once, as a line of JSON: a time limit loses none of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

VARIABLE = "GPU_REPORT_RECORD"  # names the file


def pytest_runtest_logreport(report: Any) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # the process that started it hears of everything too
        return
    if report.when != "call" and report.outcome == "passed":
        return
    line: dict[str, Any] = {"id": report.nodeid, "outcome": report.outcome, "seconds": report.duration}
    if report.outcome == "failed":
        told = [each for each in str(report.longrepr).splitlines() if each.startswith("E ")]
        line["why"] = (told or [str(report.longrepr)])[0][:300]
    with Path(os.environ[VARIABLE]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
