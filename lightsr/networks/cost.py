"""What a network costs: its multiply-adds by the convention of the papers."""

from __future__ import annotations

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from .base import SRNetwork

HR_HEIGHT, HR_WIDTH = 720, 1280  # the high-resolution picture every paper counts for


def multiply_adds(net: SRNetwork) -> int:
    """Multiply-adds of one 1280x720 result: those of convolutions, linear layers and matrix products, not of biases.

    The low-resolution side is 1280/scale x 720/scale, rounded (640x360, 427x240, 320x180). A network in its training
    form is counted as it is after `fold()`. Nothing is computed and `net` is left as it is.

    Source: the convention of IMDN (arXiv 1909.11856), whose released code gives its published 40.9 G with this count.

    Example:
        >>> import lightsr
        >>> from lightsr.networks.cost import multiply_adds
        >>> round(multiply_adds(lightsr.create("hasn", scale=4)) / 1e9, 2)
        23.28
    """
    plain = copy.deepcopy(net).to("meta").fold().set_fused(False)  # meta tensors have shapes and no values
    weight = next(plain.parameters(), torch.empty(0))
    x = torch.empty(1, 3, round(HR_HEIGHT / net.scale), round(HR_WIDTH / net.scale), dtype=weight.dtype, device="meta")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        plain(x)
    return counter.get_total_flops() // 2
