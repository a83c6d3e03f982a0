"""large_kernel_attention on the compiled kernels of csrc/large_kernel_attention, on the CPU and on CUDA alike."""

from __future__ import annotations

from torch import Tensor

from ..depthwise_conv.native import convolve, weight_gradients
from ..functional import dense, dense_as, empty_result
from ..native import raw_operator
from . import backward as gradients

_forward = raw_operator(
    "large_kernel_attention_forward(Tensor x, Tensor weight1, Tensor? bias1, Tensor weight2, Tensor? bias2, "
    "Tensor mix_weight, Tensor? mix_bias, int dilation, Tensor? out_weight, Tensor? out_bias, Tensor? residual, "
    "Tensor(a!) out) -> ()"
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
    residual: Tensor | None,  # [N, C, H, W]
) -> Tensor:  # [N, C, H, W]
    x = dense(x)
    out = empty_result(x, x.shape[1])
    parameters = [weight1, bias1, weight2, bias2, mix_weight, mix_bias]
    first = [None if each is None else each.contiguous() for each in parameters]
    last = [None if each is None else each.contiguous() for each in (out_weight, out_bias)]
    _forward(x, *first, dilation, *last, None if residual is None else dense_as(residual, x), out)
    return out


def backward(grads: list[Tensor], wanted: list[bool], *args: object) -> list[Tensor]:
    return gradients.backward(convolve, weight_gradients, grads, wanted, *args)  # type: ignore[arg-type]
