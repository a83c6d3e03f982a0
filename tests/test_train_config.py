"""Configurations: typed, checked, with the nearest spelling; every recipe in the package is one."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lightsr
from lightsr.cli import main
from lightsr.errors import InputError
from lightsr.networks import REGISTRY, SCALES
from lightsr.training.config import as_toml, from_table, read_config, recipes
from lightsr.training.schedule import share_of_rate
from lightsr.training.settings import Schedule


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stps=5", "unknown setting stps; did you mean steps?"),
        ("network.scal=2", "unknown setting network.scal; did you mean network.scale?"),
        ("optimiser.learning_rate=1", "unknown setting optimiser.learning_rate; "),
        ("schedule.mileston=1", "did you mean schedule.milestones?"),
        ("report.log_ever=1", "did you mean report.log_every?"),
        ("network.scale=5", "network.scale must be one of 2, 3, 4; got 5"),
        ("network.scale=2.0", "network.scale must be one of 2, 3, 4; got 2.0"),
        ("network.name=hasnt", "network.name must be one of hasn, lmswn, mafdn, idsa_net; got 'hasnt'"),
        ("steps=0", "steps must be 1 or more; got 0"),
        ("steps=many", "steps must be a whole number; got 'many'"),
        ("steps=1.5", "steps must be a whole number; got 1.5"),
        ("seed=true", "seed must be a whole number; got True"),
        ("optimiser.lr=nan", "optimiser.lr must be 0 or more; got nan"),
        ("optimiser.betas=[0.9]", "optimiser.betas must be 2 values; got [0.9]"),
        ("data.flips=1", "data.flips must be true or false; got 1"),
        ("data.train=[1]", "data.train must be text in quotes; got 1"),
        ("network=3", "network must be a table; got 3"),
        ("stages=[]", "stages must be tables"),
        ("stages=[{stepz=1}]", "unknown setting stages.0.stepz; did you mean stages.0.steps?"),
        ("stages=[{times=0}]", "stages.0.times must be a whole number from 1 to 1000; got 0"),
        ("seed=4294967296", "seed must be 4294967295 or less; got 4294967296"),
        ("threads=100000", "threads must be 1024 or less; got 100000"),
        ("average=1.5", "average must be less than 1; got 1.5"),
        ("optimiser.betas=[0.9, 1.0]", "optimiser.betas must be less than 1; got 1.0"),
        ("schedule.milestones=[-5]", "schedule.milestones must be 0 or more; got -5"),
        ("nothing", "--set takes key=value"),
        ("seed.x=1", "--set seed.x: seed is a value, not a table"),
    ],
)
def test_slips_are_told_in_one_line(override: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("seed = 1\n")
    with pytest.raises(InputError, match=re.escape(message)):
        read_config(path, [override])


@pytest.mark.parametrize("text", ["steps = ", "\xff\xfe", "a = 1\na = 2"])
def test_what_is_no_toml_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"c\.toml: cannot be read as TOML"):
        read_config(path)


def test_a_recipe_of_no_such_name_and_a_file_that_is_not_there() -> None:
    with pytest.raises(InputError, match=r"no recipe of that name; did you mean hasn_x4\? Recipes are .*mafdn_x3"):
        read_config("hasm_x4")
    with pytest.raises(InputError, match=r"nowhere\.toml: cannot be read"):
        read_config("nowhere.toml")


def test_overrides_take_the_place_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        "steps = 5\n[network]\nname = 'mafdn'\n[[stages]]\n[[stages]]\nsteps = 7\n[stages.optimiser]\nlr = 1.0"
    )
    config = read_config(
        path, ["data.train=a b", "data.validate=['x', 'y']", "stages.0.steps=3", "optimiser.weight_decay=0.5"], "out"
    )
    assert (config.data.train, config.data.validate) == (("a b",), ("x", "y"))
    assert [stage.steps for stage in config.stages] == [3, 7]
    assert [stage.optimiser.lr for stage in config.stages] == [2e-4, 1.0]
    assert [stage.optimiser.weight_decay for stage in config.stages] == [0.5, 0.5]
    assert (config.network.name, config.output, config.steps) == ("mafdn", "out", 10)


def test_every_network_and_scale_has_a_recipe() -> None:
    wanted = {f"{name}_x{scale}" for name in REGISTRY if name != "bicubic" for scale in SCALES}
    assert set(recipes()) == {*wanted, "short", "cpu"}


@pytest.mark.parametrize("name", recipes())
def test_recipes_build_and_print_to_what_they_are(name: str) -> None:
    config = read_config(name)
    assert config.output == f"runs/{name}"
    assert from_table(tomllib.loads(as_toml(config))) == config
    if name not in ("short", "cpu"):
        assert name == f"{config.network.name}_x{config.network.scale}"
    net = lightsr.create(config.network.name, config.network.scale, **config.network.options)
    assert net.scale == config.network.scale
    for stage in config.stages:
        assert stage.schedule.name != "multi_step" or max(stage.schedule.milestones) < stage.steps


def test_the_published_recipe_is_as_published() -> None:
    first = read_config("hasn_x4").stages[0]
    assert (first.steps, first.batch, first.patch) == (500_000, 128, 48)
    assert (first.optimiser.name, first.optimiser.lr, first.optimiser.betas) == ("adam", 2e-4, (0.9, 0.99))
    rates = [share_of_rate(first.schedule, step, first.steps) for step in (0, 249_999, 250_000, 474_999, 475_000)]
    assert rates == [1, 1, 0.5, 0.125, 0.0625]


def test_print_config_needs_neither_pictures_nor_lightning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "idsa_net_x2", "--set", "seed=7", "--max-time", "30", "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert from_table(tomllib.loads(printed)) == read_config("idsa_net_x2", ["seed=7", "max_minutes=30"])
    code = "import sys; from lightsr.cli import main; main(['train', 'short', '--print-config']); "
    code += "print('lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


def test_cosine_falls_from_all_to_the_lowest() -> None:
    schedule = Schedule(name="cosine", lowest=0.1)
    assert share_of_rate(schedule, 0, 101) == 1
    assert share_of_rate(schedule, 50, 101) == pytest.approx(0.55)
    assert share_of_rate(schedule, 100, 101) == pytest.approx(0.1)


def test_warm_up_rises_in_a_line_to_whatever_follows() -> None:
    schedule = Schedule(name="multi_step", milestones=(0.5,), factor=0.1, warm_up=4)
    rates = [share_of_rate(schedule, step, 10) for step in range(6)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.1])


def test_a_constant_rate_stays() -> None:
    assert {share_of_rate(Schedule(name="constant"), step, 10) for step in range(10)} == {1.0}
