"""Several processes under torchrun: training shares a batch, upscaling shares a folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from train_helpers import checkpoint, command, config_file, draw, run

from lightsr.cli import main

pytest.importorskip("lightning")


def torchrun(words: list[str], processes: int = 2) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    return [sys.executable, *launcher, *words[2:]]


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    pictures, config = draw(tmp_path / "pictures"), config_file(tmp_path)
    more = ("batch=4", "steps=4", "stages=[{times=2}]", "optimiser.name=adamw", "report.log_every=2")
    assert main([*command(config, tmp_path / "one", pictures, *more)[3:], "-q"]) == 0
    both = run(torchrun(command(config, tmp_path / "two", pictures, *more)))
    assert both.returncode == 0, both.stderr
    one, two = (checkpoint(tmp_path / name) for name in ("one", "two"))
    assert one["global_step"] == two["global_step"] == 4
    assert one["lightsr"]["stage"] == two["lightsr"]["stage"] == 1
    assert one["lightsr"]["pictures"] == two["lightsr"]["pictures"] == 32
    for name, value in one["averaged"].items():
        torch.testing.assert_close(two["averaged"][name], value, rtol=0, atol=2e-5)
    moved = max(
        float((one["state_dict"][f"net.{name}"] - value).abs().max()) for name, value in one["averaged"].items()
    )
    assert moved > 1e-4  # far more than the tolerance above


def test_two_processes_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    pictures, config = draw(tmp_path / "pictures"), config_file(tmp_path)
    words = command(config, tmp_path / "run", pictures, "batch=4", "schedule.name=constant")
    assert main([*words[3:], "--set", "steps=2", "-q"]) == 0  # one process; the checkpoint is of any number
    second = run(torchrun([*words, "--set", "steps=5"]))
    assert second.returncode == 0, second.stderr
    assert "goes on from step 2 of 5" in second.stderr
    assert checkpoint(tmp_path / "run")["global_step"] == 5


@pytest.mark.parametrize(
    ("batch", "message"),
    [(3, "batch = 3 cannot be shared by 2 processes; take a multiple of 2"), (4, "WORLD_SIZE is 2 without torchrun")],
)
def test_processes_that_cannot_train_together_are_told(
    tmp_path: Path, batch: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(config_file(tmp_path), tmp_path / "run", draw(tmp_path / "pictures"), f"batch={batch}")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(words[3:]) == 1
    assert message in capsys.readouterr().err


def upscaling(source: Path, target: Path) -> list[str]:
    return [sys.executable, "-m", "lightsr", "upscale", str(source), "-o", str(target), "-n", "bicubic", "-s", "2"]


def test_two_ranks_share_a_folder_and_go_on_after_one_was_killed(tmp_path: Path) -> None:
    source, target = draw(tmp_path / "pictures", 7), tmp_path / "out"
    # The second process dies by itself before its second picture, as the kernel would kill it.
    words = torchrun(upscaling(source, target))
    dying = tmp_path / "sitecustomize.py"
    dying.write_text(
        "import os, signal\n"
        "if os.environ.get('RANK') == '1':\n"
        "    import lightsr.upscale as module\n"
        "    real, done = module._enlarge_file, []\n"
        "    def enlarge(*arguments):\n"
        "        if done: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        done.append(real(*arguments))\n"
        "    module._enlarge_file = enlarge\n"
    )
    first = run(words, env={"PYTHONPATH": f"{tmp_path}:{':'.join(each or '.' for each in sys.path)}"})
    assert first.returncode != 0
    left = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    assert "p1_bicubicx2.png" in left  # the first of the second process
    assert not {"p3_bicubicx2.png", "p5_bicubicx2.png"} & set(left)
    second = run(words)
    assert second.returncode == 0, second.stderr
    now = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    assert sorted(now) == [f"p{k}_bicubicx2.png" for k in range(7)]
    assert {name: now[name] for name in left} == left  # nothing was made twice
    assert "results were there already" in second.stderr
    alone = tmp_path / "alone"
    assert main(upscaling(source, alone)[3:]) == 0
    for name in now:
        assert (alone / name).read_bytes() == (target / name).read_bytes()


def test_results_older_than_their_picture_are_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = draw(tmp_path / "pictures", 2), tmp_path / "out"
    words = [*upscaling(source, target)[3:], "--resume"]
    assert main(words) == 0
    made = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    draw(source, 1, seed=3)
    assert main(words) == 0
    assert "1 of 2 results were there already" in capsys.readouterr().err
    now = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    assert now["p0_bicubicx2.png"] > made["p0_bicubicx2.png"]
    assert now["p1_bicubicx2.png"] == made["p1_bicubicx2.png"]


def test_a_rank_that_makes_no_sense_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(upscaling(draw(tmp_path / "pictures", 1), tmp_path / "out")[3:]) == 1
    assert "RANK is 3 and WORLD_SIZE 2" in capsys.readouterr().err
