"""window_attention on the compiled kernels of csrc/window_attention."""

from __future__ import annotations

from torch import Tensor

from ..attention_maps.gradients import ChannelNorm, own
from ..functional import dense, empty_result, from_sets, to_sets
from ..native import raw_operator

_forward = raw_operator(
    "window_attention_forward(Tensor x, Tensor maps, Tensor norm_weight, Tensor norm_bias, Tensor value_weight, "
    "Tensor out_weight, int window, bool grid, float eps, Tensor(a!) out) -> ()"
)


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
) -> Tensor:  # [N, C, H, W]
    x = dense(x)
    out = empty_result(x, x.shape[1])
    parameters = (norm_weight, norm_bias, value_weight, out_weight)
    _forward(x, maps.contiguous(), *(each.contiguous() for each in parameters), window, grid, eps, out)
    return out


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
    """With B = maps n: out = x + B W^T, W = out_weight value_weight. Both weights' gradients come of that of W."""
    parameters = (norm_weight, norm_bias, value_weight, out_weight)
    norm = ChannelNorm(x, norm_weight, norm_bias, eps)
    tokens, grad = to_sets(norm.result, window, grid), to_sets(grads[0], window, grid)
    grad_mixed = grad @ (out_weight @ value_weight)
    found: dict[int, Tensor] = {}
    if wanted[0] or wanted[2] or wanted[3]:
        grad_norm = from_sets(maps.mT @ grad_mixed, x.shape, window, grid)
        grad_x, found[2], found[3] = norm.backward(grad_norm, wanted[0], wanted[2], wanted[3])
        found[0] = grads[0] + grad_x if wanted[0] else grad_x
    if wanted[1]:
        found[1] = grad_mixed @ tokens.mT
    if wanted[4] or wanted[5]:
        joint = grad.flatten(0, 1).mT @ (maps @ tokens).flatten(0, 1)
        found[4], found[5] = out_weight.mT @ joint, joint @ value_weight.mT
    return [own(found[i], like) for i, like in enumerate((x, maps, *parameters)) if wanted[i]]
