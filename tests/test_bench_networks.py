"""The bench of networks: everyone computes the same, or says why not; what the README gets from a saved run."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # at the end: bench comes from the checkout, the packages from where they are installed

from bench import comparison, network_case, network_rivals, readme, readme_networks, report  # noqa: E402
from bench.comparison import Comparison, Row, compare  # noqa: E402
from bench.contender import Contender, NotHereError  # noqa: E402
from bench.network_case import WAYS, NetworkCase  # noqa: E402
from bench.network_rivals import RIVALS, try_apart, within  # noqa: E402
from bench.test_networks import every, usual  # noqa: E402
from lightsr.networks import create  # noqa: E402
from lightsr.networks.cost import multiply_adds  # noqa: E402

SMALL = {"inference": (1, 3, 11, 18), "training": (2, 3, 12, 10)}


@pytest.fixture
def one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """LMSWN of one block, which is exported in a moment."""

    def network(name: str, way: str) -> Any:
        torch.manual_seed(0)
        net = create("lmswn", blocks=1)
        return net.fold().eval() if way == "inference" else net.train()

    monkeypatch.setattr(network_case, "network", network)
    monkeypatch.setattr(network_rivals, "network", network)


@pytest.mark.parametrize("way", WAYS)
def test_everyone_computes_the_case_or_says_why_not(
    way: str, one_block: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_rivals, "cache_folder", lambda: tmp_path)
    case = NetworkCase("lmswn", SMALL[way], way)
    given = case.inputs("cpu")
    wanted, reasons = case.exact(given), {}
    assert all(each.dtype == torch.float64 for each in wanted)
    assert (len(wanted) > 1) == (way == "training")
    limit = case.limit(given, wanted)
    for name, prepare in (*RIVALS, *(("ours", prepare) for prepare in case.ours("cpu"))):
        try:
            contender = prepare(case, given)
        except NotHereError as reason:
            reasons[name] = str(reason)
            continue
        lenient = 1 if name == "ours" else comparison.LENIENT
        for _ in range(2):  # results of an earlier call may be written over, but not read
            assert case.error(contender.result(contender.run()), wanted) <= lenient * limit, contender.name
    engines = {"onnxruntime", "openvino"}
    assert {name.split()[0] for name in reasons} - engines == {"compiled", "graph"}
    if way == "training":
        assert {name.split()[0] for name in reasons} >= engines
    assert reasons["compiled nchw"].endswith("--full") and reasons["graph nchw"] == "it is for GPUs"


def test_a_network_that_is_wrong_has_no_number(one_block: None, monkeypatch: pytest.MonkeyPatch) -> None:
    case = NetworkCase("lmswn", SMALL["inference"], "inference")

    def wrong(case: NetworkCase, given: Any) -> Contender:
        return Contender("lightsr fused nchw", lambda: [each + 1e-3 for each in case.exact(given)])

    monkeypatch.setattr(NetworkCase, "ours", lambda case, device: [wrong])
    with pytest.raises(AssertionError, match="so there is no number"):
        compare(case, "cpu", 0.0, 1.0)


def test_the_error_is_of_results_and_of_gradients_and_of_what_is_no_number() -> None:
    case = NetworkCase("lmswn", SMALL["training"], "training")

    def of(*values: float) -> list[Tensor]:
        return [torch.tensor([each], dtype=torch.float64) for each in values]

    assert case.error(of(1.0, 8.0, 0.0), of(2.0, 8.0, 0.0)) == 0.5
    assert case.error(of(2.0, 8.0, 0.5), of(2.0, 8.0, 0.0)) == 0.0625
    assert not case.error(of(2.0, float("nan"), 0.0), of(2.0, 8.0, 0.0)) < 1


def test_the_floor_counts_what_the_papers_count() -> None:
    case = NetworkCase("lmswn", (1, 3, 180, 320), "inference")
    assert case.flops == pytest.approx(2 * multiply_adds(create("lmswn")), rel=1e-9)
    assert NetworkCase("lmswn", (1, 3, 180, 320), "training").flops == 3 * case.flops


def test_a_smaller_case_tells_how_long_a_call_takes() -> None:
    picture, times = NetworkCase("hasn", (1, 3, 180, 320), "inference").part()
    assert (picture.shape, round(times, 2)) == ((1, 3, 22, 320), 8.18)
    patches, times = NetworkCase("hasn", (16, 3, 48, 48), "training").part()
    assert (patches.shape, times) == ((2, 3, 48, 48), 8.0)


def test_compiling_is_interrupted() -> None:
    start = time.perf_counter()
    with pytest.raises(NotHereError, match=r"compiling takes more than 0\.05 s"):
        within(0.05, lambda: time.sleep(30))
    assert time.perf_counter() - start < 20
    within(60, lambda: None)
    with pytest.raises(ZeroDivisionError):
        within(60, lambda: 1 / 0)


@pytest.mark.parametrize(
    ("code", "seconds", "why"),
    [
        ("import os; os.abort()", 60, "ended by SIGABRT"),
        ("import time; time.sleep(60)", 0.2, r"takes more than 0\.2 s"),
        ("raise ValueError('no such thing')", 60, "it fails: ValueError: no such thing"),
    ],
)
def test_a_rival_that_ends_the_process_is_found_out_apart(
    code: str, seconds: float, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = NetworkCase("lmswn", SMALL["training"], "training", full=True)
    monkeypatch.setattr(network_rivals, "COMPILING", seconds)
    monkeypatch.setattr(network_rivals, "_TRY", code)
    with pytest.raises(NotHereError, match=why):
        try_apart(case, "nchw")


def test_networks_and_sizes() -> None:
    assert {case.network for case in usual()} == {"lmswn", "mafdn", "hasn", "idsa_net"}
    assert len({case.name for case in every("cpu")}) == 12
    assert {case.dtype for case in every("cuda")} == {"float32", "float16", "bfloat16"}


def made() -> list[Comparison]:
    """A run as it might have been: a network in two ways, one rival absent."""
    return [
        Comparison(
            NetworkCase("lmswn", SMALL[way], way),
            chosen="fused",
            peak=100e9,
            copy=10e9,
            ours=[
                Row(
                    "lightsr fused nchw", seconds=0.02, rounds=3, error=0.0, memory=30_000_000, times=[0.02, 0.03, 0.01]
                ),
                Row("lightsr fused channels_last", seconds=0.01, rounds=3, error=0.0, memory=20_000_000),
            ],
            rivals=[
                Row("pytorch nchw", seconds=0.25, rounds=3, error=0.0, memory=50_000_000),
                Row("pytorch channels_last", seconds=0.05, rounds=3, error=0.0, memory=60_000_000),
                Row("openvino nchw", reason="absent"),
            ],
        )
        for way in WAYS
    ]


def test_a_run_is_saved_with_its_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = report.save(made(), "networks", tmp_path)
    assert sorted(file.name for file in folder.iterdir()) == ["networks.json", "networks.png"]
    content = json.loads((folder / "networks.json").read_text())
    assert content["summary"]["mean"] == pytest.approx(5.0)
    one = content["comparisons"][0]
    assert one["ours"][0]["quartiles"] == pytest.approx([0.015, 0.025])
    assert one["FMA floor, s"] == pytest.approx(one["case"]["flops"] / 100e9)
    assert "of copy bandwidth" not in one["ours"][0]
    assert "5.00" in "\n".join(report.table(made()))


def test_a_run_leaves_what_it_has_until_it_is_finished(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for count in (1, 2):
        report.save_unfinished(made()[:count], "networks", tmp_path)
        (file,) = tmp_path.iterdir()
        assert file.name.endswith("-networks-unfinished.json")
        assert len(json.loads(file.read_text())["comparisons"]) == count
    folder = report.save(made(), "networks", tmp_path)
    assert list(tmp_path.iterdir()) == [folder]


def saved(folder: Path) -> Path:
    content = {"machine": report.machine(), "comparisons": [each.as_json() for each in made()]}
    folder.mkdir()
    (folder / "networks.json").write_text(json.dumps(content))
    return folder


def test_the_readme_gets_table_and_plot_between_the_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, picture = tmp_path / "README.md", tmp_path / "docs" / "images" / "networks.png"
    picture.parent.mkdir(parents=True)
    page.write_text("before\n<!-- networks: begin -->\nnothing\n<!-- networks: end -->\nafter\n")
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    assert readme.main([]) == 1
    assert (
        capsys.readouterr().err
        == "README.md names no folder of figures for networks yet: give one under bench/results\n"
    )
    folder = saved(tmp_path / "results")
    (folder / "networks.png").write_bytes(b"picture")
    assert readme.main(["--check", str(folder)]) == 1
    assert readme.main([str(folder)]) == 0
    text = page.read_text()
    assert text.startswith("before\n<!-- networks: begin results -->\n")
    assert text.endswith("<!-- networks: end -->\nafter\n")
    assert "| LMSWN | **10** | 5.00 | 250 | 50 |" in text and "| 20 | 60 |" in text  # the memory of the faster layouts
    assert "OpenVINO" not in text and report.device_name() in text
    assert picture.read_bytes() == b"picture"
    assert readme.main(["--check"]) == 0  # by the folder that it names itself
    page.write_text(text.replace("**10**", "**9**"))
    assert readme.main(["--check"]) == 1


def test_the_readme_is_what_the_command_writes() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = readme.BLOCK.search(text)
    assert found is not None
    if not found[2]:
        pytest.skip("the README names no run yet")
    assert readme.written(text) == text
    assert (ROOT / readme_networks.PICTURE).exists()
