"""What a training is made of: the tables and keys of a configuration, with their defaults and what they accept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


def least(value: float, default: Any, most: float | None = None, below: float | None = None) -> Any:
    """A field whose numbers must be at least `value`, and at most `most` or below `below` where that is given."""
    return field(default=default, metadata={"least": value, "most": most, "below": below})


@dataclass(frozen=True)
class Network:
    """The network, and which kernels its blocks run on."""

    name: Literal["hasn", "lmswn", "mafdn", "idsa_net"] = "hasn"
    scale: Literal[2, 3, 4] = 4
    use_fused: bool = True  # the blocks on lightsr_kernels ops; false: plain PyTorch
    options: dict[str, Any] = field(default_factory=dict)  # arguments of the network's class, such as blocks = 8


@dataclass(frozen=True)
class Data:
    """Where the pictures are, and how patches are cut from them."""

    train: tuple[str, ...] = ()  # folders of high-resolution pictures, or packed files; one named twice counts twice
    validate: tuple[str, ...] = ()  # folders of high-resolution pictures
    flips: bool = True
    rotations: bool = True  # by 90 degrees
    low_resolution: Literal["cached", "device"] = "cached"  # made once for whole pictures, or for each batch
    cache: Literal["memory", "disk"] = "memory"  # disk: decoded once into the cache folder, and mapped from there
    place: Literal["memory", "device"] = "memory"  # where the pictures lie while patches are cut
    workers: int = least(0, 0)  # processes that cut patches; 0: the training process itself


@dataclass(frozen=True)
class Loss:
    """The loss of a batch: a distance of pixels, and one of spectra when its weight is above 0."""

    name: Literal["l1", "charbonnier"] = "l1"
    epsilon: float = least(1e-12, 1e-3)  # of Charbonnier, in units of 0..1
    frequency: float = least(0, 0.0)  # weight of the L1 distance of Fourier transforms


@dataclass(frozen=True)
class Optimiser:
    """Adam, or AdamW, whose decay is not of gradients but of weights."""

    name: Literal["adam", "adamw"] = "adam"
    lr: float = least(0, 2e-4)
    betas: tuple[float, float] = least(0, (0.9, 0.99), below=1)
    weight_decay: float = least(0, 0.0)
    clip: float = least(0, 0.0)  # largest norm of all gradients together; 0: any


@dataclass(frozen=True)
class Schedule:
    """The learning rate over the steps of a stage."""

    name: Literal["constant", "multi_step", "cosine"] = "multi_step"
    milestones: tuple[float, ...] = least(0, ())  # of multi_step: steps, or shares of the stage when below 1
    factor: float = least(0, 0.5)  # of multi_step, at each milestone
    lowest: float = least(0, 0.0)  # of cosine: the last step's rate, as a share of lr
    warm_up: int = least(0, 0)  # steps of linear rise to lr


@dataclass(frozen=True)
class Stage:
    """A part of the training that begins with a new optimiser and schedule, from the weights of the part before."""

    steps: int = least(1, 500_000)
    patch: int = least(16, 48)  # side in low-resolution pixels
    batch: int = least(1, 16)  # patches a step, over all devices together
    loss: Loss = field(default_factory=Loss)
    optimiser: Optimiser = field(default_factory=Optimiser)
    schedule: Schedule = field(default_factory=Schedule)


@dataclass(frozen=True)
class Report:
    """What is written down, how often."""

    log_every: int = least(1, 100)  # steps from one line to the next
    validate_every: int = least(1, 5000)  # steps
    save_every: int = least(1, 1000)  # steps; a checkpoint is also saved at every stop
    tensorboard: bool = True


@dataclass(frozen=True)
class Config:
    """A whole training."""

    output: str = ""  # folder of the run; empty: runs/NAME
    seed: int = least(0, 0, most=2**32 - 1)  # what numpy's generators take
    init: str = ""  # weights to start from; those of another scale give all but the last convolution
    average: float = least(0, 0.999, below=1)  # decay of the averaged (EMA) weights; 0: none
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    threads: int = least(0, 0, most=1024)  # of the CPU; 0: torch's choice
    max_minutes: float = least(0, 0.0)  # stop and save after that long; 0: never
    network: Network = field(default_factory=Network)
    data: Data = field(default_factory=Data)
    report: Report = field(default_factory=Report)
    stages: tuple[Stage, ...] = (Stage(),)

    @property
    def steps(self) -> int:
        """Of all stages together."""
        return sum(stage.steps for stage in self.stages)
