"""The tiles of the Triton depthwise kernels, and the rule that picks one for a call."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ..functional import layout_of
from ..triton_common import up

ENOUGH_WARPS = 1024  # that a large GPU is busy with
TUNED = Path(__file__).parent / "tuned"  # a table for each device that was measured: python -m bench.gpu_report


@dataclass(frozen=True)
class Config:
    """A tile, of either kernel: ROWS rows of it are summed at once, for up to TAPS taps of a column of the filter."""

    channels_last: bool
    rows: int
    columns: int
    size: int  # of the tile's other side: bands of rows, or channels where channels_last
    taps: int
    warps: int  # at most 4: Triton has miscompiled run-time loops over taps at 8

    @property
    def bands(self) -> int:
        return 1 if self.channels_last else self.size

    @property
    def channels(self) -> int:
        return self.size if self.channels_last else 1

    @property
    def lane(self) -> int:
        """Pixels of a tile that one thread has, in each row."""
        return max(1, self.columns * self.size // (32 * self.warps))


CONFIGS = (
    Config(False, rows=8, columns=128, size=1, taps=13, warps=1),
    Config(False, rows=8, columns=64, size=2, taps=13, warps=1),
    Config(False, rows=8, columns=32, size=4, taps=13, warps=1),
    Config(False, rows=4, columns=64, size=1, taps=13, warps=1),
    Config(False, rows=4, columns=128, size=4, taps=8, warps=4),
    Config(False, rows=2, columns=32, size=2, taps=8, warps=1),
    Config(False, rows=2, columns=16, size=8, taps=8, warps=1),
    Config(True, rows=8, columns=8, size=16, taps=8, warps=1),
    Config(True, rows=8, columns=8, size=64, taps=8, warps=4),
    Config(True, rows=4, columns=8, size=64, taps=8, warps=4),
    Config(True, rows=4, columns=8, size=16, taps=8, warps=1),
    Config(True, rows=2, columns=8, size=16, taps=8, warps=1),
)
WEIGHT_CONFIGS = (
    Config(False, rows=8, columns=128, size=1, taps=13, warps=1),
    Config(False, rows=8, columns=64, size=1, taps=31, warps=1),
    Config(False, rows=4, columns=128, size=1, taps=8, warps=1),
    Config(False, rows=4, columns=32, size=4, taps=8, warps=1),
    Config(False, rows=2, columns=16, size=8, taps=8, warps=1),
    Config(True, rows=8, columns=8, size=16, taps=8, warps=1),
    Config(True, rows=4, columns=8, size=16, taps=8, warps=1),
    Config(True, rows=4, columns=8, size=64, taps=8, warps=4),
    Config(True, rows=2, columns=8, size=16, taps=8, warps=1),
)
_tuned: dict[tuple[object, ...], Config] = {}


def choose(x: Tensor, size: tuple[int, int], dilation: list[int]) -> Config:
    """The tile of the forward kernel for this picture and filter."""
    return _choose(CONFIGS, x, size, dilation, _forward_work)


def choose_weight(x: Tensor, size: tuple[int, int], dilation: list[int]) -> Config:
    """The tile of the weight gradient's kernel for this picture and filter."""
    return _choose(WEIGHT_CONFIGS, x, size, dilation, _weight_work)


def tune(
    configs: tuple[Config, ...],
    x: Tensor,
    size: tuple[int, int],
    dilation: list[int],
    seconds: Callable[[Config], float],
) -> Config:
    """Measures the tiles that may be taken for calls like this one, and has the fastest taken from now on.

    Not while a CUDA graph is captured. Without it the rule decides, so that no call ever waits for measurements.
    """
    fastest = min(eligible(configs, x, size), key=seconds)
    _tuned[_key(configs, x, size, dilation)] = fastest
    return fastest


def forget() -> None:
    """Has the rule decide again wherever `tune` did."""
    _tuned.clear()


def bands_of(height: int, dilation: int, config: Config) -> int:
    """How many bands a picture has: each holds `rows` rows that are `dilation` apart."""
    return up(height, config.rows * dilation) * dilation


def even_taps(kh: int, config: Config) -> int:
    """How many taps of a column are taken at once, so that the last ones are not much fewer."""
    return up(kh, up(kh, config.taps))


