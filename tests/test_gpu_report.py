"""The GPU report: its arguments, what a time limit leaves, the page from recorded JSON, and all of it on the CPU."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # at the end: bench comes from the checkout, the packages from where they are installed

from bench.gpu_report import __main__ as command  # noqa: E402
from bench.gpu_report import ceilings, clock, facts, matrix, networks, ops, smallest, stream, tuning  # noqa: E402
from bench.gpu_report.render import render  # noqa: E402
from bench.gpu_report.store import Context, Store, read  # noqa: E402
from lightsr_kernels.cache import BuildError  # noqa: E402

SECTIONS = ["device", "build", "matrix", "sanitizer", "ceilings", "networks", "ops", "training", "tuning"]


@pytest.mark.parametrize(
    ("found", "off"), [({"cuda": {"seconds": 40.0}}, False), ({"cuda": {"why_not": "no nvcc"}}, True), ({}, True)]
)
def test_without_cuda_kernels_nobody_waits_for_a_compiler(
    found: dict[str, Any], off: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTSR_JIT", "on")
    facts.without_compiler(found)
    assert (os.environ["LIGHTSR_JIT"] == "off") == off


def test_arguments() -> None:
    given = command.parser().parse_args(["--out", "there"])
    assert (given.out, given.only, given.max_minutes) == (Path("there"), None, 8.0)
    assert not (given.resume or given.render or given.dry_run)
    given = command.parser().parse_args(["--out", "there", "--only", "ops,device", "--max-minutes", "0.5", "--resume"])
    assert (given.only, given.max_minutes, given.resume) == (["ops", "device"], 0.5, True)
    assert list(command.SECTIONS) == SECTIONS


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--out"),
        (["--out", "x", "--only", "ops,nothing"], "no section nothing; there are device, build,"),
        (["--out", "x", "--max-minutes", "0"], "must be more than 0; got 0"),
    ],
)
def test_bad_arguments_are_told(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(words)
    assert told in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "torch sees no CUDA GPU here; --dry-run tries the command on the CPU\n"
    assert command.main(["--out", str(tmp_path), "--render"]) == 1
    assert "run without --render first" in capsys.readouterr().err


@pytest.mark.parametrize("content", ['{"sections": {"dev', "[]", '{"sections": {"device": 1}}'])
def test_a_report_that_cannot_be_read_is_told_and_kept(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.json").write_text(content)
    for way in (["--render"], ["--resume", "--dry-run"], ["--only", "device", "--dry-run"]):
        assert command.main(["--out", str(tmp_path), *way]) == 1
        told = capsys.readouterr().err
        assert "report.json is cut short or no report" in told and told.count("\n") == 1
    assert (tmp_path / "report.json").read_text() == content


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert command.main(["--out", str(tmp_path / "file"), "--dry-run"]) == 1
    told = capsys.readouterr()
    assert told.err == f"{tmp_path / 'file'}: File exists\n" and not told.out


def test_a_matrix_without_pytest_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "run", lambda *_: (1, "python: No module named pytest\n"))
    context = Context("matrix", Store(tmp_path), tmp_path, "cpu", time.monotonic() + 9)
    with pytest.raises(RuntimeError, match="pytest ended with 1: python: No module named pytest"):
        matrix.matrix(context)


def test_all_sections_on_the_cpu(tmp_path: Path) -> None:
    assert command.main(["--out", str(tmp_path), "--dry-run", "--max-minutes", "60"]) == 0
    sections = read(tmp_path)["sections"]
    assert {name: each["status"] for name, each in sections.items()} == dict.fromkeys(SECTIONS, "done")
    assert sections["matrix"]["data"]["outcomes"] == {"passed": 1} and sections["matrix"]["data"]["exit"] == 0
    for name in ("networks", "training", "ops"):
        (case,) = sections[name]["data"].values()
        assert any(key.startswith("lightsr") for key in case["rows"])
        assert all(row["seconds"] > 0 and row["low"] <= row["high"] for row in case["rows"].values())
    page = (tmp_path / "report.md").read_text()
    assert "lmswn-1x3x12x16-inference-float32" in page and "No number" not in page


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Three sections of the same weight: one that ends, one that fails after a finding, one that runs out of time."""
    calls = dict.fromkeys(("one", "two", "three"), 0)

    def one(context: Context) -> None:
        calls["one"] += 1
        context.put("found", {"value": calls["one"]})

    def two(context: Context) -> None:
        calls["two"] += 1
        context.put("found", {"value": 2})
        if calls["two"] == 1:
            raise RuntimeError("no luck")

    def three(context: Context) -> None:
        calls["three"] += 1
        for key in ("a", "b"):
            if context.has(key):
                continue
            if context.reaches(key):
                context.put(key, {"value": calls["three"]})
            context.until = time.monotonic() - 1 if calls["three"] == 1 else context.until

    monkeypatch.setattr(command, "SECTIONS", {"one": (1.0, one), "two": (1.0, two), "three": (2.0, three)})
    monkeypatch.setattr(command, "render", lambda content, folder: [])
    return calls


