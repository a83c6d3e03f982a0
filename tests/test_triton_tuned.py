"""The tables of measured tiles: the file's name, what a call goes by, and that a tile in it is taken."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from bench.gpu_report.tuning import calls, named
from lightsr_kernels.depthwise_conv import triton_configs
from lightsr_kernels.depthwise_conv.triton_configs import CONFIGS, WEIGHT_CONFIGS, Config, name_of, table_of


class OnCuda(torch.Tensor):
    """A picture that says it is on a GPU; nothing is computed with it."""

    is_cuda = True  # type: ignore[assignment]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H200 (test)")
    monkeypatch.setattr(triton_configs, "table_of", lambda device: table_of(device, tmp_path))
    triton_configs._table.cache_clear()
    yield table_of("NVIDIA H200 (test)", tmp_path)
    triton_configs._table.cache_clear()


def test_the_report_names_calls_as_the_kernels_do() -> None:
    for call in calls(dry=False):
        (side, dilation), dtype, layout, shape = call
        x = torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
        x = x.contiguous(memory_format=getattr(torch, layout + "_format" * (layout == "contiguous")))
        assert named(call) == name_of(x, (side, side), [dilation, dilation])


def test_a_tile_of_the_table_is_taken_where_the_rule_takes_another(table: Path) -> None:
    assert table.name == "nvidia-h200-test.json"
    x = torch.empty(1, 64, 180, 320).as_subclass(OnCuda)
    forward, weight = (triton_configs.choose(x, (7, 7), [1, 1]), triton_configs.choose_weight(x, (7, 7), [1, 1]))
    others = (
        next(each for each in CONFIGS[:7] if each != forward),
        next(each for each in WEIGHT_CONFIGS[:5] if each != weight),
    )
    tiles = {"forward": asdict(others[0]), "weight": asdict(others[1])}
    table.write_text(json.dumps({"device": "x", "tiles": {name_of(x, (7, 7), [1, 1]): tiles}}))
    triton_configs._table.cache_clear()
    assert triton_configs.choose(x, (7, 7), [1, 1]) == others[0]
    assert triton_configs.choose_weight(x, (7, 7), [1, 1]) == others[1]
    assert triton_configs.choose(x, (5, 5), [1, 1]) == triton_configs.choose(
        torch.empty(1, 64, 180, 320), (5, 5), [1, 1]
    )


def test_a_tile_of_another_version_is_left(table: Path) -> None:
    x = torch.empty(1, 64, 180, 320).as_subclass(OnCuda)
    rule = triton_configs.choose(x, (7, 7), [1, 1])
    old = asdict(Config(False, rows=3, columns=5, size=7, taps=1, warps=1))
    table.write_text(json.dumps({"device": "x", "tiles": {name_of(x, (7, 7), [1, 1]): {"forward": old}}}))
    triton_configs._table.cache_clear()
    assert triton_configs.choose(x, (7, 7), [1, 1]) == rule
