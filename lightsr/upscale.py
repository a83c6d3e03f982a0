"""Enlarges pictures: a file or a folder in, files out, with everything a picture file has besides its pixels."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .captured import Repeated
from .devices import choose_device, using_backend
from .errors import InputError
from .images import MAX_PIXELS, Picture, check_fits, format_of, read_header, read_picture, write_picture
from .memory import is_out_of_memory, shown, usable_memory
from .networks import SRNetwork, create, network_class
from .outputs import Job, make_folder, plan
from .resize import imresize
from .shares import is_finished, own_device, rank_and_ranks, share_of
from .tiles import PatchLimit, Progress, check_tile, run_tiled

DEFAULT = "hasn"  # has weights in the package at every scale
_LUMA = (0.299, 0.587, 0.114)  # BT.601: how grey a colour looks


@dataclass
class Report:
    """What became of every picture."""

    done: list[Path] = field(default_factory=list)  # files written
    failed: list[tuple[Path, str]] = field(default_factory=list)  # pictures skipped, and why
    notes: list[str] = field(default_factory=list)  # what the user should know of the results


def upscale(
    source: str | Path,
    output: str | Path | None = None,
    *,
    network: str | None = None,
    scale: int | None = None,
    weights: str | Path | None = None,
    tile: str | int = "auto",
    device: str | torch.device = "auto",
    backend: str | None = None,
    format: str | None = None,
    quality: int = 95,
    strip_metadata: bool = False,
    max_pixels: int = MAX_PIXELS,
    resume: bool | None = None,
    quiet: bool = False,
) -> Report:
    """Enlarges a picture, or every picture directly in a folder, 2, 3 or 4 times.

    Args:
        source: a PNG, JPEG, WebP, TIFF or BMP file, or a folder of them.
        output: a file, or a folder (made if need be) that gets `{stem}_{network}x{scale}` with the input's suffix; or
            None: that name in the input's folder, for a folder a new one beside it called `{name}_{network}x{scale}`.
        network: bicubic, lmswn, mafdn, hasn or idsa_net; None: that of `weights`, else hasn.
        scale: 2, 3 or 4; None: that of `weights`, else 4.
        weights: a .safetensors, .pth, .pt or .ckpt file; None takes those at hand, such as come with the package.
            bicubic needs none.
        tile: "auto", "off" or a side in input pixels; see `lightsr.tiles.run_tiled`.
        device: auto (a GPU when there is one), cpu, cuda, cuda:1, mps.
        backend: which kernels run: auto, reference, cpu, triton or cuda; None for LIGHTSR_BACKEND's.
        format: png, jpeg, webp, tiff or bmp; None goes by the output's suffix, or the input's in a folder.
        quality: of JPEG and WebP, 1 to 100; 100 makes WebP lossless.
        strip_metadata: leaves EXIF, colour profile and DPI out.
        max_pixels: larger pictures are refused before they are decoded.
        resume: leaves out pictures whose result is newer than they and the weights are; None: under torchrun alone.
        quiet: no progress bar; there is none off a terminal anyway.

    Under torchrun each process takes its share of a folder, on the GPU of its number where there are any.

    Returns:
        The files written and the pictures skipped, each with its reason. float32 throughout. Each file is written under
        a temporary name first, so that neither an error nor Ctrl-C leaves half of one.

    Raises InputError in one line for what concerns all pictures: arguments, weights, device, the two paths.

    Example:
        >>> from lightsr.upscale import upscale
        >>> report = upscale("photo.jpg", "photo_x2.png", network="bicubic", scale=2)  # doctest: +SKIP
        >>> report.done  # doctest: +SKIP
        [PosixPath('photo_x2.png')]
    """
    check_tile(tile)
    if not 1 <= quality <= 100:
        raise InputError(f"quality must be from 1 to 100; got {quality}")
    report = Report()
    with using_backend(backend):
        # Paths are checked first, because a slip there should not wait for a network to load.
        name = network or (DEFAULT if weights is None else "network")
        place = None if output is None else Path(output)
        plan(Path(source), place, f"{name}x{scale}", format)
        rank, ranks = rank_and_ranks()
        net, used = _network(network, scale, weights, own_device(device))
        jobs, clashes = plan(Path(source), place, f"{net.name}x{net.scale}", format)
        report.failed += clashes if rank == 0 else []
        if jobs:
            make_folder(jobs[0].target.parent)
        jobs = share_of(jobs)
        if resume or (resume is None and ranks > 1):
            planned = len(jobs)
            jobs = [job for job in jobs if not is_finished(job, used)]
            if len(jobs) < planned:
                report.notes.append(f"{planned - len(jobs)} of {planned} results were there already")
        limit = PatchLimit(repeated=Repeated())
        with _bar(len(jobs), quiet or rank > 0) as bar:
            for number, job in enumerate(jobs):
                try:
                    _enlarge_file(net, job, tile, limit, bar.update, max_pixels, quality, strip_metadata)
                    report.done.append(job.target)
                except InputError as error:
                    report.failed.append((job.source, str(error).removeprefix(f"{_shown(job.source)}: ")))
                bar.update(number + 1 - bar.n)
    if limit.tiled and not net.exact_tiles:
        report.notes.append(
            f"tiling is approximate for {net.title}: it pools over the whole picture, and a tile sees only itself; "
            "tile off takes pictures whole"
        )
    return report


def upscale_picture(
    net: SRNetwork,
    picture: Picture,
    tile: str | int = "auto",
    progress: Progress | None = None,
    limit: PatchLimit | None = None,
) -> Picture:
    """Enlarges a picture in memory: colour through the network, transparency by bicubic.

    The colour is multiplied by alpha before and divided by it after, so that what is hidden under transparency does not
    bleed into what shows. Opaque stays opaque, grey stays grey, bits and metadata are handed on.

    Raises InputError when the network's result is not finite, or does not fit into memory.

    Example:
        >>> import torch, lightsr
        >>> from lightsr.images import Picture
        >>> from lightsr.upscale import upscale_picture
        >>> upscale_picture(lightsr.create("bicubic", scale=3), Picture(torch.rand(3, 5, 4))).size
        (12, 15)
    """
    alpha = picture.alpha
    see_through = alpha is not None and bool((alpha < 1).any())
    colour = picture.colour * alpha if alpha is not None and see_through else picture.colour
    out = run_tiled(net, colour[None], tile, progress, limit)[0]
    _check_finite(net, out)
    out.clamp_(0, 1)
    if alpha is not None:
        alpha = imresize(alpha, net.scale).clamp_(0, 1) if see_through else out.new_ones(1, *out.shape[1:])
        out = _unmultiplied(out, alpha) if see_through else out
    if picture.grey:
        out = _grey(out)
    return replace(picture, colour=out, alpha=alpha)


def _enlarge_file(
    net: SRNetwork,
    job: Job,
    tile: str | int,
    limit: PatchLimit,
    progress: Progress,
    max_pixels: int,
    quality: int,
    strip_metadata: bool,
) -> None:
    header = read_header(job.source, max_pixels)
    _check_room(header.width, header.height, net.scale, limit.held)
    try:
        picture = read_picture(job.source, max_pixels)
        check_fits(format_of(job.target), picture, net.scale)
        result = upscale_picture(net, picture, tile, progress, limit)
        if strip_metadata:
            result = replace(result, exif=None, icc=None, dpi=None)
        write_picture(job.target, result, quality)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"not enough memory for {header.width}x{header.height} pixels times {net.scale}; close other programs"
        ) from None


def _check_room(width: int, height: int, scale: int, held: int = 0) -> None:
    """The result is kept whole in float32, and once more in the file's own numbers."""
    pixels = width * height * scale**2
    needed, free = pixels * 20, usable_memory(torch.device("cpu"), held)
    if needed > free:
        raise InputError(
            f"{width}x{height} pixels times {scale} need {shown(needed)} and {shown(free)} are free; "
            "enlarge it in parts, or less"
        )


