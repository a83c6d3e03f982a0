"""The network under training, as Lightning runs it: a step, the optimiser, the averaged weights."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as lightning
import torch
from torch import Tensor

from ..networks import SRNetwork
from .batches import finished
from .losses import loss_of
from .optimiser import optimiser_of
from .schedule import share_of_rate
from .settings import Stage


def ramped(
    decay: float,
    step: int,  # from 1
) -> float:
    """The average's decay after a step of a stage: smaller at first, so that a short one does not keep its beginning.

    Example:
        >>> from lightsr.training.module import ramped
        >>> ramped(0.999, 1), ramped(0.999, 100_000)
        (0.18181818181818182, 0.999)
    """
    return min(decay, (1 + step) / (10 + step))


class Training(lightning.LightningModule):
    """One stage's training of a network.

    `averaged` holds the running average (EMA) of every parameter after each step: what is evaluated and written out.
    `broken_at` is the first step with a loss that is not finite, -1 while there is none; it stays on the device, so
    that looking at every loss does not stop a GPU.
    """

    def __init__(self, net: SRNetwork, stage: Stage, decay: float) -> None:
        super().__init__()
        self.net = net
        self.stage = stage
        self.decay = decay
        self.averaged = {name: value.detach().clone() for name, value in net.state_dict().items()}
        self.loss_of = loss_of(stage.loss)
        self.loss_sum, self.losses = torch.zeros(()), 0
        self.broken_at = torch.tensor(-1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of one batch of `Batches`."""
        lr, hr = finished(*batch, self.net.scale)
        loss: Tensor = self.loss_of(self.net(lr.float() / 255), hr.float() / 255)
        seen = loss.detach()
        self.loss_sum += seen
        self.losses += 1
        broken = ~seen.isfinite() & (self.broken_at < 0)
        self.broken_at = torch.where(broken, torch.full_like(self.broken_at, self.global_step), self.broken_at)
        return loss

    def on_fit_start(self) -> None:
        """What is no parameter goes to the device too."""
        self.averaged = {name: value.to(self.device) for name, value in self.averaged.items()}
        self.loss_sum, self.broken_at = self.loss_sum.to(self.device), self.broken_at.to(self.device)

    def on_train_start(self) -> None:
        """The optimiser's settings are the configuration's, also where a checkpoint has brought back others."""
        optimiser = self.trainer.optimizers[0]
        fresh = optimiser_of(self.net, self.stage.optimiser).param_groups
        for group, wanted in zip(optimiser.param_groups, fresh, strict=True):
            group.update({name: value for name, value in wanted.items() if name != "params"})

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Sets the learning rate of this step."""
        rate = self.stage.optimiser.lr * share_of_rate(self.stage.schedule, self.global_step, self.stage.steps)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam or AdamW; what folds away does not decay, because its zero is a neutral value and not a small one."""
        return optimiser_of(self.net, self.stage.optimiser)

    def mean_loss(self) -> float:
        """The mean since it was asked for last."""
        mean = float(self.loss_sum) / max(self.losses, 1)
        self.loss_sum.zero_()
        self.losses = 0
        return mean

    @torch.no_grad()
    def average(self) -> None:
        """Takes the parameters of now into the average; with a decay of 0 they are it."""
        current = self.net.state_dict()
        pairs = [(self.averaged[name], value) for name, value in current.items() if value.is_floating_point()]
        decay = ramped(self.decay, self.global_step)
        torch._foreach_lerp_([old for old, _ in pairs], [new for _, new in pairs], 1 - decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The average goes into the checkpoint."""
        checkpoint["averaged"] = {name: value.cpu() for name, value in self.averaged.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """And comes back."""
        self.averaged = dict(checkpoint["averaged"])
