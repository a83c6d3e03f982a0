"""The Triton kernels compile for sm_80 and sm_90 without a GPU, spill nothing and ask for no local memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parents[1]
DEPTHWISE = {"convolve", "partial_sums", "add_parts"}  # add_parts is a kernel of the attention too
ATTENTION = {"part_moments", "merge_moments", "part_affine_sums", "channel_pool", "spatial_gate", "gated_affine"}
ATTENTION |= {"gate_gradient", "affine_gradient"}


def compiled(which: str, cache: Path) -> list[dict[str, Any]]:
    """What `triton_targets.py` finds in a round, in a process that does not interpret Triton."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "ignore", str(ROOT / "tests" / "triton_targets.py"), which]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_tile_compiles_for_both_targets(tmp_path: Path) -> None:
    found = compiled("every", tmp_path)
    assert {each["capability"] for each in found} == {80, 90}
    assert {each["kernel"] for each in found} == DEPTHWISE | ATTENTION | {"pointwise", "mix"}
    assert not [
        each for each in found if each["local"] or each["shared"] > 99 * 1024
    ]  # the least of any GPU from sm_80
    depthwise = [each for each in found if each["name"].startswith("depthwise")]
    assert not [each for each in depthwise if each["spills"] or each["conversions"]]


def test_chosen_tiles_spill_nothing(tmp_path: Path) -> None:
    found = compiled("chosen", tmp_path)
    assert len(found) >= 40
    assert not [each for each in found if each["spills"] or each["local"]]


def test_variants_compile(tmp_path: Path) -> None:
    found = compiled("variants", tmp_path)
    assert {each["kernel"] for each in found} == DEPTHWISE | ATTENTION | {"mix", "factors"}
    assert not [each for each in found if each["spills"] or each["local"]]


def test_the_distillation_ops_compile_for_both_targets(tmp_path: Path) -> None:
    found = compiled("distillation", tmp_path)
    assert {each["capability"] for each in found} == {80, 90}
    assert {each["kernel"] for each in found} == {"distil", "of_distilled", "of_rest", "fuse", "of_parts", "add_parts"}
    assert not [each for each in found if each["local"] or each["shared"] > 99 * 1024]
    assert max(each["spills"] for each in found) <= 256
