"""The command line: what it prints, what it exits with, and that every flag does something."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lightsr
from lightsr import InputError, cli
from lightsr.arguments import BACKENDS, parser
from lightsr.checkpoint import save
from lightsr.devices import using_backend
from lightsr.evaluation import Evaluation
from lightsr.images import MAX_PIXELS
from lightsr.upscale import Report
from lightsr_kernels import dispatch

VERBS = ("upscale", "evaluate", "info", "doctor", "export", "fold", "train")


@pytest.fixture(autouse=True)
def no_weights_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTSR_WEIGHTS", str(tmp_path / "nothing"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "nothing"))
    monkeypatch.setattr("lightsr.folders.PACKAGED", tmp_path / "nothing")
    monkeypatch.delenv("LIGHTSR_BACKEND", raising=False)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 9, 3), dtype=np.uint8)
    path = tmp_path / "in.png"
    Image.fromarray(pixels).save(path, dpi=(300, 300))
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save(tmp_path / "w.safetensors", lightsr.create("lmswn", 2, blocks=1, channels=16, distilled=4).state_dict())
    return tmp_path / "w.safetensors"


def run(*arguments: object) -> int:
    return cli.main([str(each) for each in arguments])


class Captured(dict[str, Any]):
    """Stands for a verb: keeps its arguments by name."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.clear()
        self.update(kwargs, args=args)
        return self.result


# Help, version, usage


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(verb, "--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"example: lightsr {verb} " in text.replace("\n", " ")


@pytest.mark.parametrize("verb", VERBS)
def test_every_argument_is_explained_and_examples_parse(verb: str) -> None:
    root = parser(dict.fromkeys(VERBS, lambda args: 0))
    group = next(action for action in root._actions if isinstance(action.choices, dict))
    found = group.choices[verb]  # type: ignore[index]
    assert all(action.help for action in found._actions)
    example = found.epilog.removeprefix("example: lightsr ")
    assert root.parse_args(example.split()).parser is found


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run("--version")
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"lightsr {lightsr.__version__}\n"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "enlarge",
        "upscale",
        "upscale -o out.png",
        "upscale in.png -i in.png -o out.png",
        "upscale in.png -o out.png --tile some",
        "upscale in.png -o out.png --tile 0",
        "upscale in.png -o out.png -s 5",
        "upscale in.png -o out.png --quality 101",
        "upscale in.png -o out.png --max-pixels -1",
        "upscale in.png -o out.png --backend opencl",
        "upscale in.png -o out.png --format gif",
        "upscale in.png -o out.png --unknown",
        "evaluate -n bicubic -s 4",
        "evaluate folder -s 4",
        "evaluate folder -n bicubic",
        "evaluate folder -n hasn= -s 4",
        "evaluate folder -n =w.pth -s 4",
        "info -s 8",
        "export w.pth -w w.pth -o a.onnx",
        "export w.pth",
        "fold w.pth",
    ],
)
def test_a_wrong_command_line_exits_with_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(*line.split())
    assert stop.value.code == 2
    assert "usage: lightsr" in capsys.readouterr().err


