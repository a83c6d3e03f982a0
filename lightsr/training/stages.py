"""The stages one after another: each is one fit of Lightning, from the weights of the stage before."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from torch.utils.data import DataLoader

from ..errors import InputError
from ..networks import SRNetwork
from ..shares import rank_and_ranks
from .batches import Batches, Sampler
from .cache import cached_pictures
from .config import as_toml
from .files import LAST, WEIGHTS, WholeFiles, read_checkpoint, save_weights
from .journal import Journal
from .keeper import Keeper, facts_of
from .module import Training
from .overlap import refuse_overlap, refuse_test_sets
from .pictures import Pictures, find_pictures, load_pictures
from .run import Result, machine_of, place_of, save_config, trainer_options
from .settings import Config
from .start import keep_freed_memory, make_network, start_from, warm_up
from .state import State
from .stopping import Stop, leave_to_parent, stopping


def run_stages(config: Config, folder: Path, fresh: bool, quiet: bool, stack: ExitStack) -> Result:
    """All that is left of a training; see `lightsr.training.run.train`."""
    rank, ranks = rank_and_ranks()
    for stage in config.stages:
        if stage.batch % ranks:
            raise InputError(f"batch = {stage.batch} cannot be shared by {ranks} processes; take a multiple of {ranks}")
    device = place_of(config)
    if device.type == "cpu":
        keep_freed_memory()
    net = make_network(config.network, config.seed)
    state = State(machine=machine_of(device))
    saved = None if fresh or not (folder / LAST).exists() else read_checkpoint(folder / LAST)
    step = 0 if saved is None else _return_to(saved, config, state)
    journal = Journal(folder, quiet, rank == 0)
    stack.callback(journal.close)
    if saved is not None:
        changes = _changes(saved["lightsr"]["config"], as_toml(config), saved["lightsr"]["stage"])
        try:
            net.load_state_dict(saved["averaged"])  # for the next stage; one that goes on has its own from Lightning
        except RuntimeError as error:
            raise InputError(f"{folder / LAST}: of another version of {net.title}; --fresh starts anew") from error
        for line in (f"goes on from step {state.before + step} of {config.steps}", *changes):
            journal.say(line)
    elif config.init:
        journal.say(start_from(net, Path(config.init)))
    if state.before + step < config.steps:
        pictures = _pictures(config, device)
        parameters = sum(each.numel() for each in net.parameters())
        journal.say(f"{len(pictures.names)} pictures, {parameters:,} parameters, {state.machine}")
        if rank == 0:
            save_config(config, folder)
        warm_up(net, device)
        journal.begin(state.before + step, config.report.tensorboard)  # not before all else has proved right
        with stopping() as stop:
            run = _Run(config, folder, state, journal, pictures, stop, device)
            step = run.stages(net, step)
            if step < config.stages[state.stage].steps:
                number = stop.signal if run.end == "signal" else None
                return Result(state.before + step, config.steps, folder / WEIGHTS, number)
    weights = folder / f"{config.network.name}_x{config.network.scale}.safetensors"
    if rank == 0:
        save_weights(weights, net.state_dict(), facts_of(config, state, step), half=True, folded=True)
        journal.say(f"done: {weights}")
    return Result(config.steps, config.steps, weights)


class _Run:
    """What all stages share."""

    def __init__(
        self,
        config: Config,
        folder: Path,
        state: State,
        journal: Journal,
        pictures: Pictures,
        stop: Stop,
        device: torch.device,
    ) -> None:
        self.config = config
        self.folder = folder
        self.state = state
        self.journal = journal
        self.pictures = pictures
        self.stop = stop
        self.device = device
        self.end: str | None = None

    def stages(self, net: SRNetwork, step: int) -> int:
        """Trains from a step of the state's stage on, and returns the step of the stage it ends in.

        When that is the last stage's last one, `net` has the averaged weights.
        """
        while True:
            steps = self.config.stages[self.state.stage].steps
            if step < steps:
                step = self.fit(net, step)
            if step < steps or self.state.stage + 1 == len(self.config.stages):
                return step
            if self.journal.first:
                done = self.folder / f"stage{self.state.stage + 1}.safetensors"
                facts = facts_of(self.config, self.state, step)
                save_weights(done, net.state_dict(), facts, half=False, folded=False)
            self.state.before += steps
            self.state.stage += 1
            step = 0
            self.journal.say(f"stage {self.state.stage + 1} of {len(self.config.stages)}, from the averaged weights")

    def fit(self, net: SRNetwork, step: int) -> int:
        """One stage, from a step on; afterwards `net` has the averaged weights."""
        data, stage = self.config.data, self.config.stages[self.state.stage]
        sampler = Sampler.over(
            self.pictures, self.config.seed, self.state.stage, stage.patch, stage.batch, data.flips, data.rotations
        )
        batches = Batches(self.pictures, sampler, range(step, stage.steps), *rank_and_ranks())
        module = Training(net, stage, self.config.average)
        keeper = Keeper(self.config, self.folder, self.state, self.journal, batches, self.stop)
        trainer = lightning.Trainer(
            max_steps=stage.steps,
            max_epochs=-1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            gradient_clip_val=stage.optimiser.clip or None,
            callbacks=[keeper],
            plugins=[WholeFiles()],
            **trainer_options(self.config, self.device),
        )
        trainer.fit(
            module,
            _loader(batches, data.workers, self.config.seed),
            ckpt_path=self.folder / LAST if step else None,
            weights_only=True,
        )
        self.end = keeper.end
        net.load_state_dict(module.averaged)
        return trainer.global_step


def _loader(batches: Batches, workers: int, seed: int) -> DataLoader[Any]:
    return DataLoader(
        batches,
        batch_size=None,
        num_workers=workers,
        worker_init_fn=leave_to_parent if workers else None,
        persistent_workers=False,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available() and batches.pictures.hr.values.device.type == "cpu",
        generator=torch.Generator().manual_seed(seed),  # of its own, or making it would move the global one
    )


def _return_to(saved: dict[str, Any], config: Config, state: State) -> int:
    """Puts the state to where a checkpoint was saved, and returns the step of its stage."""
    told = saved["lightsr"]
    state.stage, state.pictures, state.seconds = told["stage"], told["pictures"], told["seconds"]
    if state.stage >= len(config.stages):
        raise InputError(
            f"the checkpoint is of stage {state.stage + 1}, and the configuration has {len(config.stages)}; "
            "--fresh starts anew"
        )
    state.before = sum(stage.steps for stage in config.stages[: state.stage])
    step = int(saved["global_step"])
    if step > config.stages[state.stage].steps:
        raise InputError(
            f"the checkpoint has done {step} steps of stage {state.stage + 1}, and the configuration has "
            f"{config.stages[state.stage].steps}; steps = {step} ends it there, --fresh starts anew"
        )
    if step == config.stages[state.stage].steps and state.stage + 1 < len(config.stages):
        state.before += step
        state.stage, step = state.stage + 1, 0
    return step


def _changes(before: str, now: str, stage: int) -> list[str]:
    """Which settings are not those of the checkpoint; InputError for what cannot be changed in a stage any more."""
    import tomllib

    from .config import flat

    old, new = flat(tomllib.loads(before)), flat(tomllib.loads(now))
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key) and key != "max_minutes"]
    for key in changed:
        fixed = [f"stages.{done}.steps" for done in range(stage)]
        if key in fixed or (key.startswith("network.") and key != "network.use_fused"):
            raise InputError(
                f"{key} was {old.get(key)!r} in the checkpoint and is {new.get(key)!r}; --fresh starts anew"
            )
    return [f"{key} is {new.get(key)!r} from here on; it was {old.get(key)!r}" for key in changed]


def _pictures(config: Config, device: torch.device) -> Pictures:
    refuse_test_sets(config.data.train)
    if config.data.place == "device" and config.data.workers:
        raise InputError("data.place = device cuts patches where training runs; it takes data.workers = 0")
    patch = max(stage.patch for stage in config.stages)
    with ExitStack() as stack:
        sources = find_pictures(config.data.train, stack)
        load = load_pictures if config.data.cache == "memory" else cached_pictures
        pictures = load(sources, config.network.scale, patch, config.data.low_resolution == "cached")
    refuse_overlap(pictures, config.data.validate, config.network.scale)
    return pictures.to(device) if config.data.place == "device" else pictures
