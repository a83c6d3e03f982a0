"""`lightsr train` as a whole: it learns, resumes to the bit, warm-starts, and writes weights that others read."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from train_helpers import CONFIG, assert_same, checkpoint, config_file, draw

import lightsr
from lightsr.checkpoint import read_state_dict
from lightsr.cli import main
from lightsr.errors import InputError

pytest.importorskip("lightning")

# After the skip: they import Lightning.
from lightsr.training.config import read_config
from lightsr.training.run import Result, train


def trained(tmp_path: Path, name: str, *more: str, fresh: bool = False, text: str = CONFIG) -> tuple[Path, Result]:
    folder = tmp_path / name
    pictures = tmp_path / "pictures"
    if not pictures.exists():
        draw(pictures)
    config = read_config(config_file(tmp_path, text), [f"data.train={pictures}", *more], str(folder))
    return folder, train(config, fresh=fresh, quiet=True)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["optimiser.name=adamw", "optimiser.weight_decay=0.1", "schedule.name=cosine", "schedule.warm_up=3"],
        ["network.name=mafdn", 'network.options={"channels"=8, "distilled"=4, "blocks"=1}', "loss.frequency=0.1"],
        ["data.low_resolution=device", "average=0.0", "optimiser.clip=0.5", "data.workers=2"],
        ["precision=bf16", "loss.name=charbonnier", "schedule.milestones=[0.4, 12]"],
        ["network.use_fused=true"],
    ],
    ids=["plain", "adamw", "mafdn", "device", "bf16", "fused"],
)
def test_ten_steps_and_ten_more_are_twenty_to_the_bit(tmp_path: Path, more: list[str]) -> None:
    whole, _ = trained(tmp_path, "whole", *more)
    # 10 steps by an interruption, not by a shorter configuration: the learning rates are those of 20.
    halves = tmp_path / "halves"
    stop_at(10, tmp_path, "halves", *more)
    assert checkpoint(halves)["global_step"] == 10
    trained(tmp_path, "halves", *more)
    a, b = checkpoint(whole), checkpoint(halves)
    for key in ("state_dict", "averaged", "optimizer_states"):
        assert_same(a[key], b[key], key)
    assert_same(a["lightsr"]["random"], b["lightsr"]["random"])
    assert a["global_step"] == b["global_step"] == 20
    assert a["lightsr"]["pictures"] == b["lightsr"]["pictures"] == 40
    losses = [[row["loss"] for row in rows(folder / "log.csv")] for folder in (whole, halves)]
    assert losses[0] == losses[1]


def stop_at(step: int, tmp_path: Path, name: str, *more: str) -> Result:
    """Trains until a step as Ctrl-C would stop it there."""
    from lightsr.training.keeper import Keeper

    ending = Keeper._ending

    def signalled(self: Keeper, trainer: object, at: int) -> bool:
        if at == step:
            self.stop.signal = 2
        return ending(self, trainer, at)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as context:
        context.setattr(Keeper, "_ending", signalled)
        return trained(tmp_path, name, *more)[1]


def test_it_learns(tmp_path: Path) -> None:
    folder, result = trained(tmp_path, "run", "steps=120", "optimiser.lr=5e-3", "report.log_every=20")
    losses = [float(row["loss"]) for row in rows(folder / "log.csv")]
    assert len(losses) == 6
    assert losses[-1] < 0.6 * losses[0]
    assert result.finished
    assert result.signal is None


def test_weights_load_and_say_where_they_are_from(tmp_path: Path) -> None:
    folder, result = trained(tmp_path, "run")
    assert result.weights == folder / "lmswn_x2.safetensors"
    with safe_open(result.weights, "pt") as file:
        facts = file.metadata()
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118  # no mapping
    assert (facts["network"], facts["scale"], facts["steps"], facts["pictures"]) == ("lmswn", "2", "20", "40")
    assert facts["recipe"] == "run"
    assert "torch" in facts["machine"]
    x = torch.rand(1, 3, 20, 24)
    half, whole = (lightsr.load(folder / name) for name in ("lmswn_x2.safetensors", "weights.safetensors"))
    assert (half(x) - whole(x)).abs().max() < 2e-3
    averaged = read_state_dict(folder / "weights.safetensors").tensors
    assert_same(averaged, {name: checkpoint(folder)["averaged"][name] for name in averaged})
    last = checkpoint(folder)["state_dict"]
    assert any(not torch.equal(averaged[name], last[f"net.{name}"]) for name in averaged)


def test_a_short_training_does_not_keep_what_it_began_with(tmp_path: Path) -> None:
    still, _ = trained(tmp_path, "still", "optimiser.lr=1e-12")
    moved, _ = trained(tmp_path, "moved", "average=0.999")
    first, last = (checkpoint(folder)["state_dict"] for folder in (still, moved))
    averaged = checkpoint(moved)["averaged"]
    way = sum(float((last[f"net.{name}"] - first[f"net.{name}"]).square().sum()) for name in averaged)
    left = sum(float((last[f"net.{name}"] - value).square().sum()) for name, value in averaged.items())
    assert left < 0.25 * way  # with 0.999 from the first step on it would be 0.97


def test_stages_start_from_the_averaged_weights_with_a_new_optimiser(tmp_path: Path) -> None:
    text = CONFIG.replace(
        "[network]", "[[stages]]\nsteps = 6\n[[stages]]\nsteps = 4\ntimes = 2\n[stages.optimiser]\nlr = 1e-9\n[network]"
    )
    folder, result = trained(tmp_path, "whole", text=text)
    assert (result.steps, result.total) == (14, 14)
    first = read_state_dict(folder / "stage1.safetensors").tensors
    final = read_state_dict(folder / "weights.safetensors").tensors
    for name, value in first.items():  # at such a rate nothing moves, so what the later stages began with shows
        torch.testing.assert_close(final[name], value, rtol=0, atol=1e-6)
    state = checkpoint(folder)
    assert (state["lightsr"]["stage"], state["global_step"]) == (2, 4)
    assert {float(each["step"]) for each in state["optimizer_states"][0]["state"].values()} == {4.0}
    stop_at_stages = [row["stage"] for row in rows(folder / "log.csv")]
    assert stop_at_stages == ["0", "0", "1", "2"]


def test_a_stopped_stage_and_a_stop_between_stages_resume_to_the_bit(tmp_path: Path) -> None:
    text = CONFIG.replace("steps = 20", "steps = 6").replace("[network]", "[[stages]]\ntimes = 2\n[network]")
    whole, _ = trained(tmp_path, "whole", text=text)
    for step in (3, 6):
        name = f"stopped{step}"
        stop_at(step, tmp_path, name, "steps=6", "stages=[{times=2}]")
        trained(tmp_path, name, text=text)
        a, b = checkpoint(whole), checkpoint(tmp_path / name)
        assert a["lightsr"]["stage"] == b["lightsr"]["stage"] == 1
        for key in ("state_dict", "averaged", "optimizer_states"):
            assert_same(a[key], b[key], key)


def test_another_scale_starts_from_all_but_the_last_convolution(tmp_path: Path) -> None:
    folder, _ = trained(tmp_path, "x2")
    source = read_state_dict(folder / "weights.safetensors").tensors
    other, _ = trained(
        tmp_path, "x3", "network.scale=3", f"init={folder / 'weights.safetensors'}", "optimiser.lr=0", "steps=1"
    )
    found = read_state_dict(other / "weights.safetensors").tensors
    assert {name for name in found if not torch.equal(found[name], source.get(name, torch.zeros(0)))} == {
        "tail.0.weight",
        "tail.0.bias",
    }


@pytest.mark.parametrize("name", ["lmswn", "mafdn"])
def test_folded_weights_can_be_trained_on(tmp_path: Path, name: str) -> None:
    from lightsr.training.start import start_from

    net = lightsr.create(name, scale=2).eval()
    x = torch.rand(1, 3, 16, 16)
    wanted = net(x).detach()
    from lightsr.checkpoint import fold, save

    save(tmp_path / "folded.safetensors", fold(net.state_dict()))
    other = lightsr.create(name, scale=2).eval()
    start_from(other, tmp_path / "folded.safetensors")
    torch.testing.assert_close(other(x), wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


def test_wrong_weights_to_start_from_are_named(tmp_path: Path) -> None:
    from lightsr.checkpoint import save

    save(tmp_path / "hasn.safetensors", lightsr.create("hasn", scale=2).state_dict())
    with pytest.raises(InputError, match="cannot start LMSWN x2"):
        trained(tmp_path, "run", f"init={tmp_path / 'hasn.safetensors'}")


def test_validation_is_what_evaluate_measures(tmp_path: Path) -> None:
    from lightsr.evaluate import Entry, evaluate

    pictures = draw(tmp_path / "other", 2, seed=5)
    folder, _ = trained(tmp_path, "run", f"data.validate={pictures}")
    found = rows(folder / "validation.csv")
    assert [row["step"] for row in found] == ["10", "20"]
    wanted = evaluate([pictures], [Entry("lmswn", folder / "weights.safetensors")], 2, quiet=True).means()[0]
    assert float(found[-1]["psnr"]) == pytest.approx(wanted.psnr, abs=2e-3)
    assert found[-1]["dataset"] == wanted.dataset == "other"


def test_the_same_seed_gives_the_same_weights_and_another_others(tmp_path: Path) -> None:
    weights = [
        read_state_dict(trained(tmp_path, name, f"seed={seed}", "steps=3")[0] / "weights.safetensors").tensors
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert_same(weights[0], weights[1])
    assert not torch.equal(weights[0]["tail.0.weight"], weights[2]["tail.0.weight"])


def test_a_loss_that_is_not_finite_names_step_and_batch_and_saves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightsr.training import module

    real = module.Training.training_step

    def broken(self: module.Training, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        if self.global_step == 8:
            batch = (batch[0].float() * float("nan"), batch[1])
        return real(self, batch, batch_idx)

    monkeypatch.setattr(module.Training, "training_step", broken)
    with pytest.raises(InputError, match=r"the loss of step 9 is not finite.*p\d\.png at \d+,\d+, .*p\d\.png at"):
        trained(tmp_path, "run")
    assert checkpoint(tmp_path / "run")["global_step"] == 7
    assert all(bool(value.isfinite().all()) for value in checkpoint(tmp_path / "run")["averaged"].values())


def test_max_time_stops_saves_and_goes_on(tmp_path: Path) -> None:
    folder, result = trained(tmp_path, "run", "max_minutes=1e-9")
    assert (result.steps, result.signal, result.finished) == (1, None, False)
    assert checkpoint(folder)["global_step"] == 1
    assert trained(tmp_path, "run")[1].finished


def test_changed_settings_are_told_and_another_network_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = trained(tmp_path, "run", "steps=2")
    words = ["train", str(tmp_path / "small.toml"), "-o", str(folder), "--set", f"data.train={tmp_path / 'pictures'}"]
    assert main([*words, "--set", "steps=3", "--set", "optimiser.lr=1e-5"]) == 0
    assert "lightsr: stages.0.optimiser.lr is 1e-05 from here on; it was 0.0002" in capsys.readouterr().err
    assert main([*words, "--set", "network.scale=3"]) == 1
    assert capsys.readouterr().err.startswith("lightsr: error: network.scale was 2 in the checkpoint and is 3")
    assert main([*words, "--set", "network.scale=3", "--set", "steps=2", "--fresh", "-q"]) == 0


def test_without_lightning_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    assert main(["train", str(config_file(tmp_path)), "-o", str(tmp_path / "run")]) == 1
    assert "pip install 'lightsr[train]'" in capsys.readouterr().err


def test_curves_of_runs_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    from lightsr.training.curves import main as curves

    folder, _ = trained(tmp_path, "run", f"data.validate={draw(tmp_path / 'other', 1, seed=5)}")
    assert curves([str(folder), "-o", str(tmp_path / "curves.svg")]) == 0
    drawn = (tmp_path / "curves.svg").read_text()
    assert drawn.count("<path") > 10
    assert curves([str(tmp_path), "-o", str(tmp_path / "none.png")]) == 1
    assert "log.csv: cannot be read" in capsys.readouterr().err
    assert curves([str(folder), "-o", str(tmp_path / "curves.txt")]) == 1
    assert "its suffix must be one of .png, .svg, .pdf" in capsys.readouterr().err


def test_options_that_make_no_network_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"network\.options do not fit lmswn: out_channels"):
        trained(tmp_path, "run", "network.options={channels=16.5, distilled=4, blocks=1}")


def test_patches_cut_on_the_device_take_no_workers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"it takes data\.workers = 0"):
        trained(tmp_path, "run", "data.place=device", "data.workers=1")
