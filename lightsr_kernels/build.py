"""Compiled kernels: those the package brings, else compiled once and kept in the cache.

There is a library for each folder of csrc and part ("cpu", "cuda"), compiled when an op first needs it: `load("cpu",
"depthwise_conv")` makes torch know its raw operators, or raises BuildError, whose one line says why. `why_not` says so
without compiling anything. `build_info` tells what was compiled.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from contextlib import suppress
from importlib import util
from pathlib import Path
from typing import Any

import torch

from . import build_plan, cache, compilers, prebuilt
from .cache import BuildError

__all__ = ["BuildError", "build_info", "built", "load", "state", "states", "why_not"]

PARTS = ("cpu", "cuda")
SECONDS = {"cpu": 15, "cuda": 30, "module": 5}  # about, for the line that says a build has begun
# What the answer to why_not hangs on, besides the files of the machine, which are looked at once.
_VARIABLES = ("LIGHTSR_JIT", "LIGHTSR_CUDA_ARCHS", "CXX", "CUDACXX", "CUDA_HOME", "CUDA_PATH", "PATH")

_loaded: dict[tuple[str, str], dict[str, Any]] = {}  # by part and op
_failed: dict[str, str] = {}  # by part: where one library cannot be compiled, the next is not tried
_reasons: dict[tuple[str | None, ...], str | None] = {}
_guard = threading.RLock()


def _after_fork() -> None:
    global _guard  # noqa: PLW0603
    _guard = threading.RLock()  # a thread of the parent may have held it, and that thread is not here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def load(part: str, op: str) -> None:
    """Makes torch know the raw operators of csrc/<op> on "cpu" or "cuda"; compiles them where that was never done.

    Raises:
        BuildError: they cannot be had here. Asked again, the same process gives the same answer at once.
    """
    if (part, op) in _loaded:
        return
    with _guard:
        if (part, op) in _loaded:
            return
        why = why_not(part, op)
        if why is not None:
            raise BuildError(why)
        try:
            _loaded[part, op] = _load(part, op)
        except BuildError as error:
            _failed[part] = str(error)
            raise


def why_not(part: str, op: str) -> str | None:
    """Why the kernels of csrc/<op> cannot be had here, or None where nothing is known against it. Compiles nothing."""
    if (part, op) in _loaded:
        return None
    if part in _failed:
        return _failed[part]
    asked = (part, op, *map(os.environ.get, _VARIABLES))
    if asked not in _reasons:
        _reasons[asked] = _why_not(part, op)
    return _reasons[asked]


def states(part: str) -> dict[str, Any]:
    """For each op that a part has kernels of, the record of its library, with its path, or {"why_not": reason}.

    Where the part has none at all, {"why_not": reason} itself. Compiles nothing.
    """
    try:
        return {op: state(part, op) for op in build_plan.ops_of(part, build_plan.csrc_folder())}
    except BuildError as error:
        return {"why_not": str(error)}


def state(part: str, op: str) -> dict[str, Any]:
    """The record of a library where it is compiled, with its path; else {"why_not": reason}. Compiles nothing."""
    if (part, op) in _loaded:
        return dict(_loaded[part, op])
    why = why_not(part, op)
    if why is not None:
        return {"why_not": why}
    try:
        place = prebuilt.find(part, op)
        if place is None and cache.cache_folder().joinpath("kernels").is_dir():  # asking must not make it
            place = _place_of(build_plan.plan(part, op, build_plan.csrc_folder()))
        if place is None or not cache.whole(place):
            return {"why_not": "not compiled yet: that is done on first use"}
        return _described(place)
    except BuildError as error:
        return {"why_not": str(error)}


def build_info() -> dict[str, Any]:
    """What is compiled: for each part and op sources' hash, compiler, flags, SIMD level, architectures, torch and date.

    Told by a small extension module, which the first call compiles (a few seconds); where that cannot be, its own
    entry, "module", says why not. No kernel is compiled for it, and nothing raises.

    Example:
        >>> import lightsr_kernels.build
        >>> sorted(lightsr_kernels.build.build_info())
        ['cpu', 'cuda', 'module', 'torch', 'version']
    """
    from . import __version__

    facts: dict[str, Any] = {"version": __version__, "torch": torch.__version__}
    facts |= {part: states(part) for part in PARTS}
    # A JSON string, twice: the inner one for Python, the outer one for the C++ compiler.
    header = f"constexpr const char* facts = {json.dumps(json.dumps(facts, sort_keys=True))};\n"
    try:
        place = built("module", "", generated={"facts.h": header})
        told: dict[str, Any] = _imported(place / cache.record(place)["library"]).build_info()
        return told
    except (BuildError, ImportError) as error:
        return facts | {"module": {"why_not": str(error)}}


def built(part: str, op: str, csrc: Path | None = None, generated: dict[str, str] | None = None) -> Path:
    """The folder with the compiled library and its record; compiled where the cache has none, or BuildError."""
    why = _switched_off()
    if why is not None:
        raise BuildError(why)
    plan = build_plan.plan(part, op, csrc or build_plan.csrc_folder(), generated=generated)
    place = _place_of(plan)

    def build(work: Path) -> dict[str, Any]:
        _say(f"compiling the {build_plan.in_words(part, op)} once, about {SECONDS[part]} s, into {place}")
        return build_plan.run(plan, work, cache.log_of(place))

    return cache.fetch(place, build)


def _place_of(plan: build_plan.Plan) -> Path:
    return cache.kernels_folder() / plan.name


def _load(part: str, op: str) -> dict[str, Any]:
    brought = prebuilt.find(part, op)
    if brought is not None:
        try:
            return _load_from(brought)
        except BuildError:  # of a system too new for this one; compiled here it will fit
            if _why_not_compiled(part, op) is not None:
                raise
    return _load_from(built(part, op))


def _load_from(place: Path) -> dict[str, Any]:
    facts = cache.record(place)
    try:
        torch.ops.load_library(str(place / facts["library"]))  # type: ignore[no-untyped-call]
    except OSError as error:
        raise BuildError(
            f"the compiled kernels in {place} cannot be loaded ({cache.reason(error.__cause__ or error)})"
        ) from error
    return _described(place)


def _described(place: Path) -> dict[str, Any]:
    return {**cache.record(place), "path": str(place)}


def _imported(path: Path) -> Any:
    spec = util.spec_from_file_location("build_info", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no extension module of this Python")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _why_not(part: str, op: str) -> str | None:
    if part not in PARTS:
        raise ValueError(f"build: part must be one of {', '.join(PARTS)}; got {part!r}")
    if part == "cuda" and torch.version.cuda is None:
        return "this torch is built without CUDA"
    if part == "cuda" and not torch.cuda.is_available():
        return "torch finds no CUDA GPU"
    return None if prebuilt.find(part, op) else _why_not_compiled(part, op)


def _why_not_compiled(part: str, op: str) -> str | None:
    try:
        build_plan.sources_of(part, op, build_plan.csrc_folder())
        if (why := _switched_off()) is not None:
            return why
        if part == "cuda":
            compilers.nvcc()
            compilers.architectures()
        compilers.cxx()
        compilers.ninja()
    except BuildError as error:
        return str(error)
    return None


def _switched_off() -> str | None:
    value = os.environ.get("LIGHTSR_JIT") or "on"
    if value == "off":
        return "compiling is switched off (LIGHTSR_JIT=off)"
    return None if value == "on" else f"LIGHTSR_JIT must be on or off; got {value!r}"


def _say(line: str) -> None:
    with suppress(OSError, ValueError, AttributeError):  # stderr may be closed, or none
        print(f"lightsr_kernels: {line}", file=sys.stderr, flush=True)
