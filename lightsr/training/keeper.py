"""After each step: the average, a look at the loss, the log, validation, the checkpoint, and whether to stop."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch

from ..errors import InputError
from ..evaluate import evaluate
from .batches import Batches
from .config import as_toml
from .files import LAST, WEIGHTS, save_weights
from .journal import LOG, VALIDATION, Journal
from .module import Training
from .settings import Config
from .state import State, set_random_states
from .stopping import Stop

ADVICE = "a lower optimiser.lr, optimiser.clip or precision = fp32 may help"


class Keeper(lightning.Callback):
    """Lightning's callback of a stage; `end` says why that ended before its last step: a signal, the time, or not."""

    def __init__(
        self,
        config: Config,
        folder: Path,
        state: State,
        journal: Journal,
        batches: Batches,
        stop: Stop,
    ) -> None:
        self.config = config
        self.folder = folder
        self.state = state
        self.journal = journal
        self.batches = batches
        self.stop = stop
        self.end: str | None = None
        self.validator: Any = None
        self.lap = time.monotonic()  # since when seconds are not in the state yet
        self.line = (0, 0.0)  # pictures and seconds at the last line of the log

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Takes the signals back from Lightning."""
        self.stop.listen()
        self.lap = time.monotonic()
        self.line = (self.state.pictures, self.state.seconds)

    def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        """The random generators of the checkpoint."""
        set_random_states(checkpoint["lightsr"]["random"])

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        """Where the training is goes into the checkpoint."""
        checkpoint["lightsr"] = self.state.saved(as_toml(self.config))

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Everything that follows a step, in the order that keeps a broken step out of every file."""
        assert isinstance(module, Training)
        report, step = self.config.report, trainer.global_step
        now = time.monotonic()
        self.state.seconds, self.lap = self.state.seconds + now - self.lap, now
        self.state.pictures += module.stage.batch
        module.average()
        last = step >= module.stage.steps
        ending = last or self._ending(trainer, step)
        logging, validating = step % report.log_every == 0 or last, step % report.validate_every == 0 or last
        saving = ending or step % report.save_every == 0
        if logging or validating or saving or module.device.type == "cpu":
            self._look(trainer, module)
        if logging:
            self._log(module, step)
        if validating and self.config.data.validate:
            self._validate(module, step)
        if saving:
            self.save(trainer, module, step)
        if ending and not last:
            trainer.should_stop = True
        self.lap = time.monotonic() if validating or saving else self.lap

    def save(self, trainer: lightning.Trainer, module: Training, step: int) -> None:
        """The checkpoint, then the weights; neither when a step has made numbers of them that are not finite."""
        values = [*module.net.parameters(), *(each for each in module.averaged.values() if each.is_floating_point())]
        if not bool(torch.stack([each.detach().isfinite().all() for each in values]).all()):
            raise InputError(
                f"the weights after step {self.state.before + step} are not finite; nothing of them was saved; {ADVICE}"
            )
        trainer.save_checkpoint(self.folder / LAST)
        if trainer.is_global_zero:
            facts = facts_of(self.config, self.state, step)
            save_weights(self.folder / WEIGHTS, module.averaged, facts, half=False, folded=False)

    def _ending(self, trainer: lightning.Trainer, step: int) -> bool:
        """Whether to stop here; of several processes all must, or the others would wait for ever."""
        minutes = (time.monotonic() - self.state.started) / 60
        if self.stop.signal is not None:
            self.end = "signal"
        elif 0 < self.config.max_minutes <= minutes:
            self.end = "time"
        if trainer.world_size > 1:
            code = torch.tensor([None, "time", "signal"].index(self.end), device=trainer.strategy.root_device)
            torch.distributed.all_reduce(code, torch.distributed.ReduceOp.MAX)
            self.end = (None, "time", "signal")[int(code)]
        return self.end is not None

    def _look(self, trainer: lightning.Trainer, module: Training) -> None:
        """Ends the training when a loss was not finite, in whichever process; what was saved is from before."""
        broken = module.broken_at.clone()
        if trainer.world_size > 1:
            torch.distributed.all_reduce(broken, torch.distributed.ReduceOp.MAX)
        step = int(broken)
        if step < 0:
            return
        cuts = self.batches.sampler.cuts(step)
        names = [f"{self.batches.pictures.names[cut.picture]} at {cut.left},{cut.top}" for cut in cuts]
        raise InputError(
            f"the loss of step {self.state.before + step + 1} is not finite; nothing of it was saved. Its batch: "
            f"{', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}; "
            f"{ADVICE}"
        )

    def _log(self, module: Training, step: int) -> None:
        pictures, seconds = self.line
        loss = module.mean_loss()
        rate = module.trainer.optimizers[0].param_groups[0]["lr"]
        speed = (self.state.pictures - pictures) / max(self.state.seconds - seconds, 1e-9)
        self.line = (self.state.pictures, self.state.seconds)
        total = self.state.before + step
        values = {
            "step": total,
            "stage": self.state.stage,
            "loss": f"{loss:.6g}",
            "lr": f"{rate:.6g}",
            "pictures": self.state.pictures,
            "seconds": f"{self.state.seconds:.1f}",
            "pictures_per_second": f"{speed:.2f}",
        }
        self.journal.row(LOG, values, {"loss": loss, "lr": rate, "pictures_per_second": speed})
        left = (self.config.steps - total) * module.stage.batch / speed
        self.journal.say(
            f"step {total}/{self.config.steps}  loss {loss:.5f}  lr {rate:.3g}  {speed:.1f} pictures/s  "
            f"{left / 3600:.1f} h left"
        )

    def _validate(self, module: Training, step: int) -> None:
        """PSNR and SSIM of the averaged weights by `lightsr evaluate`; the first process alone measures."""
        if not self.journal.first:
            return
        if self.validator is None:
            self.validator = copy.deepcopy(module.net).requires_grad_(False)
        self.validator.load_state_dict(module.averaged)
        places, scale = self.config.data.validate, self.config.network.scale
        try:
            result = evaluate(places, [self.validator], scale, device=module.device, quiet=True)
        except InputError as error:  # it was there at the start; the training is worth more than a figure
            self.journal.say(f"no validation at step {self.state.before + step}: {error}")
            return
        for path, problem in result.failed:
            self.journal.say(f"{path} is left out of validation: {problem}")
        total = self.state.before + step
        for mean in result.means():
            values = {
                "step": total,
                "stage": self.state.stage,
                "dataset": mean.dataset,
                "psnr": f"{mean.psnr:.4f}",
                "ssim": f"{mean.ssim:.5f}",
                "pictures": self.state.pictures,
                "seconds": f"{self.state.seconds:.1f}",
            }
            self.journal.row(VALIDATION, values, {f"psnr/{mean.dataset}": mean.psnr, f"ssim/{mean.dataset}": mean.ssim})
            self.journal.say(f"step {total}: {mean.dataset} {mean.psnr:.3f} dB / {mean.ssim:.4f}")


def facts_of(config: Config, state: State, step: int) -> dict[str, str]:
    """What the metadata of weights says."""
    return {
        "network": config.network.name,
        "scale": str(config.network.scale),
        "recipe": Path(config.output).name,
        "steps": str(state.before + step),
        "pictures": str(state.pictures),
        "hours": f"{state.seconds / 3600:.3f}",
        "machine": state.machine,
    }
