"""`lightsr evaluate`: PSNR and SSIM of networks on test sets, by the protocol of the papers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from .compare import SHOWN, compare
from .contenders import Contender, Entry, contenders_of, evaluating
from .devices import choose_device, machine, using_backend
from .errors import InputError
from .evaluation import Comparison, Evaluation, Row
from .images import read_rgb8
from .metrics import psnr, ssim
from .networks import SCALES, SRNetwork
from .resize import imresize
from .testsets import DataSet, Pair, find_data_sets
from .tiles import run_tiled

PROTOCOL = (
    "PSNR (dB) / SSIM on Y of BT.601 (16 to 235) of 8-bit results, {scale} pixels cropped a side, "
    "SSIM 11x11 gaussian sigma 1.5 where it fits whole; LR: {lr}"
)
WARM_UP = 32  # side of the picture that takes the costs of a first call

__all__ = ["Entry", "evaluate"]


def evaluate(
    folders: str | Path | Sequence[str | Path],
    networks: Sequence[Entry | SRNetwork],
    scale: int,
    *,
    lr: str | Path | Sequence[str | Path] | None = None,
    tile: str | int = "auto",
    device: str | torch.device = "auto",
    backend: str | None = None,
    quiet: bool = False,
    report: bool = False,
) -> Evaluation:
    """Measures PSNR, SSIM and seconds per picture of networks on folders of high-resolution pictures.

    Each picture is cropped to a multiple of the scale from its top left corner and shrunk by MATLAB's bicubic
    (`imresize`), or its low-resolution file is read; the network's result is clipped and rounded half up to 8 bits, and
    compared on BT.601 luma with `scale` pixels cropped a side. Grey pictures are repeated to RGB first. A picture that
    cannot be used is left out for all networks, and listed in `failed`.

    Args:
        folders: data sets, one or several, such as Set5/HR, which is called Set5.
        networks: rows of the table in this order: entries by name and weights, or networks as they are (which stay on
            their device).
        scale: 2, 3 or 4; what every network must have.
        lr: low-resolution pictures, a folder for each of `folders`, matched by stem (endings such as x4 or _bicubic
            aside); None makes them here.
        tile: as in `upscale`: auto, off or a side in low-resolution pixels.
        device: auto (a GPU when there is one), cpu, cuda, cuda:1, mps.
        backend: which `lightsr_kernels` backend runs: auto, reference, cpu, triton, cuda; None for LIGHTSR_BACKEND's.
        quiet: no progress bar, which also is silent when stderr is no terminal.
        report: keeps crops for `lightsr.report.write_report`, which needs matplotlib (the extra lightsr[report]).

    Returns:
        An Evaluation: rows, means(), failed, table(), write_json(path), write_csv(path). Seconds are the network's
        alone, transfers and first-call preparations left out.

    Raises InputError when a folder, the weights, the device or the scale is wrong.

    Example:
        >>> from lightsr.evaluate import Entry, evaluate
        >>> entries = [Entry("bicubic"), Entry("hasn", "HASN.pth")]
        >>> print(evaluate(["Set5/HR"], entries, scale=4).table())  # doctest: +SKIP
    """
    if scale not in SCALES:
        raise InputError(f"scale must be 2, 3 or 4; got {scale!r}")
    if report:
        from .report import require_matplotlib

        require_matplotlib()
    data_sets = find_data_sets(_paths(folders), None if lr is None else _paths(lr), scale)
    place = choose_device(device)
    contenders = contenders_of(networks, scale, place)
    result = Evaluation(
        scale=scale,
        protocol=PROTOCOL.format(scale=scale, lr="MATLAB bicubic of HR" if lr is None else "read from files"),
        machine=machine(place),
        tile=tile,
        networks=[each.facts for each in contenders],
    )
    pictures = sum(len(each.pairs) for each in data_sets)
    with (
        using_backend(backend),
        torch.inference_mode(),
        evaluating(contenders),
        _progress(pictures * len(contenders), quiet) as advance,
    ):
        for each in contenders:
            run_tiled(each.net, torch.zeros(1, 3, WARM_UP, WARM_UP, device=each.device), tile)
        for data_set in data_sets:
            _measure_set(result, data_set, contenders, report, advance)
    result.notes = [each.note for each in contenders if each.note is not None]
    return result


def _measure_set(
    result: Evaluation,
    data_set: DataSet,
    contenders: Sequence[Contender],
    report: bool,
    advance: Callable[[int], object],
) -> None:
    result.failed += [(path, "has no low-resolution file of its name") for path in data_set.unmatched]
    shown: list[Comparison] = []
    for pair in data_set.pairs:
        rows: list[Row] = []
        outputs: dict[str, Tensor] = {}
        try:
            hr, lr = _read(pair, result.scale)
            for each in contenders:
                output, seconds = _enlarge(each, lr, result.tile)
                outputs[each.label] = output
                figures = (psnr(output, hr, result.scale), ssim(output, hr, result.scale), seconds)
                rows.append(Row(data_set.name, pair.hr.name, each.label, *figures, hr.shape[2], hr.shape[1]))
                advance(1)
        except InputError as error:
            result.failed.append((pair.hr, str(error).removeprefix(f"{pair.hr}: ")))
            advance(len(contenders) - len(rows))
            continue
        result.rows += rows
        if report:
            baseline = next((outputs[each.label] for each in contenders if each.net.name == "bicubic"), None)
            if baseline is None:
                baseline = _to_uint8(imresize(lr.float() / 255, result.scale))
            shown.append(compare(data_set.name, pair.hr.name, hr, baseline, outputs, result.scale))
            shown = sorted(shown, key=lambda each: -each.strength)[:SHOWN]
    result.comparisons += shown


def _read(pair: Pair, scale: int) -> tuple[Tensor, Tensor]:  # [3, H, W] and [3, H/scale, W/scale] uint8
    hr = read_rgb8(pair.hr)
    height, width = (side // scale for side in hr.shape[1:])
    if min(height, width) == 0:
        raise InputError(f"{hr.shape[2]}x{hr.shape[1]} is too small for x{scale}")
    hr = hr[:, : height * scale, : width * scale]
    if pair.lr is None:
        return hr, imresize(hr, 1 / scale)
    lr = read_rgb8(pair.lr)
    if lr.shape[1:] != (height, width):
        raise InputError(f"its low-resolution file {pair.lr} is {lr.shape[2]}x{lr.shape[1]}, not {width}x{height}")
    return hr, lr


def _enlarge(contender: Contender, lr: Tensor, tile: str | int) -> tuple[Tensor, float]:  # [3, H, W] uint8, seconds
    x = lr.to(contender.device).float().div(255)[None]
    _wait_for(contender.device)
    start = time.perf_counter()
    out = run_tiled(contender.net, x, tile, limit=contender.limit)
    _wait_for(contender.device)
    seconds = time.perf_counter() - start
    if not torch.isfinite(out).all():
        raise InputError(f"{contender.label} gives values that are not finite")
    return _to_uint8(out[0].cpu()), seconds


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _to_uint8(picture: Tensor) -> Tensor:
    return (picture.clamp(0, 1) * 255 + 0.5).floor().to(torch.uint8)


@contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Callable[[int], object]]:
    from tqdm import tqdm

    with tqdm(total=total, unit="picture", disable=quiet or not sys.stderr.isatty(), leave=False) as bar:
        yield bar.update


def _paths(given: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(each) for each in ([given] if isinstance(given, str | Path) else given)]
