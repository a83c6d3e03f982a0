"""Where PyTorch is the faster one, by measurement, and a call is therefore left to it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import layout_of

FEWEST = 12  # channels, in and out, from which on 3 x 3 filters take fewer multiplications; csrc/dense_conv/cpu.cpp


def faster(
    backend: str,
    x: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [C_out, C, KH, KW]
    bias: Tensor | None,
    activation: str = "none",
    negative_slope: float = 0.0,
    residual: Tensor | None = None,
    pixel_shuffle: int = 1,
) -> bool:
    """Whether this backend's kernel beats PyTorch on this call.

    Measured on an AVX-512 machine at (1, C, 180, 320). What PyTorch needs further passes for (activation, residual,
    pixel shuffle) costs nothing here, so that the kernel is the faster one, but for bfloat16 in channels_last where
    the machine has instructions for it. Of convolutions alone, but for 1 x 1, PyTorch's are faster in float32 where no
    multiplications can be saved and its own layout fits: channels_last (with up to 16 channels even where some can), or
    channels in sixteens; and in bfloat16 where channels come in sixteens.
    """
    outs, c, kh, kw = weight.shape
    if backend != "cpu" or x.dtype in (torch.float64, torch.float16):
        return True
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return True
    last, alone = layout_of(x) == torch.channels_last, activation == "none" and residual is None and pixel_shuffle == 1
    if x.dtype == torch.bfloat16 and torch.cpu._is_avx512_bf16_supported():
        return not last and (not alone or (kh, kw) == (1, 1) or c % 16 != 0 or outs % 16 != 0)
    saves = (kh, kw) == (3, 3) and min(c, outs) >= FEWEST and (not last or max(c, outs) > 16)
    return saves or not alone or (kh, kw) == (1, 1) or not (last or (c % 16 == 0 and outs % 16 == 0))
