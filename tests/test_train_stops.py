"""Signals, kills, full disks, dead workers: a training stops cleanly or its last checkpoint stands."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from train_helpers import assert_same, checkpoint, command, config_file, draw, environment, run

from lightsr.checkpoint import read_state_dict
from lightsr.cli import main

pytest.importorskip("lightning")

LONG = ("steps=1000000", "report.log_every=1", "report.save_every=1000000")
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from lightsr.training.files import WholeFiles
folder, files = Path(sys.argv[1]), WholeFiles()
content = {"values": torch.arange(200_000, dtype=torch.float32)}
files.save_checkpoint({**content, "number": -1}, folder / "last.ckpt")
random.seed(0)
bad, replaced = 0, 0
for trial in range(100):
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        number = 0
        while True:
            files.save_checkpoint({**content, "number": trial * 10**6 + number}, folder / "last.ckpt")
            number += 1
            os.write(tell, b".")
    os.read(told, 1)  # one is saved, and the next are on their way
    time.sleep(random.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(told), os.close(tell)
    read = torch.load(folder / "last.ckpt", weights_only=True)
    bad += not torch.equal(read["values"], content["values"])
    replaced += read["number"] >= trial * 10**6
print(bad, replaced)
"""


def started(words: list[str], **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(**more))


@contextmanager
def one_thread() -> Iterator[None]:
    """As the processes of `started` have it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def after_steps(process: subprocess.Popen[str], steps: int) -> None:
    """Reads until the training has done so many steps."""
    assert process.stderr is not None
    for line in process.stderr:
        found = re.search(r"step (\d+)/", line)
        if found and int(found[1]) >= steps:
            return
    raise AssertionError(f"ended with {process.wait()} before step {steps}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves_and_the_training_goes_on(
    tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = draw(tmp_path / "pictures")
    config = config_file(tmp_path)
    process = started(command(config, tmp_path / "run", pictures, *LONG))
    after_steps(process, 3)
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    done = checkpoint(tmp_path / "run")["global_step"]
    assert done >= 3
    read_state_dict(tmp_path / "run" / "weights.safetensors")
    goes_on = command(config, tmp_path / "run", pictures, *LONG[1:], f"steps={done + 2}")
    with one_thread():
        assert main(goes_on[3:]) == 0
    assert f"goes on from step {done} of {done + 2}" in capsys.readouterr().err
    if number == signal.SIGTERM:  # once is enough
        return
    with one_thread():
        assert main(command(config, tmp_path / "whole", pictures, *LONG[1:], f"steps={done + 2}")[3:]) == 0
    a, b = (checkpoint(tmp_path / name) for name in ("run", "whole"))
    for key in ("state_dict", "averaged", "optimizer_states"):
        assert_same(a[key], b[key], key)


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    pictures = draw(tmp_path / "pictures")
    slow = "import sys,time\nfrom lightsr.training.module import Training as T\nreal=T.training_step\n"
    slow += "def step(self, batch, i):\n    if self.global_step == 3: time.sleep(60)\n    return real(self, batch, i)\n"
    slow += "T.training_step=step\nfrom lightsr.cli import main\nsys.exit(main(sys.argv[1:]))"
    words = command(config_file(tmp_path), tmp_path / "run", pictures, *LONG, "report.save_every=2")
    process = started([sys.executable, "-c", slow, *words[3:]])
    after_steps(process, 3)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "finishing this step" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert time.monotonic() - start < 30
    assert checkpoint(tmp_path / "run")["global_step"] == 2


def test_a_hundred_kills_leave_a_hundred_readable_checkpoints(tmp_path: Path) -> None:
    done = run([sys.executable, "-c", KILLED, str(tmp_path)])
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "100"]  # none unreadable, and each trial had saved


def test_what_a_killed_training_left_half_written_is_removed(tmp_path: Path) -> None:
    pictures = draw(tmp_path / "pictures")
    (tmp_path / "run").mkdir()
    left = tmp_path / "run" / ".last.tmp-1.ckpt"
    left.write_bytes(b"half")
    assert main([*command(config_file(tmp_path), tmp_path / "run", pictures, "steps=1")[3:], "-q"]) == 0
    assert not left.exists()


def test_a_full_disk_leaves_the_last_checkpoint_and_one_sentence(tmp_path: Path) -> None:
    pictures = draw(tmp_path / "pictures")
    words = command(config_file(tmp_path), tmp_path / "run", pictures, "report.save_every=2")
    # Saves of the first 4 steps are let through; then no file may be larger than 10 kB.
    full = "import resource,sys\nfrom lightsr.training.keeper import Keeper as K\nreal=K.save\n"
    full += "def save(self, trainer, module, step):\n"
    full += "    if step > 4: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
    full += "    real(self, trainer, module, step)\n"
    full += "K.save=save\nfrom lightsr.cli import main\nsys.exit(main(sys.argv[1:]))"
    done = run([sys.executable, "-c", full, *words[3:], "-q"])
    assert done.returncode == 1
    assert re.fullmatch(r"lightsr: error: cannot write .*last\.ckpt: File too large\n", done.stderr)
    assert checkpoint(tmp_path / "run")["global_step"] == 4
    assert not list((tmp_path / "run").glob(".*tmp*"))


def test_two_trainings_in_one_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lightsr.training.run import _own

    words = command(config_file(tmp_path), tmp_path / "run", draw(tmp_path / "pictures"), "steps=1")[3:]
    with _own(tmp_path / "run"):  # as the first one holds it
        assert main(words) == 1
    assert "another training is writing there" in capsys.readouterr().err
    assert main(words) == 0


def test_a_dead_worker_is_told_in_one_line(tmp_path: Path) -> None:
    pictures = draw(tmp_path / "pictures")
    process = started(command(config_file(tmp_path), tmp_path / "run", pictures, *LONG, "data.workers=2"))
    after_steps(process, 2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(each) for each in children if b"lightsr" in Path(f"/proc/{each}/cmdline").read_bytes()]
    assert workers
    os.kill(workers[-1], signal.SIGKILL)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(r"^lightsr: error: a process that cuts patches died \(.*data\.workers = 0", told, re.MULTILINE)
    assert "Traceback" not in told


def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = draw(tmp_path / "pictures")
    words = [*command(config_file(tmp_path), tmp_path / "run", pictures, "steps=2")[3:], "-q"]
    assert main(words) == 0
    last = tmp_path / "run" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    assert main(words) == 1
    told = capsys.readouterr().err
    assert re.fullmatch(r"lightsr: error: .*last\.ckpt: cannot be read as a checkpoint: .*--fresh starts anew\n", told)


@pytest.mark.parametrize("part", ["averaged", "lightsr"])
def test_a_checkpoint_of_another_version_is_refused_in_one_line(
    tmp_path: Path, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*command(config_file(tmp_path), tmp_path / "run", draw(tmp_path / "pictures"), "steps=2")[3:], "-q"]
    assert main(words) == 0
    content = checkpoint(tmp_path / "run")
    content[part] = {} if part == "lightsr" else {"head.weight": torch.zeros(3)}
    torch.save(content, tmp_path / "run" / "last.ckpt")
    assert main(words) == 1
    told = capsys.readouterr().err
    assert re.fullmatch(r"lightsr: error: .*last\.ckpt: of another version of .*--fresh starts anew\n", told)


def test_weights_that_are_not_finite_reach_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures, config = draw(tmp_path / "pictures"), config_file(tmp_path)
    words = [*command(config, tmp_path / "run", pictures, "report.save_every=1")[3:], "-q"]
    assert main([*words, "--set", "steps=2"]) == 0
    assert main([*words, "--set", "steps=4", "--set", "optimiser.lr=inf"]) == 1
    assert "the weights after step 3 are not finite; nothing of them was saved" in capsys.readouterr().err
    assert main([*words, "--set", "steps=4"]) == 0


def test_a_mistake_with_fresh_leaves_the_log(tmp_path: Path) -> None:
    pictures, config = draw(tmp_path / "pictures"), config_file(tmp_path)
    assert main([*command(config, tmp_path / "run", pictures, "steps=5")[3:], "-q"]) == 0
    log = (tmp_path / "run" / "log.csv").read_text()
    assert main([*command(config, tmp_path / "run", tmp_path / "nowhere")[3:], "--fresh"]) == 1
    assert (tmp_path / "run" / "log.csv").read_text() == log != ""
    assert main([*command(config, tmp_path / "run", pictures, "steps=3")[3:]]) == 1  # fewer than are done
    assert (tmp_path / "run" / "log.csv").read_text() == log


def test_changed_settings_of_the_optimiser_hold(tmp_path: Path) -> None:
    pictures, config = draw(tmp_path / "pictures"), config_file(tmp_path)
    words = [*command(config, tmp_path / "run", pictures)[3:], "-q"]
    assert main([*words, "--set", "steps=2"]) == 0
    changes = ("steps=3", "optimiser.name=adamw", "optimiser.weight_decay=0.5", "optimiser.betas=[0.5, 0.6]")
    assert main([*words, *(word for each in changes for word in ("--set", each))]) == 0
    group = checkpoint(tmp_path / "run")["optimizer_states"][0]["param_groups"][0]
    assert (group["weight_decay"], tuple(group["betas"])) == (0.5, (0.5, 0.6))
    assert group["decoupled_weight_decay"]


def test_a_validation_that_fails_is_told_and_the_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightsr.errors import InputError
    from lightsr.training import keeper

    def gone(*_: object, **__: object) -> None:
        raise InputError("other: no such folder")

    monkeypatch.setattr(keeper, "evaluate", gone)
    other = draw(tmp_path / "other", 1, seed=5)
    words = command(config_file(tmp_path), tmp_path / "run", draw(tmp_path / "pictures"), f"data.validate={other}")
    assert main([*words[3:], "--set", "steps=2"]) == 0
    assert "lightsr: no validation at step 2: other: no such folder" in capsys.readouterr().err