def eligible(configs: tuple[Config, ...], x: Tensor, size: tuple[int, int]) -> list[Config]:
    """The tiles of the layout of x whose sums, and the rows of grad beside them, fit into registers."""
    last = layout_of(x) == torch.channels_last
    numbers = 32 if configs is CONFIGS else 96
    numbers = numbers // 2 if x.dtype == torch.float64 else numbers

    def held(each: Config) -> int:
        return each.lane * (each.rows if configs is CONFIGS else each.rows + even_taps(size[0], each))

    return [each for each in configs if each.channels_last == last and held(each) <= numbers]


def _choose(
    configs: tuple[Config, ...],
    x: Tensor,
    size: tuple[int, int],
    dilation: list[int],
    work: Callable[[Config, Tensor, tuple[int, int], list[int]], float],
) -> Config:
    tuned = _tuned.get(_key(configs, x, size, dilation)) if _tuned else None
    tuned = tuned or _shipped(configs, x, size, dilation)
    return tuned or min(eligible(configs, x, size), key=lambda each: work(each, x, size, dilation))


def _key(configs: tuple[Config, ...], x: Tensor, size: tuple[int, int], dilation: list[int]) -> tuple[object, ...]:
    return configs is CONFIGS, layout_of(x), x.dtype, x.device, tuple(x.shape), size, tuple(dilation)


def name_of(x: Tensor, size: tuple[int, int], dilation: list[int]) -> str:
    """What a call goes by in the tables of `TUNED`."""
    layout = "channels_last" if layout_of(x) == torch.channels_last else "contiguous"
    filters = f"k{size[0]}x{size[1]}-d{dilation[0]}x{dilation[1]}"
    return f"{'x'.join(map(str, x.shape))}-{filters}-{str(x.dtype).removeprefix('torch.')}-{layout}"


def table_of(device: str, folder: Path = TUNED) -> Path:
    """The file that holds the tiles measured on a device of this name."""
    return folder / f"{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')}.json"


def _shipped(configs: tuple[Config, ...], x: Tensor, size: tuple[int, int], dilation: list[int]) -> Config | None:
    if not x.is_cuda:
        return None
    found = _table(table_of(torch.cuda.get_device_name(x.device))).get(name_of(x, size, dilation), {})
    tile = found.get("forward" if configs is CONFIGS else "weight")
    # A tile that is no longer among them is of an older version.
    return tile if tile in configs else None


@cache
def _table(file: Path) -> dict[str, dict[str, Config]]:
    if not file.is_file():
        return {}
    tiles = json.loads(file.read_text(encoding="utf-8"))["tiles"]
    return {name: {kernel: Config(**each) for kernel, each in ways.items()} for name, ways in tiles.items()}


def _forward_work(config: Config, x: Tensor, size: tuple[int, int], dilation: list[int]) -> float:
    """Instructions of a thread's whole share, by the pixels it has with those beyond the picture, and idle warps."""
    tiles, warps = _tiles(config, x, dilation)
    return _instructions(config, size, grads=0) * tiles * config.lane * config.warps * max(1.0, ENOUGH_WARPS / warps)


def _weight_work(config: Config, x: Tensor, size: tuple[int, int], dilation: list[int]) -> float:
    tiles, _ = _tiles(config, x, dilation)
    return _instructions(config, size, grads=1) * tiles * config.lane * config.warps


def _tiles(config: Config, x: Tensor, dilation: list[int]) -> tuple[int, int]:
    n, channels, height, width = x.shape
    bands = up(bands_of(height, dilation[0], config), config.bands)
    tiles = n * up(channels, config.channels) * bands * up(width, config.columns)
    return tiles, tiles * config.warps


def _instructions(config: Config, size: tuple[int, int], grads: int) -> float:
    """For one pixel of each row of a tile: a multiply-add for each tap, and loads, which cost a few each."""
    kh, kw = size
    chunks = up(kh, config.taps)
    loads = (config.rows - 1) * chunks + kh + grads * config.rows * chunks
    return kw * (config.rows * kh + (1.5 if config.channels_last else 4.0) * loads)
