"""Each op at its large sizes: ours on every backend, beside plain PyTorch in both layouts and torch.compile."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from lightsr_kernels.spec import SPECS

from ..case import LAYOUTS
from ..contender import Contender, NotHereError, Prepare
from ..op_case import Given, OpCase, change, ours, sample_names, tensors
from ..op_rivals import compiled, pytorch
from ..ours import backends
from . import clock
from .ceilings import floor
from .store import Context, first_line

MARGIN = 1.25
LENIENT = 20  # times the tolerance: a rival beyond that has computed something else
COMPILING = 12.0  # seconds that must be left for torch.compile to be asked
LEAST = 3.0  # and for a case


def jobs(dry: bool) -> Iterator[tuple[OpCase, bool]]:
    """A case, and whether torch.compile takes part; what matters most comes first, as time may run out."""
    named = {op: [name for name in sample_names(spec) if "x320" in name] for op, spec in SPECS.items()}
    named = {op: names or sample_names(SPECS[op])[:1] for op, names in named.items()}
    if dry:
        yield OpCase("pixel_attention", sample_names(SPECS["pixel_attention"])[0], "forward", "float32"), False
        return
    for way, dtype, compiling in (
        ("forward", "float16", False),
        ("forward", "float32", False),
        ("training", "float32", False),
        ("forward", "float16", True),
        ("training", "float16", False),
        ("forward", "bfloat16", False),
    ):
        yield from ((OpCase(op, names[0], way, dtype), compiling) for op, names in named.items())
    for way, dtype in (("forward", "float16"), ("training", "float16"), ("forward", "float32")):
        yield from ((OpCase(op, name, way, dtype), False) for op, names in named.items() for name in names[1:])


def contenders(case: OpCase, device: str, compiling: bool) -> Iterator[tuple[str, Prepare, bool]]:
    """Name, way and whether it is ours."""
    names = ["reference"] if device == "cpu" else backends(device, case.spec)
    for layout in LAYOUTS:
        yield from ((f"lightsr {name} {layout}", partial(ours, layout=layout, backend=name), True) for name in names)
        yield f"pytorch {layout}", partial(pytorch, layout=layout), False
        if compiling:
            yield f"compiled {layout}", partial(compiled, layout=layout), False


def ops(context: Context) -> None:
    ceilings = context.store.data("ceilings")
    for case, compiling in jobs(context.dry):
        key = f"{case.name}{'-compiled' if compiling else ''}"
        if context.has(key):
            continue
        if not context.reaches(key, 0 if context.dry else COMPILING if compiling else LEAST):
            continue
        try:
            context.put(key, one(case, context, compiling, ceilings))
        except Exception as error:  # one that fails must not take the others with it
            context.put(key, {"why_not": first_line(error)})
        gc.collect()


def one(case: OpCase, context: Context, compiling: bool, ceilings: dict[str, Any]) -> dict[str, Any]:
    """Everyone's times of a case, the right ones' alone."""
    device = context.device
    torch._dynamo.reset()
    given = case.inputs(device)
    wanted = case.exact(given)
    sizes = sum(each.numel() * each.element_size() for each in tensors(given.args))
    sets = [given, *(copied(given) for _ in range(clock.sets_for(sizes, device) - 1))]
    rows: dict[str, dict[str, Any]] = {}
    calls: dict[str, list[Callable[[], Any]]] = {}
    for name, prepare, mine in contenders(case, device, compiling):
        try:
            ready: list[Contender] = [prepare(case, each) for each in sets]
            error = case.error(ready[0].result(ready[0].run()), wanted)
        except NotHereError as reason:
            rows[name] = {"why_not": str(reason)}
            continue
        except Exception as error:  # the others go on
            rows[name] = {"why_not": first_line(error)}
            continue
        rows[name] = {"error": error, "ours": mine}
        calls[name] = [each.run for each in ready]
    limit = judged(rows, calls, case.limit(given, wanted))
    del wanted
    with_graphs = device == "cuda" and case.way == "forward"
    graphed = [name for name in calls if with_graphs and not name.startswith("compiled")]
    graphs = {}
    for name in graphed:
        try:
            graphs[f"{name} graph"] = clock.graph_of(calls[name])
        except Exception as error:
            rows[f"{name} graph"] = {"why_not": first_line(error)}
    times = clock.interleaved({**calls, **{name: [call] for name, call in graphs.items()}}, device, 0.05)
    for name, found in times.items():
        share = len(sets) if name in graphs else 1  # a graph has a call for each set
        rows[name] = rows.get(name, {}) | clock.described([each / share for each in found])
    least = floor(ceilings, case.dtype, case.bytes, case.flops)
    facts = {"op": case.op, "sample": case.sample, "way": case.way, "dtype": case.dtype, "sets": len(sets)}
    return facts | {"bytes": case.bytes, "flops": case.flops, "limit": limit, "floor": least, "rows": rows}


def judged(rows: dict[str, dict[str, Any]], calls: dict[str, Any], limit: float) -> float:
    """Takes out who is wrong. The limit is that of the dtype, or a quarter more than what plain PyTorch is off."""
    plain = [float(row["error"]) for name, row in rows.items() if name.startswith("pytorch") and "error" in row]
    limit = max([limit, *([MARGIN * min(plain)] if plain else [])])
    for name in list(calls):
        if not rows[name]["error"] <= limit * (1 if rows[name]["ours"] else LENIENT):
            rows[name]["why_not"] = "its result is wrong"
            del calls[name]
    return limit


def copied(given: Given) -> Given:
    """The same values in other memory, every layout made anew."""
    return Given(change(given.args, torch.clone), [each.clone() for each in given.grads])
