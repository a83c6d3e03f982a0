"""The bench of fused ops: everyone computes the same, or says why not; and what a run writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import lightsr_kernels

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # at the end: bench comes from the checkout, the packages from where they are installed

from bench import comparison, report  # noqa: E402
from bench.case import DTYPES, TOLERANCE  # noqa: E402
from bench.comparison import Comparison, Row  # noqa: E402
from bench.contender import NotHereError  # noqa: E402
from bench.op_case import WAYS, OpCase, sample_names  # noqa: E402
from bench.op_rivals import RIVALS  # noqa: E402
from bench.traffic import moved  # noqa: E402
from lightsr_kernels.spec import SPECS  # noqa: E402

OPS = ("distillation_fusion", "instance_norm_attention")  # one that takes lists, one that rivals write differently


def small(op: str, way: str, dtype: str) -> OpCase:
    return OpCase(op, next(name for name in sample_names(SPECS[op]) if "x80" in name), way, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("op", OPS)
def test_everyone_computes_the_case_or_says_why_not(op: str, way: str, dtype: str) -> None:
    case = small(op, way, dtype)
    given = case.inputs("cpu")
    wanted, reasons = case.exact(given), {}
    assert all(each.dtype == torch.float64 for each in wanted)
    left_out = {"compiled nchw", "compiled channels_last"}  # which need a compiler, and time
    if (op, way) == ("instance_norm_attention", "training"):
        left_out.add("pytorch channels_last")  # torch 2.13's instance_norm has wrong gradients there
    contenders = [(name, prepare) for name, prepare in RIVALS if name not in left_out]
    for name, prepare in (*contenders, *(("ours", prepare) for prepare in case.ours("cpu"))):
        try:
            contender = prepare(case, given)
        except NotHereError as reason:
            reasons[name] = str(reason)
            continue
        lenient = 1 if name == "ours" else comparison.LENIENT
        for _ in range(2):  # results of an earlier call may be written over, but not read
            result = contender.result(contender.run())
            assert case.error(result, wanted) <= lenient * TOLERANCE[DTYPES[dtype]], contender.name
    engines = {name.split()[0] for name in reasons}
    assert engines <= {"onnxruntime", "openvino"} and (way == "forward" or len(engines) == 2)


@pytest.mark.parametrize("layout", [0, 1], ids=["nchw", "channels_last"])
@pytest.mark.parametrize(
    ("op", "least", "most"),
    [("split_distillation", 1, 1.2), ("distillation_fusion", 1, 1.2), ("instance_norm_attention", 2, 2.5)],
)
def test_what_kernels_move(op: str, least: float, most: float, layout: int) -> None:
    """As often as they go through it: all once, or what is normalised three times and the result once."""
    for way in WAYS:
        case = small(op, way, "float32")
        contender = case.ours("cpu")[layout](case, case.inputs("cpu"))
        _, found = moved(contender.run)
        assert found is not None
        if way == "forward":
            assert least * 0.99 <= found / case.bytes <= most
            forward = found
    assert found > 2 * forward
    assert moved(lambda: torch.zeros(3))[1] is None
    x = torch.zeros(1, 4, 5, 5)
    assert moved(lambda: lightsr_kernels.dense_conv(x, torch.zeros(4, 4, 3, 3)))[1] is None  # not known to traffic.py


def test_gradients_come_behind_the_results() -> None:
    case = small("distillation_fusion", "training", "float32")
    given = case.inputs("cpu")
    gradients = sum(each.numel() for part in given.args[0] for each in (part,))
    found = case.exact(given)
    assert found[0].shape == given.grads[0].shape
    assert sum(each.numel() for each in found[1 : 1 + len(given.args[0])]) == gradients
    assert (case.flops, case.bytes) == (0, 0)


def test_a_run_is_saved_with_its_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = [
        Comparison(
            small(OPS[0], way, "float32"),
            chosen="cpu",
            peak=100e9,
            copy=10e9,
            ours=[Row("lightsr cpu nchw", seconds=1e-3, rounds=3, error=0.0)],
            rivals=[Row("pytorch nchw", seconds=3e-3, rounds=3, error=0.0), Row("openvino nchw", reason="absent")],
        )
        for way in WAYS
    ]
    folder = report.save(found, "fused", tmp_path)
    assert sorted(file.name for file in folder.iterdir()) == ["fused.json", "fused.png"]
    content = json.loads((folder / "fused.json").read_text())
    assert content["summary"]["mean"] == pytest.approx(3.0)
    forward, training = (each["ours"][0] for each in content["comparisons"])
    assert forward["of copy bandwidth"] > 0 and "of copy bandwidth" not in training
    assert "3.00" in "\n".join(report.table(found))
