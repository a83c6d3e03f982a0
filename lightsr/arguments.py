"""The command line's arguments and their help texts; it imports nothing heavy, so that --help answers at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

BACKENDS = ("auto", "reference", "cpu", "triton", "cuda")
SCALES = (2, 3, 4)
WEIGHTS = "a .safetensors, .pth, .pt or .ckpt file"
Verbs = Mapping[str, Callable[[argparse.Namespace], int]]


def parser(verbs: Verbs) -> argparse.ArgumentParser:
    """The whole parser; `args.run` of what it parses is the function of the verb."""
    root = argparse.ArgumentParser(
        prog="lightsr",
        description="Lightweight image super-resolution: enlarges pictures 2, 3 or 4 times.",
        epilog="exit codes: 0 done; 1 bad input, told in one line; 2 wrong command line; 130 stopped by Ctrl-C, "
        "143 by SIGTERM",
    )
    root.add_argument("--version", action=_Version, help="print the version and exit")
    group = root.add_subparsers(metavar="COMMAND", required=True)
    for name, (summary, example, add) in _VERBS.items():
        text = f"{summary[0].upper()}{summary[1:]}."
        verb = group.add_parser(name, help=summary, description=text, epilog=f"example: {example}")
        add(verb)
        verb.set_defaults(run=verbs[name], parser=verb)
    return root


class _Version(argparse.Action):
    """As argparse's own, but the package is asked when the flag is there: that imports torch."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from . import __version__

        print(f"lightsr {__version__}")
        parser.exit()


def given(args: argparse.Namespace, name: str, required: bool = True) -> str | None:
    """A path that may come by its place or by a flag (see `_add_path`); giving neither or both is a usage error."""
    by_place, by_flag = getattr(args, name), getattr(args, f"{name}_by_flag")
    if by_place is not None and by_flag is not None:
        args.parser.error(f"{name} is given twice: {by_place} and {by_flag}")
    found: str | None = by_flag if by_place is None else by_place
    if required and found is None:
        args.parser.error(f"the following arguments are required: {name}")
    return found


def _add_upscale(verb: argparse.ArgumentParser) -> None:
    _add_path(verb, "input", "-i", "IN", "a picture (PNG, JPEG, WebP, TIFF or BMP) or a folder of them")
    verb.add_argument(
        "-o", "--output", metavar="OUT", help="a picture, or a folder to put results in (default: beside IN)"
    )
    _add_network(verb)
    verb.add_argument("-w", "--weights", metavar="FILE", help=f"trained weights: {WEIGHTS}")
    _add_running(verb)
    formats = ("png", "jpeg", "webp", "tiff", "bmp")
    verb.add_argument("--format", choices=formats, help="what to write (default: by OUT's suffix, else as the input)")
    verb.add_argument("--quality", type=_whole(1, 100), default=95, metavar="Q", help="of JPEG and WebP (default 95)")
    verb.add_argument("--strip-metadata", action="store_true", help="write no EXIF, colour profile or DPI")
    verb.add_argument(
        "--max-pixels",
        type=_whole(1),
        default=178_956_970,
        metavar="N",
        help="refuse larger pictures before decoding them (default %(default)s)",
    )
    verb.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        help="leave out pictures whose result is newer than they are (default: under torchrun alone)",
    )
    verb.add_argument("-q", "--quiet", action="store_true", help="print errors only")


