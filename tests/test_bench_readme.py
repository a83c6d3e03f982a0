"""The README's figures of single ops: which are shown, and what all of them amount to."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("pytest_benchmark")

from bench import readme, readme_ops

MACHINE = {
    "device": "A processor",
    "simd": "AVX2",
    "threads": 2,
    "versions": {"torch": "1", "onnxruntime": "2", "openvino": "3"},
}


def row(seconds: float, times: float | None) -> dict[str, Any]:
    return {"name": "lightsr cpu nchw", "seconds": seconds, "times the best rival": times}


def depthwise(k: int, direction: str, times: float | None) -> dict[str, Any]:
    case = {"shape": [1, 64, 180, 320], "k": k, "dilation": 1, "direction": direction, "dtype": "float32"}
    case["name"] = f"k{k}-{direction}"
    rivals = [{"name": "openvino nchw", "seconds": 0.002 * times}] if times else []
    ours = [row(0.002, times), {"name": "lightsr cpu nhwc", "seconds": None}]
    return {"case": case, "ours": ours, "rivals": rivals, "best rival": "openvino nchw" if times else None}


def fused(op: str, way: str, dtype: str, times: float) -> dict[str, Any]:
    case = {"op": op, "way": way, "dtype": dtype, "name": f"{op}-{way}"}
    return {"case": case, "ours": [row(0.001, times)], "rivals": []}


def test_depthwise_shows_some_cases_and_sums_all_up() -> None:
    cases = [depthwise(k, way, 4.0 if k == 7 else 1.0) for k in (7, 9) for way in readme_ops.DIRECTIONS]
    text = readme_ops.depthwise({"machine": MACHINE, "comparisons": [*cases, depthwise(11, "forward", None)]}, "a.json")
    assert (
        "| float32 | 7x7 |" in text and "| forward, lightsr | **2** |" in text and "| forward, best other | 8 |" in text
    )
    assert "6 cases: sides 7 to 9, dilations 1." in text and "2 forward, 2 gradient of the picture" in text
    assert "Slower in none." in text and "A processor, AVX2, 2 threads" in text


def test_fused_has_a_line_for_each_op() -> None:
    cases = [fused("a", "forward", "float32", 2.0), fused("a", "forward", "float32", 8.0)]
    cases.append(fused("b", "training", "bfloat16", 0.5))
    text = readme_ops.fused({"machine": MACHINE, "comparisons": cases}, "a.json")
    assert "| | float32 forward | bfloat16 training |" in text
    assert "| `a` | 4 | - |" in text and "| `b` | - | 0.5 |" in text
    assert "3 cases, 2 times in geometric mean. Slower in 1: b-training (0.50)." in text


def test_a_folder_without_figures_is_told(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=r"has none of networks.json, depthwise.json, fused.json"):
        readme.written("", tmp_path)
