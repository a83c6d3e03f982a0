"""`lightsr info`: every network's size, cost and tiles, and the trained weights at hand."""

from __future__ import annotations

import logging
from typing import Any

import torch

from . import folders
from .at_hand import WeightFile, how_to_add, manifest, weights_at_hand
from .folders import weight_folders
from .networks import REGISTRY, SCALES, SRNetwork, create, network_class


def info(network: str | None = None, scale: int | None = None) -> dict[str, Any]:
    """Facts about the networks and the weights at hand, ready for JSON.

    Args:
        network: one of them by name; None for all.
        scale: 2, 3 or 4; None for all.

    Returns:
        `networks`: a row for each network and scale: name, title, scale, parameters in the training form and folded,
        multi_adds at a 1280x720 result, radius and multiple in input pixels, exact_tiles, source, weights (paths).
        `weight_folders` and `weight_files`: where weights were looked for, and what was found; `trained` says how those
        that come with the package were, and their PSNR.

    Raises InputError for an unknown name.

    Example:
        >>> from lightsr.info import info
        >>> info("hasn", 4)["networks"][0]["parameters"]
        435272
    """
    names = list(REGISTRY) if network is None else [network_class(network).name]
    files, packaged = weights_at_hand(), manifest()
    return {
        "networks": [_row(name, each, files) for name in names for each in (SCALES if scale is None else (scale,))],
        "weight_folders": [str(folder) for folder in weight_folders()],
        "weight_files": [
            {
                **vars(each),
                "path": str(each.path),
                "trained": packaged.get(each.path.name) if each.path.parent == folders.PACKAGED else None,
            }
            for each in files
        ],
        "how_to_add_weights": how_to_add(),
    }


def _row(name: str, scale: int, files: list[WeightFile]) -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        net = create(name, scale)
    training = _parameters(net)
    net.fold()
    return {
        "name": name,
        "title": net.title,
        "scale": scale,
        "training_parameters": training,
        "parameters": _parameters(net),
        "multi_adds": _multiply_adds(net),
        "radius": net.radius,
        "multiple": net.multiple,
        "exact_tiles": net.exact_tiles,
        "source": net.source,
        "weights": [str(each.path) for each in files if (each.network, each.scale) == (name, scale)],
    }


def _parameters(net: SRNetwork) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def _multiply_adds(net: SRNetwork) -> int:
    # Where Triton is not installed, torch's counter warns that it leaves out Triton's kernels. There are none to count.
    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)
    from .networks.cost import multiply_adds

    return multiply_adds(net)


def as_text(facts: dict[str, Any]) -> str:
    """The facts as a table for the terminal, with the sources and the weights below it."""
    head = ("network", "scale", "parameters", "in training", "multi-adds", "radius", "multiple", "tiles", "weights")
    table = [head] + [_cells(row) for row in facts["networks"]]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if column in (0, 7, 8) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in table
    ]
    lines += [
        "",
        "multi-adds: for a 1280x720 result; radius, multiple: in input pixels; exact tiles equal the whole picture",
    ]
    sources = {row["title"]: row["source"] for row in facts["networks"]}
    lines += ["", *(f"{title}: {source}" for title, source in sources.items())]
    lines += ["", *_weight_lines(facts)]
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["name"],
        f"x{row['scale']}",
        f"{row['parameters']:,}",
        f"{row['training_parameters']:,}",
        f"{row['multi_adds'] / 1e9:.2f} G",
        str(row["radius"]),
        str(row["multiple"]),
        "exact" if row["exact_tiles"] else "approximate",
        f"{len(row['weights'])} at hand" if row["weights"] else "-",
    )


def _weight_lines(facts: dict[str, Any]) -> list[str]:
    lines = [f"weights are looked for in {', '.join(facts['weight_folders'])}"]
    for file in facts["weight_files"]:
        what = f"{file['network']} x{file['scale']}" if file["network"] else f"not usable: {file['problem']}"
        known = file["trained"]
        measured = f" (Set5 {known['Set5']['psnr']:.2f} dB, {known['steps']:,} steps on a CPU)" if known else ""
        lines.append(f"  {file['path']}: {what}{measured}")
    if not facts["weight_files"]:
        lines.append("  none there")
    return [*lines, f"  {facts['how_to_add_weights']}"]