def _add_evaluate(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("folder", nargs="+", metavar="FOLDER", help="high-resolution pictures, such as Set5/HR")
    verb.add_argument(
        "-n",
        "--network",
        action="append",
        required=True,
        type=_network_and_weights,
        metavar="NET[=WEIGHTS]",
        help="a network and its weights, such as hasn=HASN.pth; or bicubic; repeat for more rows",
    )
    verb.add_argument("-s", "--scale", type=int, choices=SCALES, required=True, help="how many times larger")
    verb.add_argument(
        "--lr",
        action="append",
        metavar="FOLDER",
        help="low-resolution pictures, repeated for each FOLDER (default: MATLAB's bicubic, made here)",
    )
    _add_running(verb)
    verb.add_argument("--json", metavar="FILE", help="write every figure as JSON")
    verb.add_argument("--csv", metavar="FILE", help="write a row for each picture and network as CSV")
    verb.add_argument("--report", metavar="FILE", help="write an HTML page with crops and a plot")
    verb.add_argument("-q", "--quiet", action="store_true", help="print the table only")


def _add_info(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("network", nargs="?", metavar="NETWORK", help="one network (default: all)")
    verb.add_argument("-s", "--scale", type=int, choices=SCALES, help="one scale (default: all)")
    verb.add_argument("--json", action="store_true", help="print JSON")


def _add_doctor(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="print JSON, as a bug report wants it")


def _add_export(verb: argparse.ArgumentParser) -> None:
    _add_path(verb, "weights", "-w", "WEIGHTS", f"{WEIGHTS} (default: those at hand for -n and -s)")
    _add_network(verb)
    verb.add_argument("-o", "--output", required=True, metavar="OUT", help="the file to write")
    formats = ("onnx", "pt2", "safetensors")
    verb.add_argument("--format", choices=formats, help="what to write (default: by the suffix of OUT)")
    verb.add_argument("--no-check", action="store_true", help="do not compare the written file with the network")
    verb.add_argument("-q", "--quiet", action="store_true", help="print errors only")


def _add_fold(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("input", metavar="IN", help=WEIGHTS)
    verb.add_argument("-o", "--output", required=True, metavar="OUT", help="the .safetensors file to write")
    verb.add_argument("-q", "--quiet", action="store_true", help="print errors only")


def _add_train(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("config", metavar="CONFIG", help="a TOML file, or a recipe such as hasn_x4")
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="put a setting in place of the file's, such as data.train=DIV2K; repeat for more",
    )
    verb.add_argument("-o", "--output", metavar="FOLDER", help="where the run goes, and goes on (default runs/CONFIG)")
    verb.add_argument("--max-time", type=float, metavar="MINUTES", help="stop and save after that long; 0: never")
    verb.add_argument("--fresh", action="store_true", help="begin anew, whatever the folder holds")
    verb.add_argument("--print-config", action="store_true", help="print every setting as TOML, and train nothing")
    verb.add_argument("--pack", metavar="FILE", help="put the training pictures into one file, and train nothing")
    verb.add_argument("-q", "--quiet", action="store_true", help="print errors only")


_VERBS: dict[str, tuple[str, str, Callable[[argparse.ArgumentParser], None]]] = {
    "upscale": (
        "enlarge a picture, or every picture of a folder",
        "lightsr upscale photo.jpg -o photo_x4.png",
        _add_upscale,
    ),
    "evaluate": (
        "measure PSNR and SSIM by the papers' protocol",
        "lightsr evaluate Set5/HR Set14/HR -n bicubic -n hasn=HASN.pth -s 4",
        _add_evaluate,
    ),
    "info": ("list the networks: size, cost, tiles, weights at hand", "lightsr info hasn -s 4", _add_info),
    "doctor": ("say what this machine has and which kernels will run", "lightsr doctor --json", _add_doctor),
    "export": ("write ONNX, torch.export or folded weights", "lightsr export HASN.pth -o hasn_x4.onnx", _add_export),
    "train": (
        "train a network by a recipe, or go on with a training that was stopped",
        "lightsr train hasn_x4 --set data.train=DIV2K/HR --max-time 600",
        _add_train,
    ),
    "fold": ("fold training-only weights into plain filters", "lightsr fold in.pth -o out.safetensors", _add_fold),
}


def _add_path(verb: argparse.ArgumentParser, name: str, flag: str, metavar: str, text: str) -> None:
    """A path by its place, or by a flag as the users of Real-ESRGAN know it; `given` reads either."""
    verb.add_argument(name, nargs="?", metavar=metavar, help=text)
    verb.add_argument(flag, f"--{name}", dest=f"{name}_by_flag", metavar=metavar, help=f"{metavar}, by a flag")


def _add_network(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("-n", "--network", metavar="NAME", help="bicubic, lmswn, mafdn, hasn or idsa_net")
    verb.add_argument("-s", "--scale", type=int, choices=SCALES, help="how many times larger; weights tell both")


def _add_running(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--tile",
        type=_tile,
        default="auto",
        metavar="auto|off|N",
        help="side of a tile in input pixels; auto takes the whole picture, and halves when memory runs out",
    )
    verb.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default auto)")
    verb.add_argument("--backend", choices=BACKENDS, help="which kernels run (default: LIGHTSR_BACKEND, else auto)")


def _whole(low: int, high: int | None = None) -> Callable[[str], int]:
    wanted = f"a whole number from {low} {'up' if high is None else f'to {high}'}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"must be {wanted}; got {text!r}")
        return value

    return parse


def _tile(text: str) -> str | int:
    if text in ("auto", "off"):
        return text
    try:
        return _whole(1)(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"must be auto, off or a whole number from 1 up; got {text!r}") from None


def _network_and_weights(text: str) -> tuple[str, str | None]:
    name, equals, weights = text.partition("=")
    if not name or (equals and not weights):
        raise argparse.ArgumentTypeError(f"must be NET or NET=WEIGHTS, such as hasn=HASN.pth; got {text!r}")
    return name, weights or None
