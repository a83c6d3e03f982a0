"""gated_feed_forward on Triton, the portable path on GPUs, forward and backward.

triton_forward.py and triton_backward.py say how the kernels work. Nothing here waits for the GPU or measures, so calls
can be captured in a CUDA graph.
"""

from __future__ import annotations

from torch import Tensor

from ..attention_maps.gradients import own
from ..attention_maps.triton_gradients import norm_gradients, product_sums
from ..attention_maps.triton_project import project
from ..depthwise_conv.triton import convolve, weight_gradients
from ..functional import dense, dense_as
from .triton_launch import Config, gate, gate_gradients


def forward(
    x: Tensor,  # [N, C, H, W]
    norm_weight: Tensor,  # [C]
    norm_bias: Tensor,  # [C]
    in_weight: Tensor,  # [2M, C, 1, 1]
    depthwise_weight: Tensor,  # [2M, 1, 3, 3]
    out_weight: Tensor,  # [C, M, 1, 1]
    eps: float,
    config: Config | None = None,
) -> Tensor:  # [N, C, H, W]
    x = dense(x)
    hidden = project(x, in_weight.contiguous(), None, (norm_weight.contiguous(), norm_bias.contiguous()), eps)
    return gate(hidden, depthwise_weight.contiguous(), out_weight.contiguous(), x, config)


def backward(
    grads: list[Tensor],  # of the one result, [N, C, H, W]
    wanted: list[bool],  # one flag for each tensor, in the order below
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    in_weight: Tensor,
    depthwise_weight: Tensor,
    out_weight: Tensor,
    eps: float,
) -> list[Tensor]:
    """What lies between the steps is computed again: the op keeps nothing but its arguments."""
    given = (x, norm_weight, norm_bias, in_weight, depthwise_weight, out_weight)
    x, norm, near = dense(x), (norm_weight.contiguous(), norm_bias.contiguous()), [1, 1]
    grad, weights = dense_as(grads[0], x), (depthwise_weight.contiguous(), out_weight.contiguous())
    hidden = project(x, in_weight.contiguous(), None, norm, eps)
    grad_hidden, star = gate_gradients(hidden, *weights, grad, (any(wanted[:5]), wanted[5]))
    found: dict[int, Tensor] = {}
    if wanted[5]:
        found[5] = product_sums(grad, star).view_as(out_weight)
    if wanted[4]:
        found[4] = weight_gradients(grad_hidden, hidden, (3, 3), near, False)[0]
    if any(wanted[:4]):
        grad_hidden = convolve(grad_hidden, weights[0], None, near, True)
    if wanted[3]:
        found[3] = product_sums(grad_hidden, x, norm, eps).view_as(in_weight)
    if any(wanted[:3]):
        grad_norm = project(grad_hidden, in_weight.flatten(1).mT.contiguous())
        found[0], found[1], found[2] = norm_gradients(grad_norm, x, norm[0], eps, grad, (wanted[0], any(wanted[1:3])))
    return [own(found[i], like) for i, like in enumerate(given) if wanted[i]]
