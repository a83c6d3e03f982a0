"""Where PyTorch is the faster one, by measurement, and a call is therefore left to it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import layout_of


def faster(
    backend: str,
    x: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [C, 1, KH, KW]
    bias: Tensor | None,
    dilation: list[int],
    activation: str = "none",
    negative_slope: float = 0.0,
    gate: Tensor | None = None,
    residual: Tensor | None = None,
) -> bool:
    """Whether this backend's kernel beats PyTorch on this call.

    Measured on an AVX-512 machine at (1, 64, 180, 320), (1, 48, 90, 160), (8, 128, 48, 48), (16, 64, 64, 64),
    (1, 96, 120, 120) and (2, 32, 100, 150). On channels_last pictures oneDNN is the faster one for filters of one row
    or column (bfloat16, if the machine has instructions for it: up to 15 taps; float32: one row, or up to 7 in a
    column), and in float32 for the smallest ones on more than 64 channels. An activation, a gate or a residual costs
    PyTorch another pass, and this one none. What PyTorch does without AVX-512 it does slower.
    """
    if backend != "cpu" or activation != "none" or gate is not None or residual is not None:
        return True
    if layout_of(x) != torch.channels_last or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return True
    kh, kw = weight.shape[2:]
    if x.dtype == torch.bfloat16:
        return min(kh, kw) > 1 or max(kh, kw) > 15 or not torch.cpu._is_avx512_bf16_supported()
    if x.dtype == torch.float32:
        return kh > 7 if kw == 1 else kh > 1 and (x.shape[1] <= 64 or kh * kw > 15)
    return True
