"""The bench against rivals: its exact result, its way of timing, its figures, and what it writes."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # at the end: bench comes from the checkout, the packages from where they are installed

from bench import comparison, peak, report  # noqa: E402
from bench.case import DIRECTIONS, DTYPES, LAYOUTS, TOLERANCE, Case, Inputs, error, exact, inputs  # noqa: E402
from bench.comparison import Comparison, Row, compare, summary  # noqa: E402
from bench.contender import Contender, NotHereError, need  # noqa: E402
from bench.memory import peak_of  # noqa: E402
from bench.ours import backends, ours  # noqa: E402
from bench.rivals import RIVALS  # noqa: E402
from bench.rounds import Rounds  # noqa: E402
from lightsr_kernels.depthwise_conv.reference import reference  # noqa: E402

SHAPE = (2, 3, 12, 10)


def by_reference(case: Case, given: Inputs) -> torch.Tensor:
    x, weight = given.x.double().requires_grad_(), given.weight.double().requires_grad_()
    out = reference(x, weight, None, [case.dilation] * 2, "none", 0.01, None, None)
    grads = torch.autograd.grad(out, (x, weight), given.grad.double())
    return (out.detach(), *grads)[DIRECTIONS.index(case.direction)]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("k", "dilation"), [(1, 1), (3, 1), (5, 3), (7, 2), (31, 1)])
def test_exact_is_the_reference_in_float64(direction: str, k: int, dilation: int) -> None:
    case = Case(SHAPE, k, dilation, direction, "float64")
    given = inputs(case)
    assert error(exact(case, given), by_reference(case, given)) < 1e-13


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_everyone_computes_the_case_or_says_why_not(direction: str, dtype: str) -> None:
    case = Case(SHAPE, 5, 1, direction, dtype)
    given = inputs(case)
    wanted, reasons = exact(case, given), {}
    for name, prepare in RIVALS:
        if name.startswith("compiled"):
            continue  # which needs a compiler, and time
        try:
            contender = prepare(case, given)
        except NotHereError as reason:
            reasons[name] = str(reason)
            continue
        for _ in range(2):  # results of an earlier call may be written over, but not read
            result = contender.result(contender.run())
            assert result.shape == wanted.shape
            assert error(result, wanted) <= comparison.LENIENT * TOLERANCE[DTYPES[dtype]], contender.name
    assert not any(name.startswith("pytorch") for name in reasons)
    if direction == "backward-weight":
        assert {name.split()[0] for name in reasons} == {"onnxruntime", "openvino"}
    for backend in backends("cpu"):
        for layout in LAYOUTS:
            contender = ours(case, given, layout, backend)
            assert error(contender.result(contender.run()), wanted) <= TOLERANCE[DTYPES[dtype]]


def test_a_package_that_is_missing_is_told() -> None:
    with pytest.raises(NotHereError, match=r"^not installed: pip install no_such_package$"):
        need("json", "no_such_package")


def test_inputs_are_laid_out_once_and_the_same_each_time() -> None:
    case = Case(SHAPE, 3, 1, "forward", "float32")
    one, two = inputs(case), inputs(case)
    assert torch.equal(one.x, two.x) and not torch.equal(one.x, one.grad)
    last = one.laid_out("channels_last")
    assert last is one.laid_out("channels_last")
    assert last.x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last.x, one.x)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that Rounds sees, which calls move on."""
    now = [0.0]
    monkeypatch.setattr("bench.rounds.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("bench.rounds.time.sleep", lambda seconds: None)
    return now


def lasting(clock: list[float], order: list[str], **seconds: float) -> dict[str, Any]:
    """Calls that take so long, by name, and tell `order` when they are made."""

    def call(name: str) -> None:
        order.append(name)
        clock[0] += seconds[name]

    return {name: partial(call, name) for name in seconds}


def test_rounds_call_everyone_in_turn_and_the_slow_ones_less(clock: list[float]) -> None:
    order: list[str] = []
    calls = lasting(clock, order, a=1.0, b=2.0, slow=50.0, tick=0.01)
    rounds = Rounds(calls, yardsticks=("tick",)).run(seconds=60.0, least=2)
    assert order[:4] == ["a", "b", "slow", "tick"]  # once to warm up
    assert order[4:8] == ["a", "b", "slow", "tick"]
    assert order[8:] == ["b", "tick", "a", "tick", "a", "b", "a", "b", "tick"]
    assert {name: len(times) for name, times in rounds.times.items()} == {"a": 4, "b": 4, "slow": 1, "tick": 4}
    assert rounds.medians() == pytest.approx({"a": 1.0, "b": 2.0, "slow": 50.0, "tick": 0.01})


def test_short_calls_are_made_for_a_moment_before_they_are_timed(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.rounds.WARM", 0.015)
    order: list[str] = []
    rounds = Rounds(lasting(clock, order, a=0.01, b=0.03, slow=1.0)).run(seconds=0.1, least=2)
    assert order == ["a", "b", "slow", *"aaa", *"bb", "slow", *"bb", *"aaa"]
    assert rounds.times == {"a": pytest.approx([0.01] * 2), "b": pytest.approx([0.03] * 2), "slow": [pytest.approx(1)]}


def test_a_call_may_tell_its_own_time() -> None:
    rounds = Rounds({"own": lambda: 7.0, "none": lambda: None}).run(seconds=0.0, least=3)
    assert rounds.times["own"] == [7.0]
    assert len(rounds.times["none"]) == 3 and rounds.medians()["none"] < 1.0


@pytest.mark.parametrize("with_compiler", [True, False])
def test_the_peak_is_measured_with_and_without_a_compiler(with_compiler: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_compiler:
        monkeypatch.setattr(peak, "compiled", lambda: None)
    elif peak.compiled() is None:
        pytest.skip("no compiler")
    before = comparison.cores()
    found = peak.multiply_adds.__wrapped__("cpu")
    seconds = Rounds({"peak": found.call}).run(seconds=0.0, least=1).medians()["peak"]
    assert 1e8 < found.operations / seconds < 1e14
    assert (found.call() is None) == (not with_compiler)
    assert comparison.cores() == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the resident set is read from /proc")
def test_memory_counts_what_was_there_at_the_peak() -> None:
    def work() -> float:
        return float(torch.ones(8 << 20).sum() + torch.ones(4 << 20).sum())  # 32 MB, given back; then 16 MB

    work()
    result, grown = peak_of(work, "cpu")
    assert result == 12 << 20
    if grown is None:
        pytest.skip("the mark cannot be reset here")
    assert 30e6 < grown < 44e6


def made(case: Case, mine: list[float], rivals: list[float]) -> Comparison:
    return Comparison(
        case,
        chosen="cpu",
        peak=100e9,
        copy=10e9,
        ours=[Row(f"lightsr cpu {i}", seconds=seconds, rounds=3, error=0.0) for i, seconds in enumerate(mine)],
        rivals=[Row(f"rival {i}", seconds=seconds, rounds=3, error=0.0) for i, seconds in enumerate(rivals)]
        + [Row("absent", reason="not installed")],
    )


CASE = Case((1, 10, 100, 100), 5, 1, "forward", "float32")


def test_figures() -> None:
    found = made(CASE, [1e-3, 4e-3], [2e-3, 5e-3])
    figures = found.figures(found.ours[0])
    assert figures["GFLOP/s"] == pytest.approx(2 * 1e5 * 25 / 1e-3 / 1e9)
    assert figures["of FMA peak"] == pytest.approx(0.05)
    assert figures["of copy bandwidth"] == pytest.approx((2 * 1e5 + 250) * 4 / 1e-3 / 10e9)
    assert [found.ratio(row) for row in found.ours] == pytest.approx([2.0, 0.5])
    assert found.best_rival is found.rivals[0]
    json.dumps(found.as_json())


def test_summary_takes_the_faster_of_ours_and_names_slower_cases() -> None:
    slow = Case((1, 10, 100, 100), 7, 1, "forward", "float32")
    alone = Case((1, 10, 100, 100), 9, 1, "forward", "float32")
    total = summary([made(CASE, [4e-3, 1e-3], [2e-3]), made(slow, [4e-3], [2e-3]), made(alone, [1e-3], [])])
    assert (total.cases, total.compared, total.slower) == (3, 2, [slow.name])
    assert total.mean == pytest.approx((2.0 * 0.5) ** 0.5)


def test_table_shows_slower_ones_and_missing_rivals() -> None:
    text = "\n".join(report.table([made(CASE, [4e-3], [2e-3])]))
    assert "0.50" in text and CASE.name in text and "4.000" in text
    closing = "\n".join(report.closing([made(CASE, [4e-3], [2e-3])]))
    assert f"1 cases slower than a rival\n  {CASE.name}" in closing
    assert "no number for absent: not installed (1 cases)" in closing


def fake(monkeypatch: pytest.MonkeyPatch, mine: float, others: dict[str, tuple[float, float]]) -> None:
    """Contenders of which each adds an error and takes a time."""

    def way(name: str, off: float) -> Any:
        def prepare(case: Case, given: Inputs) -> Contender:
            wanted = exact(case, given)
            return Contender(name, lambda: wanted + off * wanted.abs().max())

        prepare.__name__ = name
        return prepare

    monkeypatch.setattr(Case, "ours", lambda case, device: [way("ours", mine)])
    monkeypatch.setattr(Case, "rivals", lambda case: [(name, way(name, off)) for name, (off, _) in others.items()])
    expected = {name: seconds for name, (_, seconds) in others.items()}
    monkeypatch.setattr(comparison, "predict", lambda case, device, prepare: expected.get(prepare.__name__, 0.0))


def test_where_ours_is_wrong_there_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, 1e-3, {"other": (0.0, 0.0)})
    with pytest.raises(AssertionError, match=r"off by 0\.001 of the largest value, so there is no number"):
        compare(Case(SHAPE, 3, 1, "forward", "float32"), "cpu", 0.0, 1.0)


def test_a_rival_that_is_wrong_or_slow_is_told_and_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, 0.0, {"wrong": (0.1, 0.0), "slow": (0.0, 9.0), "right": (0.0, 0.0)})
    found = compare(Case(SHAPE, 3, 1, "forward", "float32"), "cpu", 0.0, 1.0)
    reasons = {row.name: row.reason for row in found.rivals}
    assert reasons["wrong"] == "its result is wrong"
    assert reasons["slow"].startswith("a call takes too long")
    closing = "\n".join(report.closing([found]))
    assert "on a part of the rows (1 cases, 9.0 to 9.0 s)" in closing
    assert "its result is wrong (1 cases, off by up to 0.1 of the largest value)" in closing
    assert found.best_rival is not None and found.best_rival.name == "right"


def test_where_all_rivals_are_slow_the_least_slow_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, 0.0, {"slower": (0.0, 9.0), "slow": (0.0, 5.0)})
    found = compare(Case(SHAPE, 3, 1, "forward", "float32"), "cpu", 0.0, 1.0)
    assert found.best_rival is not None and found.best_rival.name == "slow"
    assert found.rivals[1] is found.best_rival and not found.best_rival.reason


def test_a_run_is_saved_once_with_its_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = [made(CASE, [1e-3], [2e-3]), made(Case((1, 10, 100, 100), 7, 1, "forward", "float32"), [1e-3], [2e-3])]
    folder = report.save(found, "First try", tmp_path)
    assert folder.parent == tmp_path and folder.name.endswith("-first-try")
    assert sorted(file.name for file in folder.iterdir()) == ["depthwise-1x10x100x100-d1.png", "depthwise.json"]
    content = json.loads((folder / "depthwise.json").read_text())
    assert content["machine"]["device"] and content["summary"]["mean"] == pytest.approx(2.0)
    assert len(content["comparisons"]) == 2
    before = (folder / "depthwise.json").read_bytes()
    assert report.save(found, "First try", tmp_path) == folder.with_name(f"{folder.name}-2")
    assert report.save(found, "First try", tmp_path) == folder.with_name(f"{folder.name}-3")
    assert (folder / "depthwise.json").read_bytes() == before
