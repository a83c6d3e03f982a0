"""The Triton kernels of the ops on windows and layer norms compile for sm_90 without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("triton")
from test_triton_targets import compiled

OWN = {"score", "attend", "project", "of_norm", "sum_products", "gate", "gate_gradient", "convolve", "leave"}
OWN |= {"pictures", "sums", "unpool", "sum_gated", "map_gradient", "pixel_gradient"}


def test_they_spill_nothing_and_ask_for_no_local_memory(tmp_path: Path) -> None:
    found = compiled("windows", tmp_path)
    assert {each["kernel"] for each in found} == OWN
    assert not [each for each in found if each["spills"] or each["local"] or each["shared"] > 99 * 1024]
