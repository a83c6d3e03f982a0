"""The command line: each verb's arguments go to the module of its name.

Exit codes: 0 done; 1 bad input (a file, weights, a device, a backend), told in one line; 2 a command line that cannot
be parsed; 130 stopped by Ctrl-C, 143 by SIGTERM, which torchrun sends when another process has died. torch is imported
after the arguments are parsed, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from .arguments import given, parser
from .errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    args = parser(_RUN).parse_args(argv)
    try:
        with _stopped_by_sigterm(), _notes_on_stderr(getattr(args, "quiet", False)):
            code: int = args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt as stopped:
        print("lightsr: stopped", file=sys.stderr)
        return 143 if isinstance(stopped, _Terminated) else 130
    except BrokenPipeError:
        # Nobody reads on (`lightsr info | head -1`); the interpreter must not flush into the pipe again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # 128 + SIGPIPE, as the shell reports it
    except (InputError, OSError, MemoryError) as error:
        return _fail(error)
    except RuntimeError as error:
        if not _is_about_the_machine(error):
            raise
        return _fail(error)
    return code


class _Terminated(KeyboardInterrupt):
    """SIGTERM: as Ctrl-C it leaves nothing half-written."""


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # elsewhere Python takes no handlers
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _upscale(args: argparse.Namespace) -> int:
    source = given(args, "input")
    from .upscale import upscale

    report = upscale(
        str(source),
        args.output,
        network=args.network,
        scale=args.scale,
        weights=args.weights,
        tile=args.tile,
        device=args.device,
        backend=args.backend,
        format=args.format,
        quality=args.quality,
        strip_metadata=args.strip_metadata,
        max_pixels=args.max_pixels,
        resume=args.resume,
        quiet=args.quiet,
    )
    if not args.quiet:
        _note(report.notes)
        for path in report.done:
            print(printable(path))
    return _tell_failed(report.failed)


def _evaluate(args: argparse.Namespace) -> int:
    for path in (args.json, args.csv, args.report):
        if path is not None and not Path(path).absolute().parent.is_dir():  # better now than after an hour
            raise InputError(f"cannot write {path}: its folder does not exist")
        if path is not None and Path(path).is_dir():
            raise InputError(f"cannot write {path}: it is a folder")
    from .evaluate import Entry, evaluate

    result = evaluate(
        args.folder,
        [Entry(name, weights) for name, weights in args.network],
        args.scale,
        lr=args.lr,
        tile=args.tile,
        device=args.device,
        backend=args.backend,
        quiet=args.quiet,
        report=args.report is not None,
    )
    print("\n".join(printable(line) for line in result.table().splitlines()))
    if args.json is not None:
        result.write_json(args.json)
    if args.csv is not None:
        result.write_csv(args.csv)
    if args.report is not None:
        from .report import write_report

        write_report(args.report, result)
    return _tell_failed(result.failed)


def _info(args: argparse.Namespace) -> int:
    from .info import as_text, info

    facts = info(args.network, args.scale)
    print(json.dumps(facts, indent=2) if args.json else as_text(facts))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from .doctor import as_text, doctor

    facts = doctor()
    print(json.dumps(facts, indent=2) if args.json else as_text(facts))
    return 0


def _export(args: argparse.Namespace) -> int:
    weights = given(args, "weights", required=False)
    from .export import export, network_to_export

    net = network_to_export(weights, args.network, args.scale)
    summary = export(net, args.output, format=args.format, check=not args.no_check)
    if not args.quiet:
        print(printable(summary))
    return 0


def _fold(args: argparse.Namespace) -> int:
    from .checkpoint import fold, read_state_dict, save

    loaded = read_state_dict(args.input)
    folded = fold(loaded.tensors)
    save(args.output, folded)
    if not args.quiet:
        _note([f"{args.input}: {loaded}"])
        before, after = (sum(value.numel() for value in each.values()) for each in (loaded.tensors, folded))
        print(printable(f"{args.output}: {before:,} values folded into {after:,}"))
    return 0


def _train(args: argparse.Namespace) -> int:
    from .training.config import as_toml, read_config

    overrides = list(args.set)
    if args.max_time is not None:
        overrides.append(f"max_minutes={args.max_time}")
    config = read_config(args.config, overrides, args.output)
    if args.print_config:
        print(as_toml(config), end="")
        return 0
    if args.pack is not None:
        from .training.pack import pack

        print(printable(pack(config, args.pack)))
        return 0
    from .training.run import train

    result = train(config, fresh=args.fresh, quiet=args.quiet)
    if not args.quiet:
        left = "" if result.finished else "; the same command goes on from here"
        print(printable(f"{result.weights}: step {result.steps} of {result.total}{left}"))
    return 0 if result.signal is None else 128 + result.signal


_RUN = {
    "upscale": _upscale,
    "evaluate": _evaluate,
    "info": _info,
    "doctor": _doctor,
    "export": _export,
    "fold": _fold,
    "train": _train,
}


def printable(text: object) -> str:
    """One line without control characters, since names in files may hold what moves a terminal's cursor."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(text))


def _tell_failed(failed: Sequence[tuple[Path, str]]) -> int:
    for path, reason in failed:
        print(f"lightsr: error: {printable(path)}: {printable(reason)}", file=sys.stderr)
    return 1 if failed else 0


def _fail(error: BaseException) -> int:
    print(f"lightsr: error: {printable(_reason(error))}", file=sys.stderr)
    return 1


def _reason(error: BaseException) -> str:
    from .memory import is_out_of_memory

    if is_out_of_memory(error):
        return "not enough memory; give a smaller --tile, such as --tile 128"
    return str(error).strip().split("\n", maxsplit=1)[0] or type(error).__name__


def _is_about_the_machine(error: RuntimeError) -> bool:
    """A backend that cannot run, or memory that is not there: to be told in one line, unlike a bug of ours."""
    from lightsr_kernels import BackendUnavailableError

    from .memory import is_out_of_memory

    return isinstance(error, BackendUnavailableError) or is_out_of_memory(error)


def _note(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"lightsr: {printable(line)}", file=sys.stderr)


@contextmanager
def _notes_on_stderr(quiet: bool) -> Iterator[None]:
    """Shows what the modules log, such as which weights of a checkpoint were taken, unless -q."""
    logger = logging.getLogger("lightsr")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("lightsr: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR if quiet else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