def test_what_failed_or_had_no_time_is_told_and_resumed(tmp_path: Path, fake: dict[str, int]) -> None:
    assert command.main(["--out", str(tmp_path), "--dry-run"]) == 0
    first = read(tmp_path)["sections"]
    assert (first["two"]["status"], first["two"]["reason"]) == ("failed", "RuntimeError: no luck")
    assert (first["three"]["status"], first["three"]["reason"]) == ("partial", "no time for 1: b")
    assert first["two"]["data"] == {"found": {"value": 2}}  # what there was before it failed
    assert command.main(["--out", str(tmp_path), "--dry-run", "--resume"]) == 0
    second = read(tmp_path)["sections"]
    assert {name: each["status"] for name, each in second.items()} == dict.fromkeys(("one", "two", "three"), "done")
    assert fake == {"one": 1, "two": 2, "three": 2}
    assert second["three"]["data"] == {"a": {"value": 1}, "b": {"value": 2}}


def test_only_some_sections_leave_the_others_as_they_are(tmp_path: Path, fake: dict[str, int]) -> None:
    command.main(["--out", str(tmp_path), "--dry-run"])
    command.main(["--out", str(tmp_path), "--dry-run", "--only", "one"])
    assert fake == {"one": 2, "two": 1, "three": 1}
    sections = read(tmp_path)["sections"]
    assert sections["one"]["data"]["found"]["value"] == 2 and sections["two"]["status"] == "failed"


def test_each_section_gets_its_share_of_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, shares = [0.0], []

    def section(context: Context) -> None:
        shares.append(context.left())
        now[0] += 10

    monkeypatch.setattr("bench.gpu_report.store.time.monotonic", lambda: now[0])
    monkeypatch.setattr(command, "SECTIONS", {name: (weight, section) for name, weight in (("a", 1.0), ("b", 3.0))})
    command.run(["a", "b"], Store(tmp_path), tmp_path, "cpu", 100.0, resume=False)
    assert shares == [25.0, 90.0]


def test_a_section_that_is_killed_leaves_its_findings(tmp_path: Path) -> None:
    store = Store(tmp_path)
    context = Context("ops", store, tmp_path, "cpu", time.monotonic() + 60)
    context.put("first", {"value": 1})
    assert read(tmp_path)["sections"]["ops"] == {"status": "running", "data": {"first": {"value": 1}}}
    assert not Store(tmp_path, keep=True).done("ops")
    assert Store(tmp_path, keep=True).data("ops") == {"first": {"value": 1}}
    assert Store(tmp_path).sections == {}


def recorded() -> dict[str, Any]:
    """What a GPU's report might hold, one of each kind."""
    row = {"seconds": 2e-5, "low": 1.9e-5, "high": 2.3e-5, "rounds": 9, "error": 1e-4}
    slow = {**row, "seconds": 5e-5}
    rows = {"lightsr cuda nchw": row, "pytorch nchw": slow, "compiled nchw": {"why_not": "its result is wrong"}}
    tile = {"fastest": {"rows": 8}, "seconds": 1e-5, "rule": {"rows": 4}, "rule's seconds": 2e-5, "tried": 3}
    data: dict[str, dict[str, Any]] = {
        "device": {"name": "A GPU", "versions": {"torch": "2.11.0"}, "nvcc": None},
        "matrix": {
            "outcomes": {"passed": 3, "failed": 1},
            "by op": {"an_op-cuda-triton": {"passed": 3, "failed": 1}},
            "failures": [{"id": "tests/test_ops.py::test_x[an_op-cuda-triton]", "why": "E  1 | 2"}],
            "exit": 1,
        },
        "ceilings": {
            "copy, bytes/s": {"median": 4.3e12, "least": 4.2e12, "most": 4.4e12},
            "why_not": "no nvcc",
        },
        "networks": {"hasn": {"rows": {name: {**each, "memory": 3_000_000} for name, each in rows.items()}}},
        "ops": {"an_op": {"floor": 1e-5, "rows": rows}, "other": {"why_not": "OutOfMemoryError: so much"}},
        "tuning": {"a call": {"forward": tile, "weight": {**tile, "rule's seconds": None}}},
    }
    sections = {name: {"status": "done", "seconds": 1.0, "data": each} for name, each in data.items()}
    return {"sections": sections | {"training": {"status": "partial", "seconds": 2.0, "data": {}, "reason": "no time"}}}


