"""Where the networks' time goes: per block, plain and fused, in milliseconds and megabytes, beside its floor.

`python -m bench.network_profile` measures every network and writes the tables of docs/profile.md between its marks.
Bytes are those of every tensor an operator reads or writes, views free; multiply-adds those of the plain network.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from lightsr.networks import REGISTRY, SRNetwork, create
from lightsr.networks.base import Block

from . import peak
from .memory import keep_freed
from .report import device_name

PAGE = Path(__file__).parents[1] / "docs" / "profile.md"
BEGIN, END = "<!-- tables: python -m bench.network_profile -->", "<!-- end of tables -->"
REST = "the rest"


@dataclass
class Row:
    """What one kind of block takes in one forward pass, all of its kind together."""

    count: int = 0
    seconds: dict[str, float] = field(default_factory=dict)  # "plain" and "fused"
    bytes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    multiply_adds: int = 0

    def floor(self, multiply_adds: float, copied: float) -> float:
        """Seconds at least, at so many multiply-adds and copied bytes a second: of both, what takes longer."""
        return max(self.multiply_adds / multiply_adds, self.bytes["fused"] / copied)


class Places:
    """Which kind of block is running: the innermost `Block` that was entered, by the name of its class."""

    def __init__(self) -> None:
        self.stack = [REST]
        self.seconds: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)
        self.since = 0.0

    def turn(self) -> None:
        now = time.perf_counter()
        self.seconds[self.stack[-1]] += now - self.since
        self.since = now

    def enter(self, module: nn.Module, _: Any) -> None:
        self.turn()
        self.stack.append(type(module).__name__)
        self.counts[self.stack[-1]] += 1

    def leave(self, *_: Any) -> None:
        self.turn()
        self.stack.pop()

    @contextmanager
    def watching(self, net: SRNetwork) -> Iterator[None]:
        blocks = [module for module in net.modules() if isinstance(module, Block)]
        hooks = [each.register_forward_pre_hook(self.enter) for each in blocks]
        hooks += [each.register_forward_hook(self.leave) for each in blocks]
        self.since = time.perf_counter()
        yield
        self.turn()
        for hook in hooks:
            hook.remove()


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts bytes and multiply-adds of every operator, for the place it was called from."""

    def __init__(self, places: Places) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.places = places
        self.bytes: dict[str, int] = defaultdict(int)
        self.multiply_adds: dict[str, int] = defaultdict(int)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        place = self.places.stack[-1]
        read, written = storages((args, kwargs)), storages(out)
        if not func.is_view:
            self.bytes[place] += sum(written.values()) + sum(read.values())
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.multiply_adds[place] += formula(*args, **(kwargs or {}), out_val=out) // 2
        return out


def storages(values: Any) -> dict[int, int]:
    """The bytes of every tensor among the values, each place in memory once; what is expanded counts as it lies."""
    tensors = [each for each in tree_leaves(values) if isinstance(each, Tensor)]
    return {
        each.data_ptr(): min(each.numel() * each.element_size(), each.untyped_storage().nbytes()) for each in tensors
    }


def profile(name: str, height: int, width: int, runs: int) -> dict[str, Row]:
    """The rows of a network's table, in the order in which its blocks are first entered."""
    torch.manual_seed(0)
    net = create(name, 4).fold().eval()
    x = torch.rand(1, 3, height, width)
    rows: dict[str, Row] = {}
    times: dict[str, dict[str, list[float]]] = {"plain": defaultdict(list), "fused": defaultdict(list)}
    with torch.no_grad():
        for turn in range(runs + 1):  # the first one warms up
            for way, seconds in times.items():
                net.set_fused(way == "fused")
                places = Places()
                with places.watching(net):
                    net(x)
                for place, spent in places.seconds.items():
                    if turn:
                        seconds[place].append(spent)
                for place, count in places.counts.items():
                    rows.setdefault(place, Row()).count = count
        for way, seconds in times.items():
            net.set_fused(way == "fused")
            places = Places()
            with places.watching(net), Meter(places) as meter:
                net(x)
            for place, taken in seconds.items():
                row = rows.setdefault(place, Row())
                row.seconds[way] = statistics.median(taken)
                row.bytes[way] = meter.bytes[place]
                if way == "plain":
                    row.multiply_adds = meter.multiply_adds[place]
    return rows


def table(rows: dict[str, Row], multiply_adds: float, copied: float) -> Iterator[str]:
    heads = ("block", "count", "plain ms", "fused ms", "times", "plain MB", "fused MB", "G multiply-adds", "floor ms")
    yield f"| {' | '.join(heads)} | fused over floor |"
    yield f"|---|{'--:|' * len(heads)}"
    total = Row(seconds={way: sum(row.seconds[way] for row in rows.values()) for way in ("plain", "fused")})
    total.multiply_adds = sum(row.multiply_adds for row in rows.values())
    for way in ("plain", "fused"):
        total.bytes[way] = sum(row.bytes[way] for row in rows.values())
    floors = {name: row.floor(multiply_adds, copied) for name, row in rows.items()}
    for name, row in [*rows.items(), ("**all**", total)]:
        plain, fused, floor = row.seconds["plain"], row.seconds["fused"], floors.get(name, sum(floors.values()))
        yield (
            f"| {name} | {row.count or ''} | {plain * 1e3:.1f} | {fused * 1e3:.1f} | {plain / fused:.1f} "
            f"| {row.bytes['plain'] / 1e6:.0f} | {row.bytes['fused'] / 1e6:.0f} | {row.multiply_adds / 1e9:.2f} "
            f"| {floor * 1e3:.1f} | {fused / floor:.1f} |"
        )


def ceilings(x: Tensor) -> tuple[float, float]:
    """Multiply-adds and copied bytes a second, the best of many tries each, spread over a second."""
    measured, copy = peak.multiply_adds("cpu"), peak.copy_of(x)

    def best(call: Any) -> float:
        taken = []
        for _ in range(30):
            time.sleep(0.03)
            start = time.perf_counter()
            own = call()
            taken.append(own if isinstance(own, float) else time.perf_counter() - start)
        return min(taken)

    return measured.operations / 2 / best(measured.call), 2 * x.numel() * x.element_size() / best(copy)


def lines(names: Iterable[str], height: int, width: int, runs: int) -> Iterator[str]:
    multiply_adds, copied = ceilings(torch.rand(1, 64, height, width))
    yield (
        f"{device_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32, NCHW, a picture of "
        f"{width}x{height} to {4 * width}x{4 * height}; medians of {runs} runs, plain and fused by turns. Ceilings "
        f"measured before it: {multiply_adds / 1e9:.0f} G multiply-adds a second, copies at {copied / 1e9:.1f} GB/s."
    )
    for name in names:
        yield from ("", f"### {REGISTRY[name].title}", "")
        yield from table(profile(name, height, width, runs), multiply_adds, copied)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.network_profile", description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="180x320", help="height x width of the small picture (default: 180x320)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--networks", default="hasn,idsa_net,mafdn,lmswn")
    parser.add_argument("--print", action="store_true", help="print the tables instead of writing docs/profile.md")
    options = parser.parse_args()
    keep_freed()
    height, width = map(int, options.size.split("x"))
    found = "\n".join(lines(options.networks.split(","), height, width, options.runs))
    if options.print:
        print(found)
        return
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{found}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
