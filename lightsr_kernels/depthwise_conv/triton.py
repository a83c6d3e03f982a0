"""depthwise_conv on Triton, the portable path on GPUs: forward, and backward to the picture, the filter and the bias.

triton_forward.py and triton_weight.py say how the kernels work. Nothing here waits for the GPU or measures, so calls
can be captured in a CUDA graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import dense, dense_as, layout_of
from ..triton_common import MOST_PROGRAMS, NARROW, accumulator, device_of, launches, options, stored, up, wide
from . import backward as gradients
from . import triton_forward, triton_weight
from .triton_configs import ENOUGH_WARPS, Config, bands_of, choose, choose_weight, even_taps

PART_ROWS = 32  # of a stretch of a picture whose products one program sums, so that the L1 cache holds it
MOST_PARTS = 512
MOST_BYTES = 64 * 2**20  # of the workspace, unless one picture's parts take more


def forward(
    x: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [C, 1, KH, KW]
    bias: Tensor | None,  # [C]
    dilation: list[int],
    activation: str,
    negative_slope: float,
    gate: Tensor | None,  # [N, C, H, W]
    residual: Tensor | None,  # [N, C, H, W]
    flip: bool = False,
    config: Config | None = None,
) -> Tensor:  # [N, C, H, W]
    x = dense(x)
    out = torch.empty_like(x, dtype=stored(x.dtype), memory_format=layout_of(x))
    if x.numel() == 0:
        return out.to(x.dtype)
    n, channels, height, width = x.shape
    kh, kw = weight.shape[2:]
    dilation = _within(dilation, x)
    config = config or choose(x, (kh, kw), dilation)
    taps = weight.reshape(channels, kh * kw)
    taps = (taps.t() if config.channels_last else taps).contiguous()
    across, down = up(width, config.columns), up(bands_of(height, dilation[0], config), config.bands)
    blocks = up(channels, config.channels)
    with device_of(x):
        for first, count in launches(n * blocks * down * across, MOST_PROGRAMS):
            triton_forward.convolve[(count,)](
                x,
                taps,
                None if bias is None else bias.contiguous(),
                None if gate is None else dense_as(gate, x),
                None if residual is None else dense_as(residual, x),
                out,
                channels,
                height,
                width,
                *_strides(x, config),
                1 if config.channels_last else kh * kw,
                channels if config.channels_last else 1,
                *dilation,
                down,
                across,
                blocks,
                first,
                KH=kh,
                KW=kw,
                FLIP=flip,
                ACTIVATION=activation,
                SLOPE=negative_slope if activation == "leaky_relu" else 0.0,
                **_constants(x, weight, config),
            )
    return out.to(x.dtype)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: list[int], flip: bool) -> Tensor:
    return forward(x, weight, bias, dilation, "none", 0.0, None, None, flip)


def weight_gradients(
    grad: Tensor,  # [N, C, H, W]
    x: Tensor,  # [N, C, H, W]
    size: tuple[int, int],
    dilation: list[int],
    bias: bool,
    config: Config | None = None,
) -> tuple[Tensor, Tensor | None]:  # [C, 1, KH, KW], [C]
    x = dense(x)
    channels = x.shape[1]
    make = torch.empty if x.numel() else torch.zeros
    grad_weight = make((channels, 1, *size), dtype=stored(x.dtype), device=x.device)
    grad_bias = make(channels, dtype=stored(x.dtype), device=x.device) if bias else None
    if x.numel():
        dilation = _within(dilation, x)
        config = config or choose_weight(x, size, dilation)
        _sum_products(dense_as(grad, x), x, grad_weight, grad_bias, dilation, config)
    return grad_weight.to(x.dtype), None if grad_bias is None else grad_bias.to(x.dtype)


def _sum_products(
    grad: Tensor, x: Tensor, grad_weight: Tensor, grad_bias: Tensor | None, dilation: list[int], config: Config
) -> None:
    n, channels, height, width = x.shape
    kh, kw = grad_weight.shape[2:]
    bands, across = bands_of(height, dilation[0], config), up(width, config.columns)
    blocks, places = up(channels, config.channels), kh * kw + 1
    steps = max(up(PART_ROWS, config.rows * config.bands), up(n * across * bands, MOST_PARTS * config.bands))
    down = up(bands, steps * config.bands)
    sums = torch.float64 if x.dtype == torch.float64 else torch.float32
    at_once = max(1, min(n, MOST_BYTES // (down * across * channels * places * sums.itemsize)))
    workspace = torch.empty((at_once * down * across, channels, places), dtype=sums, device=x.device)
    total = torch.empty((channels, places), dtype=sums, device=x.device) if at_once < n else None
    group = up(kw, min(kw, up(ENOUGH_WARPS, len(workspace) * blocks * config.warps)))
    groups = up(kw, group)
    with device_of(x):
        for begin in range(0, n, at_once):
            some = slice(begin, min(begin + at_once, n))
            parts = (some.stop - begin) * down * across
            for first, count in launches(parts * blocks * groups, MOST_PROGRAMS):
                triton_weight.partial_sums[(count,)](
                    grad[some],
                    x[some],
                    workspace,
                    channels,
                    height,
                    width,
                    *_strides(x, config),
                    *dilation,
                    bands,
                    steps,
                    down,
                    across,
                    blocks,
                    groups,
                    group,
                    first,
                    KH=kh,
                    KW=kw,
                    BIAS=grad_bias is not None,
                    **_constants(x, grad_weight, config),
                )
            triton_weight.add_parts[(up(channels * places, 32),)](
                workspace,
                total,
                grad_weight,
                grad_bias,
                parts,
                channels,
                places,
                channels * places,
                FIRST=begin == 0,
                LAST=some.stop == n,
                CHANNELS_LAST=config.channels_last,
                PARTS=32,
                SIZE=32,
                **options(4),
            )


def backward(grads: list[Tensor], wanted: list[bool], *args: object) -> list[Tensor]:
    return gradients.backward(convolve, weight_gradients, grads, wanted, *args)  # type: ignore[arg-type]


def _within(dilation: list[int], x: Tensor) -> list[int]:
    """A dilation as large as the picture has the same taps in it as any larger one, which might overflow."""
    return [min(each, side) for each, side in zip(dilation, x.shape[2:], strict=True)]


def _strides(x: Tensor, config: Config) -> tuple[int, int, int]:
    """From channel to channel, row to row and column to column."""
    _, channels, height, width = x.shape
    return (1, width * channels, channels) if config.channels_last else (height * width, width, 1)


def _constants(x: Tensor, weight: Tensor, config: Config) -> dict[str, object]:
    """What a kernel is compiled for, beyond its filter."""
    reach = 32 * max(x.shape[2:])  # of a filter beyond the picture
    return {
        "SUM": accumulator(x.dtype),
        "WIDE": wide(x, weight) or reach > NARROW,
        "CHANNELS_LAST": config.channels_last,
        "ROWS": config.rows,
        "BANDS": config.bands,
        "COLUMNS": config.columns,
        "CHANNELS": config.channels,
        "TAPS": even_taps(weight.shape[2], config),
        **options(config.warps),
    }