def _check_finite(net: SRNetwork, out: Tensor) -> None:
    if out.numel() == 0 or bool(torch.stack(torch.aminmax(out)).isfinite().all()):
        return
    broken = next((key for key, value in net.state_dict().items() if not value.isfinite().all()), None)
    cause = f"its weights hold NaN or infinity ({broken})" if broken else "its numbers overflowed on this picture"
    raise InputError(f"{net.title} gave values that are not finite: {cause}; other weights are needed")


def _unmultiplied(
    colour: Tensor,  # [3, H, W], already times alpha
    alpha: Tensor,  # [1, H, W]
) -> Tensor:  # [3, H, W]
    """Takes alpha out of the colour again; where nothing shows, black."""
    return torch.where(alpha > 0, colour / alpha.clamp_min(1e-6), 0.0).clamp_(0, 1)


def _grey(colour: Tensor) -> Tensor:  # [3, H, W] -> [3, H, W] with equal channels
    luma: Tensor = _LUMA[0] * colour[0]
    for weight, channel in zip(_LUMA[1:], colour[1:], strict=True):
        luma.add_(channel, alpha=weight)
    return luma.expand(3, -1, -1)


def _network(
    name: str | None, scale: int | None, weights: str | Path | None, device: str | torch.device
) -> tuple[SRNetwork, str | Path | None]:
    """The network on its device, in eval mode, with its weights; and the file that they are from."""
    from .at_hand import weights_for
    from .checkpoint import load

    place = choose_device(device)
    if name is not None:
        network_class(name)
    if scale not in (None, 2, 3, 4):
        raise InputError(f"scale must be 2, 3 or 4; got {scale!r}")
    if name == "bicubic":
        if weights is not None:
            raise InputError(f"bicubic has no weights; leave {weights} out, or name another network")
        return create("bicubic", scale or 4).eval(), None
    if weights is None:
        weights = weights_for(name or DEFAULT, scale or 4)
    return load(weights, network=name, scale=scale, use_fused=True, device=place), weights


@contextmanager
def _bar(total: int, quiet: bool) -> Iterator[Any]:
    from tqdm import tqdm

    layout = "{percentage:3.0f}%|{bar}| {n:.1f}/{total} pictures [{elapsed}, {remaining} left]"
    with tqdm(total=total, disable=quiet or not sys.stderr.isatty(), leave=False, bar_format=layout) as bar:
        yield bar


def _shown(path: Path) -> str:
    """A path as InputError writes it."""
    return str(InputError(str(path)))
