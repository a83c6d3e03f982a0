"""Which patches a step trains on, and how they are cut: everything follows from the seed, the stage and the step.

No state is kept from one step to the next, so that a resumed training sees the very patches it would have seen, with
any number of workers and of processes: each process takes its share of the same batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ..resize import imresize
from .pictures import MARGIN, Pictures, Planes


@dataclass(frozen=True)
class Cut:
    """One patch: where it is in low-resolution pixels, and how it is turned (bits: left-right, up-down, transposed)."""

    picture: int
    top: int
    left: int
    turn: int


@dataclass(frozen=True)
class Sampler:
    """Draws patches: every place of every picture is as likely as another."""

    sizes: np.ndarray  # [pictures, 2] int64: height, width in low-resolution pixels
    seed: int
    stage: int
    patch: int  # side in low-resolution pixels
    batch: int  # over all processes
    turns: int  # bits of `Cut.turn` that may be set

    @classmethod
    def over(
        cls, pictures: Pictures, seed: int, stage: int, patch: int, batch: int, flips: bool, rotations: bool
    ) -> Sampler:
        """For these pictures; a rotation by 90 degrees is a transposition with or without a flip."""
        sizes = np.array([[side // pictures.scale for side in each] for each in pictures.hr.sizes], dtype=np.int64)
        return cls(sizes, seed, stage, patch, batch, (3 if flips else 0) | (4 if rotations else 0))

    def cuts(self, step: int) -> list[Cut]:
        """The whole batch of a step."""
        draw = np.random.Generator(np.random.Philox(key=[(self.seed << 8) + self.stage, step]))
        places = self.sizes - (self.patch - 1)
        ends = np.cumsum(places.prod(1))
        found = draw.integers(ends[-1], size=self.batch)
        turns = draw.integers(8, size=self.batch) & self.turns
        numbers = np.searchsorted(ends, found, side="right")
        within = found - (ends - places.prod(1))[numbers]
        tops, lefts = np.divmod(within, places[numbers, 1])
        return [Cut(*map(int, each)) for each in zip(numbers, tops, lefts, turns, strict=True)]


class Batches(IterableDataset[tuple[Tensor, Tensor]]):
    """The batches from one step to another, as DataLoader takes them; `finished` makes pairs of them on the device."""

    def __init__(self, pictures: Pictures, sampler: Sampler, steps: range, rank: int = 0, ranks: int = 1) -> None:
        self.pictures = pictures
        self.sampler = sampler
        self.steps = steps
        self.rank = rank
        self.ranks = ranks

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = get_worker_info()
        for step in self.steps if worker is None else self.steps[worker.id :: worker.num_workers]:
            yield self.batch(step)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The share of this process of a step's batch.

        Low and high resolution, [B, 3, p, p] and [B, 3, scale*p, scale*p] uint8; or, where the pictures have no low
        resolution, high resolution with a margin, not turned yet, and the turns, [B] uint8.
        """
        cuts = self.sampler.cuts(step)[self.rank :: self.ranks]
        scale, patch = self.pictures.scale, self.sampler.patch
        if self.pictures.lr is not None:
            return _cut(self.pictures.lr, cuts, patch, 1), _cut(self.pictures.hr, cuts, patch, scale)
        plain = [replace(cut, turn=0) for cut in cuts]
        turns = torch.tensor([cut.turn for cut in cuts], dtype=torch.uint8)
        return _gathered(self.pictures.hr, plain, patch, scale, MARGIN), turns


def finished(
    first: Tensor,
    second: Tensor,
    scale: int,
) -> tuple[Tensor, Tensor]:  # [B, 3, p, p] and [B, 3, scale*p, scale*p] uint8
    """A pair of low and high resolution from what `Batches` gave, on the device it is on.

    What it shrinks itself comes out with the bytes of the whole pictures' MATLAB bicubic: the margin is what the filter
    reads beyond a patch, and turns come after it because it rounds between rows and columns.
    """
    if second.dim() > 1:
        return first, second
    edge = MARGIN * scale
    lr = imresize(first, 1 / scale)[..., MARGIN:-MARGIN, MARGIN:-MARGIN].clone()
    hr = first[..., edge:-edge, edge:-edge].clone()
    for turn in sorted(set(second.tolist())):
        chosen = second == turn
        lr[chosen], hr[chosen] = _turned(lr[chosen], turn), _turned(hr[chosen], turn)
    return lr, hr


def _cut(planes: Planes, cuts: list[Cut], patch: int, scale: int) -> Tensor:  # [B, 3, scale*p, scale*p]
    """Patches at low-resolution places of planes that are `scale` times larger."""
    if planes.values.device.type != "cpu":
        return _gathered(planes, cuts, patch, scale, 0)
    side = patch * scale
    out = torch.zeros(len(cuts), 3, side, side, dtype=torch.uint8)
    for k, cut in enumerate(cuts):
        top, left = cut.top * scale, cut.left * scale
        out[k] = _turned(planes.picture(cut.picture)[:, top : top + side, left : left + side], cut.turn)
    return out


def _turned(patch: Tensor, turn: int) -> Tensor:  # [..., S, S]
    flipped = [dim for bit, dim in ((1, -1), (2, -2)) if turn & bit]
    patch = patch.flip(flipped) if flipped else patch
    return patch.mT if turn & 4 else patch


def _gathered(planes: Planes, cuts: list[Cut], patch: int, scale: int, margin: int) -> Tensor:  # [B, 3, S, S]
    """All patches by one gather, which is what a GPU does well; a turn is another order of indices.

    S = scale * (patch + 2 * margin); a margin beyond the border mirrors the picture.
    """
    device, side = planes.values.device, scale * (patch + 2 * margin)
    heights, widths = np.array([planes.sizes[cut.picture] for cut in cuts]).T[:, :, None]
    run = np.arange(side)[None]
    down = np.array([bool(cut.turn & 2) for cut in cuts])[:, None]
    across = np.array([bool(cut.turn & 1) for cut in cuts])[:, None]
    rows = np.array([[(cut.top - margin) * scale] for cut in cuts]) + np.where(down, side - 1 - run, run)
    columns = np.array([[(cut.left - margin) * scale] for cut in cuts]) + np.where(across, side - 1 - run, run)
    rows, columns = _mirrored(rows, heights) * widths, _mirrored(columns, widths)
    transposed = np.array([bool(cut.turn & 4) for cut in cuts])[:, None]
    # What moves along the result's rows and along its columns; a transposition exchanges the two.
    along_rows, along_columns = np.where(transposed, columns, rows), np.where(transposed, rows, columns)
    starts = np.array([planes.offsets[cut.picture] for cut in cuts])[:, None] + np.arange(3) * heights * widths
    first, second, third = (torch.from_numpy(each).to(device) for each in (starts, along_rows, along_columns))
    return planes.values[first[:, :, None, None] + second[:, None, :, None] + third[:, None, None, :]]


def _mirrored(places: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Places beyond a border come back with the edge pixel repeated, as in `imresize`."""
    places = places % (2 * sides)
    back: np.ndarray = np.minimum(places, 2 * sides - 1 - places)
    return back
