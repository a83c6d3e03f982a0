"""What the gradients of ops with a layer norm over channels share."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import empty_gradient


class ChannelNorm:
    """The layer norm of `functional.channel_norm`, and its gradients."""

    def __init__(
        self,
        x: Tensor,  # [N, C, H, W]
        weight: Tensor,  # [C]
        bias: Tensor,  # [C]
        eps: float,
    ) -> None:
        self.given = x.permute(0, 2, 3, 1).contiguous(), weight, bias
        result, self.mean, self.deviation = torch.native_layer_norm(self.given[0], [x.shape[1]], weight, bias, eps)
        self.result = result.permute(0, 3, 1, 2)  # [N, C, H, W], channels_last

    def backward(
        self,
        grad: Tensor,  # [N, C, H, W]
        *wanted: bool,  # of x, weight and bias
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, bias = self.given
        backward = torch.ops.aten.native_layer_norm_backward
        grad = grad.permute(0, 2, 3, 1).contiguous()
        found = backward(grad, x, [len(weight)], self.mean, self.deviation, weight, bias, list(wanted))
        return found[0].permute(0, 3, 1, 2) if wanted[0] else found[0], found[1], found[2]


def own(
    value: Tensor,  # in memory that no other gradient and no argument has
    like: Tensor,
) -> Tensor:
    """A gradient in the dtype and layout of its argument."""
    fresh = empty_gradient(like)
    return value if value.stride() == fresh.stride() and value.dtype == fresh.dtype else fresh.copy_(value)
