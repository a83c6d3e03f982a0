"""window_attention on Triton, the portable path on GPUs, forward and backward.

triton_forward.py says how the kernel works. Nothing here waits for the GPU or measures, so calls can be captured in a
CUDA graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..attention_maps.gradients import own
from ..attention_maps.triton import score
from ..attention_maps.triton_gradients import norm_gradients, product_sums
from ..attention_maps.triton_project import project
from ..functional import dense, dense_as
from .triton_launch import Config, gather


def forward(
    x: Tensor,  # [N, C, H, W]
    maps: Tensor,  # [N*sets, window^2, window^2]
    norm_weight: Tensor,  # [C]
    norm_bias: Tensor,  # [C]
    value_weight: Tensor,  # [C, C]
    out_weight: Tensor,  # [C, C]
    window: int,
    grid: bool,
    eps: float,
    config: Config | None = None,
) -> Tensor:  # [N, C, H, W]
    norm, weight = (norm_weight.contiguous(), norm_bias.contiguous()), _joint_weight(value_weight, out_weight)
    return gather(dense(x), maps, window, grid, weight, norm, eps, residual=True, config=config)


def backward(
    grads: list[Tensor],  # of the one result, [N, C, H, W]
    wanted: list[bool],  # one flag for each tensor, in the order below
    x: Tensor,
    maps: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    value_weight: Tensor,
    out_weight: Tensor,
    window: int,
    grid: bool,
    eps: float,
) -> list[Tensor]:
    """With B = maps n: out = x + W B, W = out_weight value_weight. Both weights' gradients come of that of W.

    With h = maps^T grad the gradient of n is W^T h, and that of W the sum over pixels of h times n.
    """
    given = (x, maps, norm_weight, norm_bias, value_weight, out_weight)
    x, norm = dense(x), (norm_weight.contiguous(), norm_bias.contiguous())
    grad, weight = dense_as(grads[0], x), _joint_weight(value_weight, out_weight)
    found: dict[int, Tensor] = {}
    if wanted[1]:
        found[1] = score(x, norm, eps, weight, window, grid, other=grad)
    if wanted[0] or any(wanted[2:]):
        gathered = gather(grad, maps, window, grid, transposed=True)
    if wanted[0] or wanted[2] or wanted[3]:
        grad_norm = project(gathered, weight.mT.contiguous())
        found[0], found[2], found[3] = norm_gradients(grad_norm, x, norm[0], eps, grad, (wanted[0], any(wanted[2:4])))
    if wanted[4] or wanted[5]:
        joint = product_sums(gathered, x, norm, eps)
        found[4] = out_weight.mT.to(joint.dtype) @ joint
        found[5] = joint @ value_weight.mT.to(joint.dtype)
    return [own(found[i], like) for i, like in enumerate(given) if wanted[i]]


def _joint_weight(value_weight: Tensor, out_weight: Tensor) -> Tensor:  # [C, C] each
    """Both weights as one, in float32 or wider."""
    joint = out_weight.double() @ value_weight.double()  # so that nothing, TF32 least of all, moves the rounded result
    return joint.to(torch.promote_types(value_weight.dtype, torch.float32))
