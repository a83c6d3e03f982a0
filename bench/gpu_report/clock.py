"""Times on the device itself: events around batches of calls, everyone in turn, over inputs that no cache holds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any

import torch

Calls = Sequence[Callable[[], Any]]  # the same call on one set of inputs after another
SPAN = 1e-3  # seconds between two events, at the least
MOST = 64  # calls between two events
ROTATING = 4  # times the last-level cache: what the sets of inputs fill together
SETS = 8
CPU_CACHE = 1 << 20


def sets_for(size: int, device: str) -> int:
    """How many sets of inputs of so many bytes are more than the cache holds."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size if device == "cuda" else CPU_CACHE
    return max(2, min(SETS, ceil(ROTATING * cache / max(1, size))))


def interleaved(
    contenders: Mapping[str, Calls], device: str, seconds: float, least: int = 5, most: int = 100
) -> dict[str, list[float]]:
    """Seconds of a call, a list for each contender: rounds in which each has one batch, in an order that turns."""
    counts = {name: _count(calls, device) for name, calls in contenders.items()}
    found: dict[str, list[float]] = {name: [] for name in contenders}
    names, end = list(contenders), time.monotonic() + seconds
    for turn in range(most):
        if turn >= least and time.monotonic() > end:
            break
        shift = turn % max(1, len(names))
        for name in names[shift:] + names[:shift]:
            found[name].append(_span(contenders[name], counts[name], turn, device) / counts[name])
    return found


def once(call: Callable[[], Any], device: str) -> float:
    """Seconds of one call, by events."""
    return _span([call], 1, 0, device)


def described(times: list[float]) -> dict[str, Any]:
    """The median, and between which values the middle half lies."""
    if not times:
        return {}
    low, _, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return {"seconds": statistics.median(times), "low": low, "high": high, "rounds": len(times)}


def _count(calls: Calls, device: str) -> int:
    """How many calls make a batch; everything is warm then."""
    for call in calls:
        call()
    taken = min(_span(calls, 1, turn, device) for turn in range(2))
    return max(1, min(MOST, ceil(SPAN / max(taken, 1e-7)))) if device == "cuda" else 1


def _span(calls: Calls, count: int, turn: int, device: str) -> float:
    if device != "cuda":
        start = time.perf_counter()
        for i in range(count):
            calls[(turn + i) % len(calls)]()
        return time.perf_counter() - start
    begin: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    begin.record()
    for i in range(count):
        calls[(turn * count + i) % len(calls)]()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def graph_of(calls: Calls) -> Callable[[], Any]:
    """All these calls as one CUDA graph, and what replays it: no launch between them."""
    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in (*calls, *calls):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [call() for call in calls]

    def replay() -> Any:
        graph.replay()
        return kept

    return replay
