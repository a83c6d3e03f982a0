"""What every test gets: fixed seeds, poisoned memory, and the folder of real data where there is one."""

from __future__ import annotations

import filecmp
import os
import random
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("lightsr", "lightsr_kernels")

# Without a GPU Triton's kernels are run by its interpreter, which must be known before they are imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# One thread: pictures this small lose more by waiting for each other, and `pytest -n auto` fills the cores.
torch.set_num_threads(1)


def installed_in() -> Path:
    """The folder that `import lightsr` takes both packages from."""
    origins = [spec.origin for name in PACKAGES if (spec := find_spec(name)) is not None and spec.origin]
    if len(origins) < len(PACKAGES):
        raise pytest.UsageError(
            "lightsr is not installed: run `pip install .`, or `python -m pytest` from the checkout"
        )
    folders = {Path(origin).resolve().parents[1] for origin in origins}
    if len(folders) > 1:
        raise pytest.UsageError(f"lightsr and lightsr_kernels come from different places: {sorted(map(str, folders))}")
    return folders.pop()


def pytest_configure() -> None:
    """Refuses to test an installed copy that is older than the checkout these tests belong to."""
    folder = installed_in()
    if folder == ROOT:
        return
    for name in PACKAGES:
        for file in (ROOT / name).rglob("*.py"):
            copy = folder / file.relative_to(ROOT)
            if not copy.exists() or not filecmp.cmp(file, copy, shallow=False):
                raise pytest.UsageError(
                    f"{copy} is not the checkout's: run `pip install .` again, or `python -m pytest` from the checkout"
                )


def pytest_report_header() -> str:
    return f"lightsr from {installed_in()}, torch {torch.__version__}"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real pictures and weights: $LIGHTSR_SHARED, else shared/data beside the checkout."""
    folder = Path(os.environ.get("LIGHTSR_SHARED", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


@pytest.fixture(autouse=True)
def seeds() -> None:
    random.seed(0)
    torch.manual_seed(0)


def poisoned(real: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`real`, but what our packages get from it is full of NaN, so that reading it before writing shows."""

    def allocate(*args: object, **kwargs: object) -> torch.Tensor:
        out = real(*args, **kwargs)
        if torch.compiler.is_compiling() or type(out) is not torch.Tensor or not out.is_floating_point():
            return out
        caller = sys._getframe(1).f_globals.get("__name__", "")
        return out.fill_(float("nan")) if caller.partition(".")[0] in PACKAGES else out

    return allocate


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in (
        (torch, "empty"),
        (torch, "empty_like"),
        (torch, "empty_strided"),
        (torch.Tensor, "new_empty"),
    ):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))

    from lightsr_kernels.memory import Pool

    def lease(pool: Pool, size: int) -> Any:
        found = real(pool, size)
        found.fill(255)  # NaN of every floating-point type
        return found

    real = Pool.lease
    monkeypatch.setattr(Pool, "lease", lease)