def test_the_page_is_made_from_the_recorded_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = render(recorded(), tmp_path)
    assert [file.name for file in files] == ["report.md", "networks.png", "ops.png"]
    assert all(file.stat().st_size for file in files)
    page = (tmp_path / "report.md").read_text()
    assert page.startswith("# A GPU\n")
    for line in (
        "| training | partial | 2.0 | no time |",
        "| an_op-cuda-triton | 3 | 1 | 0 |",
        "- `tests/test_ops.py::test_x[an_op-cuda-triton]`: E  1 / 2",
        "| copy, TB/s | 4.3 | 4.2 | 4.4 |",
        "| an_op | cuda nchw | 20 ± 2 | 50% | pytorch nchw | 50 ± 2 | 2.50 |",
        "| hasn | cuda nchw | 0.02 ± 0.002 | 3 | pytorch nchw | 0.05 ± 0.002 | 2.50 |",
        "- an_op, compiled nchw: its result is wrong",
        "- other: OutOfMemoryError: so much",
        "| a call | forward | 10 | 20 |",
        "| a call | weight | 10 |  |",
    ):
        assert line in page.splitlines(), line


def test_outcomes_are_written_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "record.jsonl"
    monkeypatch.setenv(stream.VARIABLE, str(record))

    def told(name: str, when: str, outcome: str, why: str = "") -> None:
        stream.pytest_runtest_logreport(
            SimpleNamespace(nodeid=f"tests/test_ops.py::{name}", when=when, outcome=outcome, duration=0.1, longrepr=why)
        )

    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    told("test_y[op-cuda-cuda]", "call", "passed")
    monkeypatch.delenv("PYTEST_XDIST_WORKER")
    for when in ("setup", "call", "teardown"):
        told("test_x[contiguous-depthwise_conv-cuda-triton]", when, "passed")
    told("test_x[pixel_attention-cuda-cuda-bfloat16]", "call", "failed", "def test_x():\nE   assert 1 == 2\nE   more")
    told("test_x[pixel_attention-cuda-cuda]", "setup", "skipped")
    with record.open("a") as file:
        file.write('{"id": "cut o')
    found = matrix.tally(record)
    assert found["outcomes"] == {"passed": 1, "failed": 1, "skipped": 1}
    assert found["by op"]["depthwise_conv-cuda-triton"] == {"passed": 1}
    assert found["by op"]["pixel_attention-cuda-cuda"] == {"failed": 1, "skipped": 1}
    assert [each["why"] for each in found["failures"]] == ["E   assert 1 == 2"]


def test_a_process_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    context = Context("matrix", Store(tmp_path), tmp_path, "cpu", time.monotonic() + 1)
    start = time.monotonic()
    code, told = matrix.run(["bash", "-c", "echo here; sleep 60 & sleep 60"], {"PATH": "/usr/bin:/bin"}, context)
    assert code is None and told == "here\n" and context.missed
    assert time.monotonic() - start < 20


def test_the_smallest_call_of_every_op_runs_with_its_gradients(capsys: pytest.CaptureFixture[str]) -> None:
    smallest.main(["depthwise_conv", "distillation_fusion", "window_attention"], device="cpu")
    done = capsys.readouterr().out.split()
    assert done[1::2] == ["depthwise_conv-reference", "distillation_fusion-reference", "window_attention-reference"]


def test_floors_take_the_slower_of_bytes_and_operations() -> None:
    found = {"copy, bytes/s": {"median": 4e12}, "FFMA, FLOP/s": {"median": 5e13}}
    assert ceilings.floor(found, "float32", 4 * 10**9, 10**9) == pytest.approx(1e-3)
    assert ceilings.floor(found, "float32", 4 * 10**6, 10**12) == pytest.approx(2e-2)
    assert ceilings.floor(found, "float16", 4 * 10**9, 10**12) == pytest.approx(1e-3)  # no rate for it was measured
    assert ceilings.floor({}, "float32", 1, 1) is None
    assert ceilings.floor(found, "float32", 0, 0) is None


