"""What a training knows of itself beside its tensors: where it is, what it has cost, the random generators."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch


@dataclass
class State:
    """Where a training is; saved in its checkpoint."""

    stage: int = 0
    before: int = 0  # steps of the stages before
    pictures: int = 0  # patches seen
    seconds: float = 0.0  # of training, over all calls
    machine: str = ""
    started: float = field(default_factory=time.monotonic)  # this call

    def saved(self, config: str) -> dict[str, Any]:
        """For the checkpoint; plain values only."""
        return {
            "config": config,
            "stage": self.stage,
            "pictures": self.pictures,
            "seconds": self.seconds,
            "machine": self.machine,
            "random": random_states(),
        }


def random_states() -> dict[str, Any]:
    """Every generator that could be asked during training."""
    kind, words, position, has_gauss, gauss = np.random.get_state()  # the global one, whoever uses it
    return {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(words).astype(np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Puts the generators back; those of GPUs only where there are as many."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
