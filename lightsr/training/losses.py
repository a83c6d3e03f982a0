"""The losses of a batch of results and their high-resolution pictures."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .settings import Loss


def loss_of(settings: Loss) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss that settings describe: (result, wanted), both [N, 3, H, W], to one number, computed in float32."""

    def loss(out: Tensor, wanted: Tensor) -> Tensor:
        out, wanted = out.float(), wanted.float()
        total = F.l1_loss(out, wanted) if settings.name == "l1" else charbonnier(out, wanted, settings.epsilon)
        if settings.frequency > 0:
            total = total + settings.frequency * frequency_l1(out, wanted)
        return total

    return loss


def charbonnier(
    out: Tensor,  # [N, 3, H, W]
    wanted: Tensor,  # [N, 3, H, W]
    epsilon: float,
) -> Tensor:
    """The mean of sqrt(d^2 + epsilon^2): L1 with a rounded tip, so that the gradient fades near 0.

    Source: Charbonnier et al., Two deterministic half-quadratic regularization algorithms for computed imaging,
    ICIP 1994; as in LapSRN.
    """
    difference = out - wanted
    return (difference * difference + epsilon**2).sqrt().mean()


def frequency_l1(
    out: Tensor,  # [N, 3, H, W]
    wanted: Tensor,  # [N, 3, H, W]
) -> Tensor:
    """The mean L1 distance of real and imaginary parts of the 2-D Fourier transforms.

    Source: Cho et al., Rethinking coarse-to-fine approach in single image deblurring, ICCV 2021.
    """
    return torch.view_as_real(torch.fft.rfft2(out - wanted)).abs().mean()