def test_who_is_wrong_has_no_number() -> None:
    rows = {
        "lightsr cuda nchw": {"error": 1.2e-2, "ours": True},
        "lightsr triton nchw": {"error": float("nan"), "ours": True},
        "pytorch nchw": {"error": 1e-2, "ours": False},
        "compiled nchw": {"error": 0.5, "ours": False},
    }
    calls = dict.fromkeys(rows)
    assert ops.judged(rows, calls, 1e-3) == pytest.approx(1.25e-2)
    assert list(calls) == ["lightsr cuda nchw", "pytorch nchw"]
    assert rows["lightsr triton nchw"]["why_not"] == "its result is wrong"


def test_every_op_comes_first_once_and_torch_compile_later() -> None:
    jobs = list(ops.jobs(dry=False))
    assert len({(case.name, compiling) for case, compiling in jobs}) == len(jobs)
    firsts = [case.op for case, _ in jobs[: len(ops.SPECS)]]
    assert sorted(firsts) == sorted(ops.SPECS)
    assert not any(compiling for _, compiling in jobs[: 2 * len(ops.SPECS)])


def test_networks_on_a_gpu_run_with_and_without_graphs_in_every_dtype() -> None:
    for way in ("inference", "training"):
        cases = list(networks.jobs(way, dry=False))
        assert len({(case.name, compiling) for case, compiling in cases}) == len(cases)
        assert {case.dtype for case, _ in cases[:12]} == {"float32", "float16", "bfloat16"}
        assert [case.network for case, compiling in cases if compiling] == list(reversed(networks.NETWORKS))
        names = {name: mine for name, _, mine in networks.contenders(way, "cuda", True)}
        assert {name for name in names if "graph" in name} == {
            f"{who} channels_last graph" for who in ("lightsr fused", "pytorch")
        }
        assert "compiled channels_last" in names
        assert all(mine == name.startswith("lightsr") for name, mine in names.items())


def test_the_clock_calls_everyone_in_turn_over_all_inputs() -> None:
    called: list[str] = []
    contenders = {name: [lambda name=name, i=i: called.append(f"{name}{i}") for i in range(2)] for name in "ab"}
    times = clock.interleaved(contenders, "cpu", 0.0, least=4)
    assert {name: len(found) for name, found in times.items()} == {"a": 4, "b": 4}
    rounds = called[-8:]
    assert rounds == ["a0", "b0", "b1", "a1", "a0", "b0", "b1", "a1"]
    told = clock.described([3.0, 1.0, 2.0])
    assert told == {"seconds": 2.0, "low": 1.5, "high": 2.5, "rounds": 3}
    assert clock.sets_for(1, "cpu") == clock.SETS and clock.sets_for(1 << 30, "cpu") == 2


def test_tuning_calls_are_many_and_none_in_a_dry_run() -> None:
    calls = list(tuning.calls(dry=False))
    assert len({tuning.named(call) for call in calls}) == len(calls) == 60 and not list(tuning.calls(dry=True))
    assert tuning.named(calls[0]) == "1x64x180x320-k7x7-d1x1-float16-channels_last"


def test_the_fastest_tile_is_taken_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = pytest.importorskip("lightsr_kernels.depthwise_conv.triton_configs")
    monkeypatch.setattr(configs, "_tuned", {})
    monkeypatch.setattr(tuning, "SHAPES", ((1, 4, 6, 5),))
    monkeypatch.setattr(clock, "interleaved", lambda calls, *_: {name: [3.0 - int(name)] for name in calls})
    for name, (tiles, rule, x, size, steps, run) in tuning.kernels(
        ((3, 1), "float32", "contiguous", (1, 4, 6, 5)), "cpu"
    ).items():
        found = tuning.fastest(tiles, rule, x, size, steps, run)
        last = configs.eligible(tiles, x, size)[-1]
        assert found["fastest"] == vars(last) and found["seconds"] <= found["rule's seconds"]
        chosen = configs.choose if name == "forward" else configs.choose_weight
        assert chosen(x, size, steps) == last
        shipped = tuning.table({"call": dict.fromkeys(tuning.KERNELS, found)})
        assert shipped["tiles"]["call"]["weight"] == vars(last)


def test_ceilings_compile_for_hopper(tmp_path: Path) -> None:
    try:
        words = ceilings.command("90", tmp_path / "ceilings.so")
    except BuildError as error:
        pytest.skip(str(error))
    subprocess.run(words, check=True, capture_output=True)
    library = ctypes.CDLL(str(tmp_path / "ceilings.so"))
    assert library.ffma_rate and library.mma_sync_rate


def test_facts_are_told_where_a_program_is_missing() -> None:
    assert facts.said("no-such-program") is None
    assert facts.said("false") is None
    assert facts.said("echo", "here") == "here"
