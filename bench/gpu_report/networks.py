"""Whole networks, inference and training step: fused and plain, in each dtype, with and without CUDA graphs."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from .. import network_rivals
from ..case import LAYOUTS
from ..contender import Contender, NotHereError, Prepare
from ..memory import peak_of
from ..network_case import NetworkCase, fused
from ..network_rivals import compiled, graph, pytorch
from . import clock
from .store import Context, first_line

NETWORKS = ("hasn", "idsa_net", "mafdn", "lmswn")
SMALL, LARGE, PATCHES = (1, 3, 180, 320), (1, 3, 360, 640), (16, 3, 48, 48)
TINY = {"inference": (1, 3, 12, 16), "training": (1, 3, 8, 8)}
DTYPES = ("float16", "float32", "bfloat16")
COMPILING = 45.0  # seconds that must be left for torch.compile to be asked, and that it gets
LEAST = 4.0
LENIENT = 20


def jobs(way: str, dry: bool) -> Iterator[tuple[NetworkCase, bool]]:
    """A case, and whether torch.compile takes part; that comes last, for it may take a minute."""
    if dry:
        yield NetworkCase("lmswn", TINY[way], way), False
        return
    shape = SMALL if way == "inference" else PATCHES
    yield from ((NetworkCase(name, shape, way, dtype), False) for dtype in DTYPES for name in NETWORKS)
    yield from ((NetworkCase(name, shape, way, "float16", True), True) for name in reversed(NETWORKS))
    if way == "inference":
        yield from ((NetworkCase(name, LARGE, way, dtype), False) for dtype in DTYPES[:2] for name in NETWORKS)


def contenders(way: str, device: str, compiling: bool) -> Iterator[tuple[str, Prepare, bool]]:
    """Name, way and whether it is ours."""
    for layout in LAYOUTS:
        yield f"lightsr fused {layout}", partial(fused, layout=layout), True
        yield f"pytorch {layout}", partial(pytorch, layout=layout), False
    if device == "cuda":
        last = "channels_last"
        mine, theirs = (fused_graph, plain_graph) if way == "training" else (partial(fused, captured=True), graph)
        yield f"lightsr fused {last} graph", partial(mine, layout=last), True
        yield f"pytorch {last} graph", partial(theirs, layout=last), False
        if compiling:
            yield f"compiled {last}", partial(compiled, layout=last), False


def fused_graph(case: NetworkCase, given: Any, layout: str) -> Contender:
    return whole_step(fused(case, given, layout))


def plain_graph(case: NetworkCase, given: Any, layout: str) -> Contender:
    return whole_step(pytorch(case, given, layout))


def whole_step(step: Contender) -> Contender:
    """Forward, loss and backward in one graph; its gradients lie in the graph's memory."""
    call = clock.graph_of([step.run])
    return Contender(f"{step.name} graph", call, lambda kept: step.result(kept[0]))


def networks(context: Context) -> None:
    each_job(context, "inference")


def training(context: Context) -> None:
    each_job(context, "training")


def each_job(context: Context, way: str) -> None:
    for case, compiling in jobs(way, context.dry):
        key = f"{case.name}{'-compiled' if compiling else ''}"
        if context.has(key):
            continue
        if not context.reaches(key, 0 if context.dry else COMPILING if compiling else LEAST):
            continue
        try:
            context.put(key, one(case, context, compiling))
        except Exception as error:  # one that fails must not take the others with it
            context.put(key, {"why_not": first_line(error)})
        gc.collect()
        if context.device == "cuda":
            torch.cuda.empty_cache()


def one(case: NetworkCase, context: Context, compiling: bool) -> dict[str, Any]:
    """Everyone's times, errors and memory; the right ones' alone."""
    device = context.device
    torch._dynamo.reset()
    network_rivals.COMPILING = max(10.0, context.left() - LEAST)
    given = case.inputs(device)
    wanted = case.exact(given)
    limit = case.limit(given, wanted)
    rows: dict[str, dict[str, Any]] = {}
    calls: dict[str, list[Callable[[], Any]]] = {}
    for name, prepare, mine in contenders(case.way, device, compiling):
        try:
            contender, memory = peak_of(partial(prepared, prepare, case, given), device)
            off = case.error(contender.result(contender.run()), wanted)
        except NotHereError as reason:
            rows[name] = {"why_not": str(reason)}
            continue
        except Exception as error:  # such as a capture that fails: the others go on
            rows[name] = {"why_not": first_line(error)}
            continue
        rows[name] = {"error": off, "memory": memory}
        if off <= limit * (1 if mine else LENIENT):
            calls[name] = [contender.run]
        else:
            rows[name]["why_not"] = f"its result is wrong: more than {limit:.1e}"
    for name, found in clock.interleaved(calls, device, 0.2).items():
        rows[name] |= clock.described(found)
    facts = {"network": case.network, "shape": list(case.shape), "way": case.way, "dtype": case.dtype}
    return facts | {"flops": case.flops, "limit": limit, "rows": rows}


def prepared(prepare: Prepare, case: NetworkCase, given: Any) -> Contender:
    contender = prepare(case, given)
    contender.run()
    return contender
