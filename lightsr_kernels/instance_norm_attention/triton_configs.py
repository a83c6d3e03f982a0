"""The tiles of instance_norm_attention's Triton kernels, and the rule that picks one for a call."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..functional import layout_of
from ..triton_common import up

ENOUGH_WARPS = 1024  # that a large GPU is busy with
START = 256  # values that a program could have computed in the time that it, or each of its warps, takes to begin


@dataclass(frozen=True)
class Config:
    """A tile: channels by pixels."""

    channels_last: bool
    channels: int
    pixels: int
    warps: int

    @property
    def held(self) -> int:
        """Values of a tile that one thread has."""
        return up(self.channels * self.pixels, 32 * self.warps)


# Moments of planes: many pixels, so that the parts are few.
MOMENT_CONFIGS = (
    Config(False, channels=1, pixels=4096, warps=4),
    Config(False, channels=1, pixels=1024, warps=2),
    Config(False, channels=8, pixels=64, warps=2),
    Config(True, channels=64, pixels=64, warps=4),
    Config(True, channels=32, pixels=128, warps=4),
    Config(True, channels=16, pixels=128, warps=2),
    Config(True, channels=4, pixels=256, warps=2),
)
# Sums of gradients over planes: as many pixels as registers allow.
SUM_CONFIGS = (
    Config(False, channels=1, pixels=2048, warps=4),
    Config(False, channels=1, pixels=1024, warps=4),
    Config(False, channels=8, pixels=64, warps=2),
    Config(True, channels=64, pixels=32, warps=4),
    Config(True, channels=32, pixels=64, warps=4),
    Config(True, channels=16, pixels=64, warps=2),
    Config(True, channels=16, pixels=32, warps=2),
    Config(True, channels=4, pixels=128, warps=2),
)
# Sums over the channels of a pixel: few pixels, because a program walks all their channels.
PIXEL_CONFIGS = (
    Config(False, channels=8, pixels=128, warps=4),
    Config(False, channels=8, pixels=32, warps=2),
    Config(True, channels=64, pixels=16, warps=4),
    Config(True, channels=32, pixels=16, warps=2),
    Config(True, channels=16, pixels=32, warps=2),
    Config(True, channels=4, pixels=64, warps=1),
)
# One value for each value.
VALUE_CONFIGS = (
    Config(False, channels=1, pixels=1024, warps=4),
    Config(False, channels=4, pixels=64, warps=1),
    Config(True, channels=64, pixels=16, warps=4),
    Config(True, channels=32, pixels=32, warps=4),
    Config(True, channels=16, pixels=64, warps=4),
    Config(True, channels=4, pixels=64, warps=1),
)


def choose(configs: tuple[Config, ...], x: Tensor) -> Config:
    """Of the tiles of this layout the one with the least work, unless it leaves most of the GPU idle."""
    last = layout_of(x) == torch.channels_last
    n, channels, height, width = x.shape

    def work(config: Config) -> float:
        blocks, steps = up(channels, config.channels), up(height * width, config.pixels)
        walked = blocks if configs is PIXEL_CONFIGS else 1  # tiles of one program
        programs = n * steps * blocks // walked
        values = walked * config.channels * config.pixels
        # Some of the channels of every pixel are less than what memory moves at once.
        apart = 1 + 16 / config.channels if last and blocks > 1 else 1.0
        idle = max(1.0, ENOUGH_WARPS / (programs * config.warps))
        return programs * (apart * values + START * (1 + config.warps)) * idle

    return min((each for each in eligible(configs, x) if each.channels_last == last), key=work)


def eligible(configs: tuple[Config, ...], x: Tensor) -> list[Config]:
    """The tiles that fit into registers."""
    limited = configs is SUM_CONFIGS and x.dtype == torch.float64
    return [each for each in configs if not limited or each.held <= 8]
