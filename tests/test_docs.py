"""docs/ops.md is what the ops say today, and `--check` notices when it is not."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lightsr_kernels

ROOT = Path(__file__).resolve().parents[1]


def test_ops_page_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "docs" / "build_ops.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_stale_or_missing_page_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "docs"), *sys.path])
    build_ops = importlib.import_module("build_ops")
    copy = tmp_path / "ops.md"
    monkeypatch.setattr(build_ops, "PAGE", copy)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["build_ops.py", *arguments])
        return int(build_ops.main())

    assert run("--check") == 1
    assert capsys.readouterr().err == "ops.md is not what the ops say: run `python docs/build_ops.py`\n"
    assert not copy.exists()
    assert run() == 0
    assert run("--check") == 0
    copy.write_text(copy.read_text(encoding="utf-8").replace("picture", "image", 1), encoding="utf-8")
    assert run("--check") == 1


def test_ops_page_has_every_op_and_its_contents_first() -> None:
    text = (ROOT / "docs" / "ops.md").read_text(encoding="utf-8")
    contents, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    names = sorted(lightsr_kernels.SPECS)
    assert re.findall(r"^- \[`(\w+)`\]\(#\1\): \w", contents, re.MULTILINE) == names
    assert [section.partition("\n")[0] for section in sections] == names
    for name, section in zip(names, sections, strict=True):
        spec = lightsr_kernels.SPECS[name]
        assert f"`lightsr::{name}{spec.schema}`" in section
        assert f"def {name}(" in section
        assert "**Source**: " in section
        for backend in spec.backends:
            assert f"`{backend}`" in section.partition("**Backends in this version**: ")[2]
        rows = re.findall(r"^\| \d\S+ \| ([\d.]+) \| ([\d.]+) \|$", section, re.MULTILINE)
        assert rows
        assert all(float(value) > 0 for row in rows for value in row), name
