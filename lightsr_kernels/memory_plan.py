"""Where tensors that do not all live at once lie in one piece of memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .memory import LINE


@dataclass(frozen=True)
class Lifetime:
    """The steps that first and last touch so many bytes, both included."""

    first: int
    last: int
    size: int


def placed(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """The first byte of each, and how many bytes they take together: no two overlap both in time and in memory.

    In the order of their first steps, each takes the smallest gap among those alive that holds it, the lowest of equal
    ones, or else goes behind them.

    Example:
        >>> from lightsr_kernels.memory_plan import Lifetime, placed
        >>> placed([Lifetime(0, 1, 640), Lifetime(1, 2, 64), Lifetime(2, 3, 600)])
        ([0, 640, 0], 704)
    """
    places = [0] * len(lifetimes)
    alive: list[int] = []
    total = 0
    for number in sorted(range(len(lifetimes)), key=lambda each: (lifetimes[each].first, -lifetimes[each].size)):
        own = lifetimes[number]
        alive = [each for each in alive if lifetimes[each].last >= own.first]
        size, gaps, end = _rounded(own.size), [], 0
        for other in sorted(alive, key=places.__getitem__):
            if places[other] - end >= size:
                gaps.append((places[other] - end, end))
            end = max(end, places[other] + _rounded(lifetimes[other].size))
        places[number] = min(gaps)[1] if gaps else end
        alive.append(number)
        total = max(total, places[number] + size)
    return places, total


def _rounded(size: int) -> int:
    return -(-size // LINE) * LINE
