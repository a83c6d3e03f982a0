"""Small pictures and a small network that training tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
CONFIG = """
steps = 20
batch = 2
patch = 16
average = 0.9
[network]
name = "lmswn"
scale = 2
use_fused = false
options = { channels = 16, distilled = 4, blocks = 1 }
[report]
log_every = 5
validate_every = 10
save_every = 7
tensorboard = false
"""


def draw(folder: Path, number: int = 3, height: int = 54, width: int = 60, seed: int = 0) -> Path:
    """Pictures of noise over slopes, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for k in range(number):
        slope = np.add.outer(np.arange(height) * random.integers(-3, 4), np.arange(width) * random.integers(-3, 4))
        levels = np.clip(
            slope[..., None] + random.integers(0, 200, 3) + random.integers(0, 55, (height, width, 3)), 0, 255
        )
        Image.fromarray(levels.astype(np.uint8)).save(folder / f"p{k}.png")
    return folder


def config_file(tmp_path: Path, text: str = CONFIG) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(text)
    return path


def command(config: Path, output: Path, pictures: Path, *more: str) -> list[str]:
    settings = [f"data.train={pictures}", *more]
    return [
        *(sys.executable, "-m", "lightsr", "train", str(config), "-o", str(output)),
        *(word for each in settings for word in ("--set", each)),
    ]


def environment(**more: str) -> dict[str, str]:
    """Of a process that finds what this one finds, on one thread."""
    path = os.pathsep.join(each or "." for each in sys.path)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def run(words: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment(**options.pop("env", {})),
        **options,
    )


def checkpoint(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / "last.ckpt", weights_only=True)
    return content


def assert_same(a: Any, b: Any, path: str = "") -> None:
    """Equal to the bit, however deep."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}.{k}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path
