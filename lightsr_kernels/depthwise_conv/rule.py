"""Where PyTorch is the faster one, by measurement, and a call is therefore left to it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import layout_of

SMALL_PLANE = 64  # pixels
MANY = 1 << 17  # numbers


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
    (1, 96, 120, 120), (2, 32, 100, 150), (8, 384, 14, 14) and (8, 768, 7, 7). oneDNN is the faster one

    - on channels_last pictures for filters of one row or column (bfloat16, if the machine has instructions for it: up
      to 15 taps; float32: one row, or up to 7 in a column), and in float32 for several rows and columns of up to 15
      taps on more than 64 channels;
    - for many planes of up to 8 x 8 pixels, in float32 or channels_last bfloat16.

    Where gradients are wanted it is so for filters of one row or column alone, and of those for up to 3 columns; a
    gradient's own convolution is a call without gradients. An activation, a gate or a residual costs PyTorch another
    pass, and this one none. What PyTorch does without AVX-512 it does slower.
    """
    if backend != "cpu" or activation != "none" or gate is not None or residual is not None:
        return True
    if x.dtype not in (torch.float32, torch.bfloat16) or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return True
    last, single = layout_of(x) == torch.channels_last, x.dtype == torch.float32
    if not single and not (last and torch.cpu._is_avx512_bf16_supported()):
        return True
    kh, kw = weight.shape[2:]
    strip = min(kh, kw) == 1
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        if kw > 3 or not strip:
            return True
    elif x.shape[2] * x.shape[3] <= SMALL_PLANE and x.numel() >= MANY:
        return False
    if not last:
        return True
    if not single:
        return not strip or max(kh, kw) > 15
    return kh > 7 if kw == 1 else kh > 1 and (x.shape[1] <= 64 or kh * kw > 15)
