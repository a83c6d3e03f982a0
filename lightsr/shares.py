"""Work shared by the processes of torchrun: which pictures are whose, which device, and what is finished already."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from .errors import InputError
from .outputs import Job


def rank_and_ranks() -> tuple[int, int]:
    """The number of this process and how many there are, as torchrun tells them: 0 and 1 without it."""
    rank, ranks = _number("RANK", 0), _number("WORLD_SIZE", 1)
    if rank >= ranks:
        raise InputError(f"RANK is {rank} and WORLD_SIZE {ranks}; start the processes with torchrun, or unset both")
    return rank, ranks


def own_device(name: str | torch.device) -> str | torch.device:
    """Under torchrun, a GPU that goes by no number becomes this process's own; everything else stays as it is."""
    if rank_and_ranks()[1] > 1 and str(name) in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{_number('LOCAL_RANK', 0) % torch.cuda.device_count()}"
    return name


def share_of(jobs: Sequence[Job]) -> list[Job]:
    """The pictures of this process: every n-th, whatever is finished, so that all processes agree without a word."""
    rank, ranks = rank_and_ranks()
    return list(jobs[rank::ranks])


def is_finished(job: Job, weights: str | Path | None) -> bool:
    """Whether a result is there and newer than its picture and the weights. Results get their names when whole."""
    try:
        made = job.target.stat().st_mtime_ns
        sources = [job.source, *([] if weights is None else [Path(weights)])]
        return all(each.stat().st_mtime_ns <= made for each in sources)
    except OSError:
        return False


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    if not text:
        return default
    if not text.isdecimal():
        raise InputError(f"{variable} must be a whole number, as torchrun sets it; got {text!r}")
    return int(text)