# Bad input: one line, exit 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("upscale nothing.png -o out.png -n bicubic", "nothing.png"),
        ("upscale {picture} -o {folder}/out.png -n hasn -s 4", "no trained weights for hasn x4 at hand"),
        ("upscale {picture} -o {folder}/out.png", "no trained weights for hasn x4 at hand"),
        ("upscale {picture} -o {folder}/out.png -n swinir", "network must be one of"),
        ("upscale {picture} -o {folder}/out.png -n hasn -w {weights}", "holds lmswn x2, and hasn x2 was asked for"),
        ("upscale {picture} -o {folder}/out.png -s 3 -w {weights}", "holds lmswn x2, and lmswn x3 was asked for"),
        ("upscale {picture} -o {folder}/out.png -w {picture}", "not a weight file"),
        ("upscale {picture} -o {folder}/out.png -w {weights} --device nowhere", "device 'nowhere' cannot be used"),
        ("upscale {picture} -o {folder}/out.png -w {weights} --backend cuda", "'cuda' was asked for"),
        ("upscale {picture} -o {folder}/out.png -n bicubic --max-pixels 107", "in.png"),
        ("evaluate {folder}/none -n bicubic -s 2", "none"),
        ("evaluate {folder} -n bicubic -s 2 --json {folder}/no/a.json", "its folder does not exist"),
        ("evaluate {folder} -n bicubic -s 2 --csv {folder}/no/a.csv", "its folder does not exist"),
        ("evaluate {folder} -n bicubic -s 2 --report {folder}/no/a.html", "its folder does not exist"),
        ("info nothing", "network must be one of"),
        ("upscale {picture} -o {folder}/out.png -n bicubic --device meta", "device 'meta' cannot be used"),
        ("fold {weights} -o {folder}/folded.pth", "give one that ends in .safetensors"),
        ("evaluate {folder} -n bicubic -s 2 --json {folder}", "it is a folder"),
        ("export {weights} -o {folder}/a.bin", "give a name in .onnx"),
        ("export -o {folder}/a.onnx", "give a weight file"),
        ("fold {picture} -o {folder}/w2.safetensors", "not a weight file"),
        ("fold {weights} -o {folder}/no/w2.safetensors", "cannot write"),
    ],
)
def test_bad_input_is_one_line_and_exits_with_1(
    line: str, message: str, picture: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    names = {"picture": picture, "weights": weights, "folder": tmp_path}
    assert run(*[word.format(**names) for word in line.split()]) == 1
    lines = capsys.readouterr().err.splitlines()
    errors = [each for each in lines if each.startswith("lightsr: error: ")]
    assert len(errors) == 1 and message in errors[0]
    assert all(each.startswith("lightsr: ") for each in lines)
    assert sorted(tmp_path.iterdir()) == before


def test_a_wrong_environment_variable(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIGHTSR_BACKEND", "fastest")
    assert run("upscale", picture, "-o", picture.with_name("out.png"), "-n", "bicubic") == 1
    names = ", ".join(("auto", *dispatch.BACKENDS))
    message = f"lightsr: error: LIGHTSR_BACKEND must be one of {names}; got 'fastest'\n"
    assert capsys.readouterr().err == message


def test_the_environment_chooses_the_backend_where_no_flag_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTSR_BACKEND", "triton")
    with using_backend(None):
        assert dispatch.requested() == "triton"
    with using_backend("auto"):
        assert dispatch.requested() == "auto"
    called = Captured(Report())
    monkeypatch.setattr("lightsr.upscale.upscale", called)
    assert run("upscale", "in.png", "-o", "out.png") == 0
    assert called["backend"] is None
    assert run("upscale", "in.png", "-o", "out.png", "--backend", "auto") == 0
    assert called["backend"] == "auto"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("bad\nfile"), 1, r"lightsr: error: bad\nfile"),
        (OSError(28, "No space left on device"), 1, "lightsr: error: [Errno 28] No space left on device"),
        (dispatch.BackendUnavailableError("no nvcc"), 1, "lightsr: error: no nvcc"),
        (MemoryError(), 1, "lightsr: error: not enough memory; give a smaller --tile, such as --tile 128"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 80 GB"),
            1,
            "lightsr: error: not enough memory; give a smaller --tile, such as --tile 128",
        ),
        (KeyboardInterrupt(), 130, "lightsr: stopped"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_errors_and_exit_codes(
    error: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("lightsr.info.info", fails)
    assert run("info") == code
    assert capsys.readouterr().err == f"{message}\n"


def test_our_own_mistakes_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("lightsr.info.info", fails)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run("info")


def test_names_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("upscale", "\x1b[2Jgone\n.png", "-o", "out.png", "-n", "bicubic") == 1
    text = capsys.readouterr().err
    assert "\x1b" not in text and text.count("\n") == 1


# upscale


def test_upscale(picture: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.png"
    assert run("upscale", picture, "-o", out, "-w", weights) == 0
    assert Image.open(out).size == (18, 24)
    shown = capsys.readouterr()
    assert shown.out == f"{out}\n"
    assert shown.err == "lightsr: w.safetensors: lmswn x2, weights taken from the whole file\n"


def test_the_input_by_a_flag(picture: Path, tmp_path: Path) -> None:
    assert run("upscale", "-i", picture, "-o", tmp_path / "out.png", "-n", "bicubic", "-s", 2) == 0
    assert Image.open(tmp_path / "out.png").size == (18, 24)


def test_quiet_says_nothing(picture: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("upscale", picture, "-o", tmp_path / "out.png", "-w", weights, "-q") == 0
    assert capsys.readouterr() == ("", "")


def test_format_quality_and_metadata(picture: Path, tmp_path: Path) -> None:
    common = ("upscale", picture, "-n", "bicubic", "-s", "2", "-q")
    assert run(*common, "-o", tmp_path / "a.jpg") == 0
    assert run(*common, "-o", tmp_path / "b.jpg", "--quality", 5) == 0
    assert (tmp_path / "b.jpg").stat().st_size < (tmp_path / "a.jpg").stat().st_size
    assert run(*common, "-o", tmp_path / "folder", "--format", "webp") == 0
    assert [each.name for each in (tmp_path / "folder").iterdir()] == ["in_bicubicx2.webp"]
    assert run(*common, "-o", tmp_path / "c.png") == 0
    assert run(*common, "-o", tmp_path / "d.png", "--strip-metadata") == 0
    assert round(Image.open(tmp_path / "c.png").info["dpi"][0]) == 300
    assert "dpi" not in Image.open(tmp_path / "d.png").info


def test_one_bad_picture_of_a_folder(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.png").write_bytes(picture.read_bytes())
    (folder / "bad.png").write_bytes(picture.read_bytes()[:60])
    assert run("upscale", folder, "-o", tmp_path / "out", "-n", "bicubic", "-s", "3") == 1
    shown = capsys.readouterr()
    assert shown.out == f"{tmp_path / 'out' / 'good_bicubicx3.png'}\n"
    assert shown.err.startswith(f"lightsr: error: {folder / 'bad.png'}: ") and shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        ("-n hasn", "network", "hasn"),
        ("-s 3", "scale", 3),
        ("-w w.pth", "weights", "w.pth"),
        ("--tile 64", "tile", 64),
        ("--tile off", "tile", "off"),
        ("--device cuda:1", "device", "cuda:1"),
        ("--backend reference", "backend", "reference"),
        ("--format tiff", "format", "tiff"),
        ("--quality 80", "quality", 80),
        ("--strip-metadata", "strip_metadata", True),
        ("--max-pixels 100", "max_pixels", 100),
        ("-q", "quiet", True),
    ],
)
def test_every_flag_of_upscale_arrives(flags: str, name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    called = Captured(Report())
    monkeypatch.setattr("lightsr.upscale.upscale", called)
    assert run("upscale", "in.png", "-o", "out.png") == 0
    default = dict(called)
    assert run("upscale", "in.png", "-o", "out.png", *flags.split()) == 0
    assert called["args"] == ("in.png", "out.png")
    assert {key for key in called if called[key] != default[key]} == {name}
    assert called[name] == value


def test_notes_are_shown_unless_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("lightsr.upscale.upscale", Captured(Report(notes=["tiling is approximate"])))
    run("upscale", "in.png", "-o", "out.png")
    assert capsys.readouterr().err == "lightsr: tiling is approximate\n"
    run("upscale", "in.png", "-o", "out.png", "-q")
    assert capsys.readouterr().err == ""


def test_the_limit_of_pixels_is_the_library_s() -> None:
    args = parser(dict.fromkeys(VERBS, lambda args: 0)).parse_args(["upscale", "a.png", "-o", "b.png"])
    assert args.max_pixels == MAX_PIXELS
    assert set(BACKENDS) == {"auto", *dispatch.BACKENDS}


# evaluate


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    folder = tmp_path / "Toy"
    folder.mkdir()
    rows, columns = np.mgrid[:32, :28]
    for name in ("one", "two"):
        waves = 128 + 90 * np.sin(rows / 3) * np.cos(columns / 4 + len(name))
        Image.fromarray(np.stack([waves, waves / 2, waves], -1).astype(np.uint8)).save(folder / f"{name}.png")
    return folder


def test_evaluate(data_set: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / name for name in ("a.json", "a.csv")]
    common = ("evaluate", data_set, "-s", 2, "--json", files[0], "--csv", files[1])
    assert run(*common, "-n", "bicubic", "-n", f"lmswn={weights}") == 0
    shown = capsys.readouterr()
    assert "bicubic" in shown.out and "LMSWN" in shown.out and "PSNR (dB) / SSIM on Y" in shown.out
    assert "weights taken from the whole file" in shown.err
    assert len(json.loads(files[0].read_text())["pictures"]) == 4
    assert len(list(csv.DictReader(files[1].open()))) == 4


def test_evaluate_tells_what_it_left_out(data_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data_set / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert run("evaluate", data_set, "-n", "bicubic", "-s", 2, "-q") == 1
    assert capsys.readouterr().err.startswith(f"lightsr: error: {data_set / 'broken.png'}: ")


def test_evaluate_writes_a_report(data_set: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert run("evaluate", data_set, "-n", "bicubic", "-s", 2, "-q", "--report", tmp_path / "report.html") == 0
    assert (tmp_path / "report.html").read_text().lstrip().lower().startswith("<!doctype html")


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        ("--lr lr1 --lr lr2", "lr", ["lr1", "lr2"]),
        ("--tile 64", "tile", 64),
        ("--device cpu", "device", "cpu"),
        ("--backend cuda", "backend", "cuda"),
        ("-q", "quiet", True),
    ],
)
def test_every_flag_of_evaluate_arrives(flags: str, name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    called = Captured(Evaluation(2, "protocol", "machine", "auto", []))
    monkeypatch.setattr("lightsr.evaluate.evaluate", called)
    common = ("evaluate", "A", "B", "-n", "bicubic", "-n", "hasn=w=1.pth", "-s", "2")
    assert run(*common) == 0
    default = dict(called)
    assert run(*common, *flags.split()) == 0
    folders, entries, scale = called["args"]
    assert (folders, scale) == (["A", "B"], 2)
    assert [(each.name, each.weights) for each in entries] == [("bicubic", None), ("hasn", "w=1.pth")]
    assert {key for key in called if called[key] != default[key]} == {name}
    assert called[name] == value


# info, doctor, export, fold


def test_info_and_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", "lmswn", "-s", "4") == 0
    text = capsys.readouterr().out
    assert "543,452" in text and "x2" not in text
    assert run("info", "lmswn", "--json") == 0
    assert [row["scale"] for row in json.loads(capsys.readouterr().out)["networks"]] == [2, 3, 4]
    assert run("doctor") == 0
    assert f"version: {torch.__version__}" in capsys.readouterr().out
    assert run("doctor", "--json") == 0
    assert json.loads(capsys.readouterr().out)["torch"]["version"] == torch.__version__


def test_export(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.bin"
    assert run("export", weights, "-o", out, "--format", "safetensors") == 0
    shown = capsys.readouterr()
    assert "folded weights of lmswn x2; 0.0e+00 from PyTorch" in shown.out
    assert shown.err == "lightsr: w.safetensors: lmswn x2, weights taken from the whole file\n"
    assert run("export", "-w", weights, "-n", "lmswn", "-s", 2, "-o", out, "--format", "safetensors", "--no-check") == 0
    assert capsys.readouterr().out.endswith("; not checked\n")
    assert run("export", weights, "-o", out, "--format", "safetensors", "-q") == 0
    assert capsys.readouterr() == ("", "")


def test_fold(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = lightsr.create("mafdn", 2, blocks=1, channels=12, distilled=6)
    torch.save({"params_ema": net.state_dict()}, tmp_path / "train.pth")
    out = tmp_path / "folded.safetensors"
    assert run("fold", tmp_path / "train.pth", "-o", out) == 0
    shown = capsys.readouterr()
    assert "weights taken from 'params_ema'" in shown.err
    before = sum(value.numel() for value in net.state_dict().values())
    after = sum(value.numel() for value in net.fold().state_dict().values())
    assert shown.out == f"{out}: {before:,} values folded into {after:,}\n" and after < before
    assert lightsr.load(out).folded
    assert run("fold", weights, "-o", out, "-q") == 0
    assert capsys.readouterr() == ("", "")


def test_a_home_that_is_not_there_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTSR_WEIGHTS", "~nobody-of-this-name/weights")
    monkeypatch.setenv("LIGHTSR_CACHE", "~nobody-of-this-name/cache")
    assert run("info") == 0
    assert run("doctor") == 0
