"""window_attention: mixes the pixels of every window or grid set by given attention matrices."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ..attention_maps import check_sets, maps_shape
from ..checks import check_required
from ..dispatch import call
from ..functional import empty_result
from ..register import register
from ..spec import Cost, OpSpec
from .reference import reference
from .samples import bad_inputs, bench, samples


def window_attention(
    x: Tensor,  # [N, C, H, W]
    maps: Tensor,  # [N*sets, window^2, window^2]
    norm_weight: Tensor,  # [C]
    norm_bias: Tensor,  # [C]
    value_weight: Tensor,  # [C, C]
    out_weight: Tensor,  # [C, C]
    *,
    window: int = 8,
    grid: bool = False,
    eps: float = 1e-5,
) -> Tensor:  # [N, C, H, W]
    """Adds to x the attention-weighted values of the pixels in its set, by matrices that attention_maps computed.

    Equivalent to::

        t = to_sets(F.layer_norm over channels of x)                     # [N*sets, window^2, C]
        x + from_sets((maps @ (t @ value_weight.mT)) @ out_weight.mT)

    attention_maps followed by window_attention on the same x is plain self-attention. The same maps serve later layers
    of any width, as long as N, H, W, window and grid are the same: sets and tokens are in the order that attention_maps
    describes.

    Args:
        x: picture [N, C, H, W], H and W multiples of window; any N, 0 included; contiguous and channels_last are taken
            as they are.
        maps: query by key for every set, [N*sets, window^2, window^2] with sets = H/window * W/window.
        norm_weight: the layer norm's factor, [C].
        norm_bias: the layer norm's offset, [C].
        value_weight: makes the values, [C, C]; no bias.
        out_weight: applied to what the attention gathered, [C, C]; no bias.
        window: tokens a side of a set.
        grid: sets spread over the picture instead of windows; as given to attention_maps.
        eps: added to the variance in the layer norm; above 0.

    Returns:
        [N, C, H, W] in the dtype and layout of x.

    Dtypes: float32, float64, float16, bfloat16, the same for all arguments. Gradients: of every tensor argument, the
    maps included; twice on the reference backend. Deterministic. Raises ValueError or TypeError in one line for
    arguments that do not fit.

    Source: the shared spatial attention of ASID (arXiv 2501.15774), which IDSA-Net keeps.

    Example:
        >>> import torch, lightsr_kernels
        >>> x, ones, zeros, square = torch.randn(1, 16, 16, 24), torch.ones(16), torch.zeros(16), torch.randn(16, 16)
        >>> maps = lightsr_kernels.attention_maps(x, ones, zeros, torch.randn(32, 16), torch.zeros(225))
        >>> lightsr_kernels.window_attention(x, maps, ones, zeros, square, square).shape
        torch.Size([1, 16, 16, 24])
    """
    return cast(Tensor, call(SPEC, x, maps, norm_weight, norm_bias, value_weight, out_weight, window, grid, eps))


def _check(
    x: Tensor,
    maps: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    value_weight: Tensor,
    out_weight: Tensor,
    window: int,
    grid: bool,
    eps: float,
) -> None:
    op = "window_attention"
    check_sets(op, x, window, eps)
    c = x.shape[1]
    check_required(op, "maps", maps, maps_shape(x, window), x)
    check_required(op, "norm_weight", norm_weight, (c,), x)
    check_required(op, "norm_bias", norm_bias, (c,), x)
    check_required(op, "value_weight", value_weight, (c, c), x)
    check_required(op, "out_weight", out_weight, (c, c), x)


def _fake(x: Tensor, *_: object) -> Tensor:
    return empty_result(x, x.shape[1])


def _cost(
    x: Tensor,
    maps: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    value_weight: Tensor,
    out_weight: Tensor,
    window: int,
    grid: bool,
    eps: float,
) -> Cost:
    c = x.shape[1]
    moved = 2 * x.numel() + maps.numel() + 2 * c * c
    return Cost(bytes=moved * x.element_size(), flops=4 * x.numel() * c + 2 * maps.numel() * c)


def _autocast(dtype: torch.dtype, x: Tensor, *others: Any) -> Tensor:
    """In the dtype of x, which is that of eager code's result: the kernels' products are exact enough in it."""
    return cast(Tensor, SPEC.op(x, *(each.to(x.dtype) if isinstance(each, Tensor) else each for each in others)))


SPEC = register(
    OpSpec(
        name="window_attention",
        schema="(Tensor x, Tensor maps, Tensor norm_weight, Tensor norm_bias, Tensor value_weight, Tensor out_weight, "
        "int window, bool grid, float eps) -> Tensor",
        source="ASID, arXiv 2501.15774 (shared spatial attention)",
        reference=reference,
        check=_check,
        fake=_fake,
        samples=samples,
        bad_inputs=bad_inputs,
        bench=bench,
        cost=_cost,
        backends=("triton", "cpu", "reference"),
        autocast=_autocast,
    )
)
