"""Timing side by side: rounds of one call each, in rotating order, so that a busy minute hits everyone alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Seconds between calls, for the threads of the last one to go to sleep: those of GNU OpenMP, which PyTorch has, go on
# spinning for 9 ms on a processor of 4 GHz. Were they told not to (OMP_WAIT_POLICY=passive), each of the hundreds of
# calls in a training step would wake them again, which nobody's own training does.
PAUSE = 0.015
SHORT = 0.02  # seconds; such a call is made once just before it is timed, for what the pause costs is not its own
SLOW = 8  # times the fastest: such a one is called less often,
SHARE = 0.2  # for so many seconds


@dataclass
class Rounds:
    """Times of several calls, by name, in seconds. A call that returns a float tells its time itself."""

    calls: Mapping[str, Callable[[], Any]]
    wait: Callable[[], None] = field(default=lambda: None)  # for the device to have finished
    repeat: int = 1  # calls that are timed together, for devices that take them in a queue
    yardsticks: tuple[str, ...] = ()  # calls that are no contenders, and take part in every round
    times: dict[str, list[float]] = field(default_factory=dict)
    short: set[str] = field(default_factory=set)

    def once(self, name: str) -> float:
        time.sleep(PAUSE)
        if name in self.short:
            self.calls[name]()
            self.wait()
        start = time.perf_counter()
        for _ in range(self.repeat):
            result = self.calls[name]()
        self.wait()
        return result if isinstance(result, float) else (time.perf_counter() - start) / self.repeat

    def run(self, seconds: float, least: int = 5, most: int = 200) -> Rounds:
        """Rounds until the time is used up; much slower calls take part in the first of them alone."""
        first = {name: self.once(name) for name in self.calls}  # warms caches up, and tells who is slow
        fastest = min((first[name] for name in self.calls if name not in self.yardsticks), default=0.0)
        self.short = {name for name, taken in first.items() if taken < SHORT}
        turns = dict.fromkeys(self.calls, most)
        for name, taken in first.items():
            if taken > SLOW * fastest and name not in self.yardsticks:
                turns[name] = max(1, min(least, int(SHARE / taken)))
        self.times = {name: [] for name in self.calls}
        end = time.perf_counter() + seconds
        for turn in range(most):
            if turn >= least and time.perf_counter() > end:
                break
            names = [name for name in self.calls if turn < turns[name]]
            shift = turn % len(names)
            for name in names[shift:] + names[:shift]:
                self.times[name].append(self.once(name))
        return self

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(self.times[name]) for name in self.calls}
