"""Bicubic enlargement as a network: the baseline row of every table, with nothing to train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..resize import imresize
from .base import SRNetwork


class Bicubic(SRNetwork):
    """MATLAB's bicubic imresize (a = -0.5, mirrored border), the interpolation the papers compare with."""

    name = "bicubic"
    title = "bicubic"
    source = "R. Keys, Cubic convolution interpolation for digital image processing, 1981; MATLAB imresize"
    exact_tiles = True

    def __init__(self, scale: int = 4, *, use_fused: bool = False) -> None:
        super().__init__(scale, use_fused)

    @property
    def radius(self) -> int:
        """The kernel spans two pixels each way."""
        return 2

    @classmethod
    def config_of(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """Never: there is nothing to load."""
        return None

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 3, scale*H, scale*W]
        return imresize(x, self.scale)
