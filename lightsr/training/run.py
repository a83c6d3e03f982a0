"""`lightsr train`: every stage of a configuration, from where the last checkpoint stopped."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from ..devices import choose_device, machine
from ..errors import InputError
from ..files import reason, replacing
from ..memory import is_out_of_memory
from ..shares import rank_and_ranks
from .config import as_toml
from .settings import Config


@dataclass(frozen=True)
class Result:
    """How a call of `train` ended."""

    steps: int  # done, over all stages and calls
    total: int  # of the configuration
    weights: Path  # what was written last
    signal: int | None = None  # that ended it before the last step

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.steps >= self.total


def train(config: Config, *, fresh: bool = False, quiet: bool = False) -> Result:
    """Trains a network, or goes on with a training that was stopped.

    Args:
        config: from `lightsr.training.config.read_config`.
        fresh: begins anew where the output folder has a checkpoint already.
        quiet: prints no progress.

    Returns:
        The steps done, and the weights written last: the averaged ones as `weights.safetensors` at every save, and
        folded in float16 as `NETWORK_xSCALE.safetensors` when all steps are done.

    On the CPU, and on one GPU, a training stopped at any step and resumed ends with the same bits as one that was not.
    Under torchrun each process takes its share of every batch.

    Raises InputError in one line: pictures, weights or checkpoints that cannot be used, a full disk, a loss that is
    not finite.

    Example:
        >>> from lightsr.training.config import read_config
        >>> from lightsr.training.run import train
        >>> train(read_config("hasn_x4", ["data.train=DIV2K"]))  # doctest: +SKIP
    """
    require_lightning()
    from .stages import run_stages

    if config.threads:
        torch.set_num_threads(config.threads)
    with ExitStack() as stack, _lightning_silent():
        folder = Path(config.output)
        if rank_and_ranks()[0] == 0:
            stack.enter_context(_own(folder))
        with _one_line():
            return run_stages(config, folder, fresh, quiet, stack)


def require_lightning() -> None:
    """Says in one line what to install when Lightning is not there."""
    try:
        import lightning.pytorch  # noqa: F401  # is it there, and does it load
    except ImportError as error:
        raise InputError(f"training needs Lightning ({error}): pip install 'lightsr[train]'") from error


@contextmanager
def _own(folder: Path) -> Iterator[None]:
    """The output folder, for this training alone; what a killed one left half-written is removed."""
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{folder}: another training is writing there; give another output") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{folder}: cannot be written to: {reason(error)}") from error
    try:
        for left in folder.glob(".*.tmp-*"):
            left.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


@contextmanager
def _one_line() -> Iterator[None]:
    """What Lightning and DataLoader raise for the machine's troubles, as InputError."""
    try:
        yield
    except (EOFError, ConnectionError) as error:  # it died while its patches were being handed over
        raise _worker_died(error) from error
    except (RuntimeError, MemoryError) as error:
        if "DataLoader worker" in str(error):
            raise _worker_died(error) from error
        if is_out_of_memory(error):
            raise InputError("not enough memory; a smaller batch, patch or network may fit") from error
        raise


def _worker_died(error: BaseException) -> InputError:
    return InputError(
        f"a process that cuts patches died ({reason(error)}); the last checkpoint stands, the same command goes on "
        "from it; data.workers = 0 does without such processes"
    )


@contextmanager
def _lightning_silent() -> Iterator[None]:
    """Lightning tells of itself by logging and warnings; what users need to know is told by ours."""
    names = ("lightning", "lightning.pytorch", "lightning.fabric")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message="This DataLoader will create .* worker processes")
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def save_config(config: Config, folder: Path) -> None:
    """The settings as they are run, beside the results."""
    with replacing(folder / "config.toml") as temporary:
        temporary.write_text(as_toml(config), encoding="utf-8")


def place_of(config: Config) -> torch.device:
    """The device of this process; refuses what cannot train."""
    device = choose_device(config.device)
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"training runs on cpu and cuda; got device {config.device!r}")
    if config.precision in ("fp16", "tf32") and device.type != "cuda":
        raise InputError(f"precision {config.precision} needs a GPU; on the CPU take fp32 or bf16")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        number, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= count:
            raise InputError(
                f"process {number} of torchrun has no GPU: there are {count}; take --nproc-per-node {count}"
            )
        device = torch.device("cuda", number)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def trainer_options(config: Config, device: torch.device) -> dict[str, Any]:
    """What Lightning's Trainer must be told of the device and of torchrun's processes; anew for each Trainer."""
    options: dict[str, Any] = {
        "accelerator": "gpu" if device.type == "cuda" else "cpu",
        "precision": {"bf16": "bf16-mixed", "fp16": "16-mixed"}.get(config.precision, "32-true"),
        "devices": [device.index or 0] if device.type == "cuda" else 1,
    }
    ranks = rank_and_ranks()[1]
    if ranks > 1:
        if "TORCHELASTIC_RUN_ID" not in os.environ:  # nobody would bring the processes together
            raise InputError(
                f"WORLD_SIZE is {ranks} without torchrun; start the processes with it, or unset WORLD_SIZE"
            )
        from lightning.pytorch.strategies import DDPStrategy

        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        backend = "nccl" if device.type == "cuda" else "gloo"
        # The others wait while the first one validates, however long that takes.
        strategy = DDPStrategy(process_group_backend=backend, gradient_as_bucket_view=True, timeout=timedelta(days=1))
        options |= {"devices": local, "num_nodes": ranks // local, "strategy": strategy}
    return options


def machine_of(device: torch.device) -> str:
    """The machine, and how many of it."""
    ranks = rank_and_ranks()[1]
    return machine(device) + (f", {ranks} processes" if ranks > 1 else "")
