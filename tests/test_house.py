"""What holds for the project as a whole: sizes of files, documents that match the code, the example picture."""

from __future__ import annotations

import re
import shlex
import statistics
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lightsr
import lightsr_kernels
from lightsr.arguments import parser
from lightsr_kernels.functional import empty_result

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for name in ("lightsr", "lightsr_kernels") for path in (ROOT / name).rglob("*.py"))
NATIVE = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".cpp", ".cu", ".cuh", ".h")]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "csrc" / "README.md"]
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def code_blocks(page: Path, language: str) -> Iterator[str]:
    for block in re.finditer(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        yield block[1]


def test_files_stay_small() -> None:
    sizes = sorted(len(lines(path)) for path in SOURCES + NATIVE)
    assert statistics.median(sizes) <= 120
    assert sizes[int(0.9 * (len(sizes) - 1))] <= 300
    assert sizes[-1] <= 500


def test_todos_carry_an_issue() -> None:
    words = "TO" + "DO|FIX" + "ME|XX" + "X"  # in pieces, so that this line is none
    files = [*SOURCES, *NATIVE, *(ROOT / "tests").glob("*.py"), *(ROOT / "examples").glob("*.py")]
    found = [
        f"{path}: {line}" for path in files for line in lines(path) if re.search(rf"\b({words})\b(?!\(#\d+\))", line)
    ]
    assert not found


def test_the_version_stands_in_one_place() -> None:
    version = lightsr_kernels.__version__
    assert lightsr.__version__ == version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "lightsr_kernels.__version__"}
    written = [path for path in SOURCES if any(re.match(r"__version__\s*=", line) for line in lines(path))]
    assert written == [ROOT / "lightsr_kernels" / "__init__.py"]


def test_the_changelog_has_this_version() -> None:
    releases = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert releases[0] == lightsr_kernels.__version__
    sections = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]
    assert all("### Numerics" in section for section in sections)


def test_environment_variables_are_documented() -> None:
    read = {name for path in SOURCES for name in re.findall(r"(?<!-D)\bLIGHTSR_[A-Z]\w*", path.read_text())}
    read |= {name for path in NATIVE for name in re.findall(r"getenv\(\"(LIGHTSR_\w+)", path.read_text())}
    page = (ROOT / "docs" / "environment.md").read_text()
    assert set(re.findall(r"^\| `(LIGHTSR_\w+)`", page, re.MULTILINE)) == read


@EACH_PAGE
def test_relative_links_resolve(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    relative = [link for link in links if not re.match(r"[a-z]+:|#", link)]
    assert not [link for link in relative if not (page.parent / link.partition("#")[0]).exists()]


@EACH_PAGE
def test_commands_in_documents_parse(page: Path) -> None:
    verbs = dict.fromkeys(("upscale", "evaluate", "info", "doctor", "export", "fold", "train"), lambda args: 0)
    for block in code_blocks(page, "(?:sh|console)"):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.split(r"[|;&]", line.removeprefix("$ "))[0]
            if not command.startswith("lightsr "):
                continue
            try:
                parser(verbs).parse_args(shlex.split(command, comments=True)[1:])
            except SystemExit as stop:
                assert stop.code == 0, f"{page.name}: {line}"


def test_the_readme_reaches_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md") if path.name != "index.md"]
    assert not [str(path) for path in pages if f"({path.as_posix()})" not in index]
    assert "(docs/index.md)" in (ROOT / "README.md").read_text()


def test_python_in_the_readme_runs(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "HASN.pth").symlink_to(shared / "weights" / "HASN" / "HASN.pth")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    blocks = list(code_blocks(ROOT / "README.md", "python"))
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_the_example_picture_is_what_its_script_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    from make_picture import render

    drawn = np.asarray(render(), dtype=int)
    kept = np.asarray(Image.open(ROOT / "examples" / "picture.png"), dtype=int)
    sys.modules.pop("make_picture")
    assert kept.shape == (160, 240, 3)
    # Other versions of Pillow and FreeType may place an edge a little differently.
    assert np.abs(drawn - kept).mean() < 0.5


def test_uninitialised_memory_is_poisoned() -> None:
    assert empty_result(torch.zeros(1, 2, 3, 3), 4).isnan().all()
    assert torch.empty(2).shape == (2,)
