"""The learning rate of a step: a function of the step alone, so that a resumed training has the same."""

from __future__ import annotations

import bisect
import math

from .settings import Schedule


def share_of_rate(
    schedule: Schedule,
    step: int,  # from 0
    steps: int,  # of the stage
) -> float:
    """What the learning rate is multiplied by at a step.

    Example:
        >>> from lightsr.training.settings import Schedule
        >>> share_of_rate(Schedule(milestones=(0.5,)), step=500, steps=1000)
        0.5
    """
    rise = min((step + 1) / schedule.warm_up, 1.0) if schedule.warm_up else 1.0
    if schedule.name == "cosine":
        turn = (1 + math.cos(math.pi * min(step / max(steps - 1, 1), 1.0))) / 2
        return rise * (schedule.lowest + (1 - schedule.lowest) * turn)
    if schedule.name == "multi_step":
        marks = sorted(each * steps if each < 1 else each for each in schedule.milestones)
        return rise * float(schedule.factor ** bisect.bisect_right(marks, step))
    return rise
