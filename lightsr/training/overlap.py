"""Keeps test pictures out of training: figures measured on what was trained on are worth nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..images import read_rgb8
from ..metrics import luma
from ..testsets import find_data_sets
from .pictures import Pictures

TEST_SETS = re.compile(r"(set5|set14|b(sd)?100|urban100|manga109)(_.*)?", re.IGNORECASE)
SIDE = 8  # of a thumbnail
# Grey levels of mean difference: cutting 3 pixels off a border of a small picture moves it by up to 4.5, and the
# closest two of 420 different pictures are 7.4 apart.
ALIKE = 5.0


def refuse_test_sets(places: Sequence[str]) -> None:
    """Raises InputError when a training folder has the name of a benchmark set."""
    for place in places:
        found = next((part for part in Path(place).absolute().parts if TEST_SETS.fullmatch(part)), None)
        if found is not None:
            raise InputError(
                f"data.train: {place} is called {found}, a test set; pictures to be measured on are not trained on"
            )


def refuse_overlap(pictures: Pictures, validate: Sequence[str], scale: int) -> None:
    """Raises InputError when a validation picture is a training picture too, and when a validation folder is wrong.

    Pictures are compared by thumbnails of their brightness, so that another file format, size or cut at a border by a
    few pixels does not hide one; a small part of a larger picture is not found.
    """
    if not validate:
        return
    pairs = [pair for each in find_data_sets([Path(each) for each in validate], None, scale) for pair in each.pairs]
    seen: dict[int, str] = {}
    thumbnails = []
    for number, (name, offset) in enumerate(zip(pictures.names, pictures.hr.offsets, strict=True)):
        if offset not in seen:
            seen[offset] = name
            thumbnails.append((name, _thumbnail(pictures.hr.picture(number))))
    for pair in pairs:
        try:
            wanted = _thumbnail(read_rgb8(pair.hr))
        except InputError:
            continue  # `evaluate` leaves it out too, and says so
        for name, thumbnail in thumbnails:
            if float((thumbnail - wanted).abs().mean()) < ALIKE:
                raise InputError(f"{pair.hr} is among the training pictures, as {name}; take it out of one of the two")


def _thumbnail(picture: Tensor) -> Tensor:  # [3, H, W] uint8 -> [SIDE, SIDE] float64
    return F.adaptive_avg_pool2d(luma(picture)[None], SIDE)[0]
