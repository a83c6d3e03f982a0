"""A case on every contender: proved right, then timed side by side; the figures that come of it."""

from __future__ import annotations

import gc
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol

import torch

from .contender import Contender, NotHereError, Prepare
from .memory import peak_of
from .peak import copy_of, multiply_adds
from .rounds import PAUSE, Rounds
from .traffic import moved

LENIENT = 20  # times our tolerance: beyond that a rival has computed something else


class Case(Protocol):
    """What is computed, by whom, and the exact result."""

    bench: ClassVar[str]  # the name of the file that a run is saved in
    untried: ClassVar[tuple[str, ...]]  # ways that are not called on a part first: getting ready would take twice

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def flops(self) -> int: ...
    @property
    def bytes(self) -> int: ...

    def inputs(self, device: str) -> Any:
        """Random tensors, the same at every call; `x` among them is a picture, by which a copy is measured."""

    def exact(self, given: Any) -> Any:
        """The result in float64."""

    def error(self, got: Any, wanted: Any) -> float:
        """The largest difference, as a share of the largest value."""

    def limit(self, given: Any, wanted: Any) -> float:
        """How large the error of ours may be."""

    def part(self) -> tuple[Case, float]:
        """A smaller case that tells how long this one takes, and how many times as long that is."""

    def ours(self, device: str) -> Sequence[Prepare]:
        """Our ways of computing it."""

    def rivals(self) -> Sequence[tuple[str, Prepare]]:
        """Everyone else's, by name."""

    def chosen(self, given: Any) -> str:
        """The backend that a plain call takes."""


@dataclass
class Row:
    """One contender in one case."""

    name: str
    seconds: float | None = None  # the median
    rounds: int = 0
    error: float | None = None  # of the largest value
    memory: int | None = None  # bytes by which the process grew, preparation, result and scratch memory together
    moved: int | None = None  # bytes that our kernels read and write in a call, as traffic.py counts them
    reason: str = ""  # why there is no number
    expected: float | None = None  # seconds, where that is the reason
    times: list[float] = field(default_factory=list, repr=False)


@dataclass
class Comparison:
    """All contenders in one case."""

    case: Case
    chosen: str  # the backend of a plain call
    peak: float  # floating-point operations a second, measured in the same rounds
    copy: float  # bytes a second of a copy of the picture, likewise
    ours: list[Row] = field(default_factory=list)
    rivals: list[Row] = field(default_factory=list)

    @property
    def best_rival(self) -> Row | None:
        timed = [row for row in self.rivals if row.seconds is not None]
        return min(timed, key=lambda row: row.seconds or 0, default=None)

    def ratio(self, row: Row) -> float | None:
        """How many times as fast as the best rival."""
        best = self.best_rival
        return best.seconds / row.seconds if best and best.seconds and row.seconds else None

    def figures(self, row: Row) -> dict[str, Any]:
        """What is reported of one contender."""
        result: dict[str, Any] = asdict(row)
        del result["times"]
        if len(row.times) > 1:
            low, _, high = statistics.quantiles(row.times, n=4, method="inclusive")
            result["quartiles"] = [low, high]
        if row.seconds and self.case.flops:
            result["GFLOP/s"] = self.case.flops / row.seconds / 1e9
            result["of FMA peak"] = self.case.flops / row.seconds / self.peak
        if row.seconds and self.case.bytes:
            result["of copy bandwidth"] = self.case.bytes / row.seconds / self.copy
        if row.moved and self.case.bytes:
            result["moved over the least"] = row.moved / self.case.bytes
        result["times the best rival"] = self.ratio(row)
        return result

    def as_json(self) -> dict[str, Any]:
        best = self.best_rival
        return {
            "case": {**vars(self.case), "name": self.case.name, "flops": self.case.flops, "bytes": self.case.bytes},
            "a plain call takes": self.chosen,
            "FMA peak, GFLOP/s": self.peak / 1e9,
            "FMA floor, s": self.case.flops / self.peak,
            "copy, GB/s": self.copy / 1e9,
            "best rival": best.name if best else None,
            "ours": [self.figures(row) for row in self.ours],
            "rivals": [self.figures(row) for row in self.rivals],
        }


