"""large_kernel_attention on the compiled kernels of csrc/large_kernel_attention, on the CPU and on CUDA alike."""

from __future__ import annotations

from torch import Tensor

from ..depthwise_conv.native import convolve, weight_gradients
from ..functional import dense, dense_as, empty_gradient, empty_result, layout_of
from ..native import raw_operator
from ..split_distillation.backward import sliced
from . import backward as gradients
from .reference import joined

MOST_PARTS = 8  # of the residual, as many as the kernel takes

_forward = raw_operator(
    "large_kernel_attention_forward(Tensor x, Tensor weight1, Tensor? bias1, Tensor weight2, Tensor? bias2, "
    "Tensor mix_weight, Tensor? mix_bias, int dilation, Tensor? out_weight, Tensor? out_bias, Tensor[] residual, "
    "Tensor(a!) out) -> ()"
)
_mix_backward = raw_operator(
    "large_kernel_attention_mix_gradients(Tensor x, Tensor t, Tensor mix_weight, Tensor? mix_bias, "
    "Tensor? out_weight, Tensor grad, Tensor(a!)? grad_x, Tensor(b!)? grad_t, Tensor(c!)? grad_mix_weight, "
    "Tensor(d!)? grad_mix_bias, Tensor(e!)? grad_out_weight, Tensor(f!)? grad_out_bias) -> ()"
)


def forward(
    x: Tensor,  # [N, C, H, W]
    weight1: Tensor,  # [C, 1, KH1, KW1]
    bias1: Tensor | None,  # [C]
    weight2: Tensor,  # [C, 1, KH2, KW2]
    bias2: Tensor | None,  # [C]
    mix_weight: Tensor,  # [C, C, 1, 1]
    mix_bias: Tensor | None,  # [C]
    dilation: int,
    out_weight: Tensor | None,  # [C, C, 1, 1]
    out_bias: Tensor | None,  # [C]
    residual: list[Tensor],  # each [N, C_k, H, W], together [N, C, H, W]; none where there is none
) -> Tensor:  # [N, C, H, W]
    x = dense(x)
    out = empty_result(x, x.shape[1])
    parameters = [weight1, bias1, weight2, bias2, mix_weight, mix_bias]
    first = [None if each is None else each.contiguous() for each in parameters]
    last = [None if each is None else each.contiguous() for each in (out_weight, out_bias)]
    _forward(x, *first, dilation, *last, _parts(residual, x), out)
    return out


def _parts(residual: list[Tensor], x: Tensor) -> list[Tensor]:
    """The residual as the kernels take it: in parts on the CPU, as they lie; else one dense picture."""
    if residual and (x.is_cuda or len(residual) > MOST_PARTS):
        return [dense_as(joined(residual), x)]
    return [sliced(part, layout_of(x)) for part in residual]


def backward(grads: list[Tensor], wanted: list[bool], *args: object) -> list[Tensor]:
    mixed = None if grads[0].is_cuda or grads[0].numel() == 0 else _mixed
    return gradients.backward(convolve, weight_gradients, grads, wanted, *args, mixed=mixed)  # type: ignore[arg-type]


def _mixed(
    grad: Tensor,
    x: Tensor,
    t: Tensor,
    mix_weight: Tensor,
    mix_bias: Tensor | None,
    out_weight: Tensor | None,
    wants: set[str],
) -> tuple[Tensor, Tensor, gradients.Found]:
    """The 1x1 convolutions and the gate in one pass over pixels."""
    c, grad_x, grad_t = x.shape[1], empty_gradient(x), empty_gradient(x)
    shapes = {"mix_weight": (c, c, 1, 1), "mix_bias": (c,), "out_weight": (c, c, 1, 1), "out_bias": (c,)}
    found = {name: x.new_empty(shape) if name in wants else None for name, shape in shapes.items()}
    parameters = [None if each is None else each.contiguous() for each in (mix_weight, mix_bias, out_weight)]
    _mix_backward(x, dense_as(t, x), *parameters, dense_as(grad, x), grad_x, grad_t, *found.values())
    return grad_x, grad_t, found
