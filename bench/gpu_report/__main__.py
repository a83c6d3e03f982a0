"""`python -m bench.gpu_report --out DIR`: the sections one after the other, each with its share of the time."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from . import __doc__ as ABOUT
from .ceilings import ceilings
from .facts import build, device, without_compiler
from .matrix import matrix, sanitizer
from .networks import networks, training
from .ops import ops
from .render import render
from .store import FILE, Context, Store, UnusableError, read
from .tuning import tuning

# In this order, each with its weight: a section gets that share of the time that is left for it and those behind it.
SECTIONS: dict[str, tuple[float, Callable[[Context], None]]] = {
    "device": (5, device),
    "build": (130, build),
    "matrix": (110, matrix),
    "sanitizer": (40, sanitizer),
    "ceilings": (20, ceilings),
    "networks": (80, networks),
    "ops": (75, ops),
    "training": (35, training),
    "tuning": (25, tuning),
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m bench.gpu_report", description=ABOUT)
    made.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where report.json, report.md and plots go"
    )
    made.add_argument(
        "--only",
        type=chosen,
        metavar="A,B",
        help=f"these sections, keeping what DIR has of others: {', '.join(SECTIONS)}",
    )
    made.add_argument("--resume", action="store_true", help="keep what DIR has, and do what is not done there")
    made.add_argument("--max-minutes", type=minutes, default=8.0, metavar="N", help="for all sections; 8 if left out")
    made.add_argument("--render", action="store_true", help="only write the page and the plots from DIR/report.json")
    made.add_argument("--dry-run", action="store_true", help="on the CPU with tiny sizes: its figures mean nothing")
    return made


def chosen(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    return names


def minutes(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be more than 0; got {text}")
    return value


def run(names: list[str], store: Store, folder: Path, where: str, seconds: float, resume: bool) -> None:
    """The sections; one that fails is told in the report, and the next one begins."""
    end = time.monotonic() + seconds
    for place, name in enumerate(names):
        weight, section = SECTIONS[name]
        start = time.monotonic()
        share = weight / sum(SECTIONS[each][0] for each in names[place:])
        context = Context(name, store, folder, where, start + share * max(0.0, end - start))
        context.data = dict(store.data(name)) if resume else {}
        print(f"{name}: up to {context.left():.0f} s", flush=True)
        status, reason = "done", ""
        try:
            section(context)
        except Exception as error:
            status, reason = "failed", f"{type(error).__name__}: {error}"
            traceback.print_exc()
        if status == "done" and context.missed:
            status, reason = "partial", f"no time for {len(context.missed)}: {', '.join(context.missed[:8])}"
        taken = round(time.monotonic() - start, 1)
        found = {"status": status, "seconds": taken, "data": context.data}
        store.sections[name] = found | ({"reason": reason} if reason else {})
        store.write()
        print(f"{name}: {status} in {taken} s {reason}".rstrip(), flush=True)


def settle() -> None:
    """Float32 that is float32, and cuDNN's fastest algorithms."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True


def main(words: list[str] | None = None) -> int:
    given = parser().parse_args(words)
    try:
        return command(given)
    except UnusableError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(f"{given.out}: {error.strerror or error}", file=sys.stderr)
    return 1


def command(given: argparse.Namespace) -> int:
    if given.render:
        if not (given.out / FILE).exists():
            print(f"{given.out / FILE} is not there: run without --render first", file=sys.stderr)
            return 1
        print(*render(read(given.out), given.out), sep="\n")
        return 0
    if not (given.dry_run or torch.cuda.is_available()):
        print("torch sees no CUDA GPU here; --dry-run tries the command on the CPU", file=sys.stderr)
        return 1
    if not given.dry_run:
        settle()
    store = Store(given.out, keep=given.resume or given.only is not None)
    store.write()  # better now than after the first section
    names = [name for name in given.only or SECTIONS if not (given.resume and store.done(name))]
    earlier = store.data("build")
    if earlier and "build" not in names and not given.dry_run:
        without_compiler(earlier)
    run(names, store, given.out.resolve(), "cpu" if given.dry_run else "cuda", 60 * given.max_minutes, given.resume)
    print(*render(read(given.out), given.out), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