def compare(case: Case, device: str, seconds: float, longest: float, least: int = 5) -> Comparison:
    """Proves and times the case on every contender.

    Fails where ours is wrong. A rival whose call would take more than `longest` seconds is told and not timed, unless
    all others have no number. There are at least `least` rounds.
    """
    torch._dynamo.reset()  # and not while a case runs: whoever was compiled would be compiled again in the rounds
    gc.collect()  # what the last case left behind
    given = case.inputs(device)
    wanted = case.exact(given)
    limit = case.limit(given, wanted)
    ready: dict[str, Contender] = {}
    mine: list[Row] = []
    rivals: list[Row] = []
    for prepare in case.ours(device):
        predict(case, device, prepare)
        contender, row = first(case, given, wanted, prepare, counted=True)
        assert row.error is not None and row.error <= limit, (
            f"{case.name} by {row.name}: off by {row.error:.2g} of the largest value, so there is no number"
        )
        ready[row.name] = contender
        mine.append(row)
    slow: list[tuple[float, Row, Prepare]] = []
    for name, prepare in case.rivals():
        try:
            expected = predict(case, device, prepare)
            row = Row(name) if expected > longest else add(case, given, wanted, limit, prepare, ready)
        except NotHereError as reason:
            row = Row(name, reason=str(reason))
        else:
            if expected > longest:
                row.reason, row.expected = "a call takes too long, judged by one on a part of the rows", expected
                slow.append((expected, row, prepare))
        rivals.append(row)
    if slow and all(row.reason for row in rivals):  # then the least slow is the best there is
        _, row, prepare = min(slow, key=lambda each: each[0])
        vars(row).update(vars(add(case, given, wanted, limit, prepare, ready)))
    return timed(case, given, ready, mine, rivals, seconds, least)


def first(case: Case, given: Any, wanted: Any, prepare: Prepare, counted: bool = False) -> tuple[Contender, Row]:
    """A contender prepared and called once, with the memory that took and how exact the result is.

    `counted`: also with what our kernels move, which takes a hand in how operators are called.
    """

    def work() -> tuple[Contender, tuple[Any, int | None]]:
        contender = prepare(case, given)
        return contender, moved(contender.run) if counted else (contender.run(), None)

    (contender, (result, through)), memory = peak_of(work, given.x.device.type)
    return contender, Row(
        contender.name, error=case.error(contender.result(result), wanted), memory=memory, moved=through
    )


def add(case: Case, given: Any, wanted: Any, limit: float, prepare: Prepare, ready: dict[str, Contender]) -> Row:
    """A rival made ready to be timed, unless it computes something else."""
    contender, row = first(case, given, wanted, prepare)
    if row.error is None or not row.error <= LENIENT * limit:  # so for no number, too
        row.reason = "its result is wrong"
    else:
        ready[row.name] = contender
    return row


def predict(case: Case, device: str, prepare: Prepare) -> float:
    """About how many seconds a call takes, by one on a part of the rows; loads all code that a call needs."""
    if getattr(prepare, "func", prepare).__name__ in case.untried:
        return 0.0
    small, times = case.part()
    rounds = Rounds({"small": prepare(small, small.inputs(device)).run}, waiter(device))
    rounds.once("small")
    return rounds.once("small") * times


def timed(
    case: Case,
    given: Any,
    ready: dict[str, Contender],
    mine: list[Row],
    rivals: list[Row],
    seconds: float,
    least: int,
) -> Comparison:
    device = given.x.device.type
    peak = multiply_adds(device)
    calls: dict[str, Callable[[], Any]] = {name: contender.run for name, contender in ready.items()}
    calls |= {"peak": peak.call, "copy": copy_of(given.x)}
    repeat = 20 if device == "cuda" else 1
    pause = 0.0 if device == "cuda" else PAUSE
    rounds = Rounds(calls, waiter(device), repeat, ("peak", "copy"), pause=pause).run(seconds, least)
    assert cores() == CORES, "a library has bound this thread to some of its cores, so the times mean nothing"
    medians = rounds.medians()
    for row in (*mine, *rivals):
        if row.name in ready:
            row.times = rounds.times[row.name]
            row.seconds, row.rounds = medians[row.name], len(row.times)
    copied = 2 * given.x.numel() * given.x.element_size()
    return Comparison(
        case, case.chosen(given), peak.operations / medians["peak"], copied / medians["copy"], mine, rivals
    )


def cores() -> set[int] | None:
    """The cores that this thread may run on, where the system tells."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


CORES = cores()


def waiter(device: str) -> Callable[[], None]:
    return torch.cuda.synchronize if device == "cuda" else lambda: None


@dataclass
class Summary:
    """All comparisons of a run in a few figures: for each case the faster layout and backend of ours counts."""

    cases: int
    compared: int
    mean: float | None  # geometric, of how many times as fast as the best rival
    slower: list[str]
    least_of_peak: float | None


def summary(comparisons: Iterable[Comparison]) -> Summary:
    every = list(comparisons)
    ratios = {each.case.name: [each.ratio(row) for row in each.ours] for each in every}
    best = {name: max(found) for name, values in ratios.items() if (found := [v for v in values if v is not None])}
    figures = [each.figures(row) for each in every for row in each.ours]
    shares = [float(each["of FMA peak"]) for each in figures if "of FMA peak" in each]
    return Summary(
        cases=len(every),
        compared=len(best),
        mean=statistics.geometric_mean(best.values()) if best else None,
        slower=[name for name, value in best.items() if value < 1],
        least_of_peak=min(shares, default=None),
    )
