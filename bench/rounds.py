"""Timing side by side: rounds of one timed call each, in rotating order, so that a busy minute hits everyone alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Seconds between calls on a CPU, for the threads of the last one to go to sleep: GNU OpenMP's, which PyTorch has, go on
# spinning for 9 ms on a processor of 4 GHz. Were they told not to (OMP_WAIT_POLICY=passive), each of the hundreds of
# calls in a training step would wake them again, which nobody's own training does.
PAUSE = 0.02
# Seconds. Where the fastest takes less, each call is made before it is timed, again and again for a moment: what the
# pause costs is not the call's own, neither caches that others fill nor threads that sleep, on a virtual machine
# processors that the host has to give back: a call of 0.4 ms took 1.1 when made once before.
SHORT = 0.02
WARM = 0.03
MOST = 40  # rounds
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
    pause: float = PAUSE
    spent: float = 0.0  # seconds in all calls

    def once(self, name: str, warm: bool = False) -> float:
        time.sleep(self.pause)
        began = time.perf_counter()
        while warm:
            self.calls[name]()
            self.wait()
            warm = time.perf_counter() - began < WARM
        start = time.perf_counter()
        for _ in range(self.repeat):
            result = self.calls[name]()
        self.wait()
        end = time.perf_counter()
        self.spent += end - began
        return result if isinstance(result, float) else (end - start) / self.repeat

    def run(self, seconds: float, least: int = 5, most: int = MOST) -> Rounds:
        """Rounds until so much time is spent in calls; much slower ones take part in the first rounds alone."""
        first = {name: self.once(name) for name in self.calls}  # warms caches up, and tells who is slow
        fastest = min((first[name] for name in self.calls if name not in self.yardsticks), default=0.0)
        short = fastest < SHORT
        turns = dict.fromkeys(self.calls, most)
        for name, taken in first.items():
            if taken > SLOW * fastest and name not in self.yardsticks:
                turns[name] = max(1, min(least, int(SHARE / taken)))
        self.times = {name: [] for name in self.calls}
        self.spent = 0.0
        for turn in range(most):
            if turn >= least and self.spent > seconds:
                break
            names = [name for name in self.calls if turn < turns[name]]
            shift = turn % len(names)
            for name in names[shift:] + names[:shift]:
                self.times[name].append(self.once(name, warm=short and turns[name] == most))
        return self

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(self.times[name]) for name in self.calls}
