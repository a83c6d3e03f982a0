"""attention_maps: the attention matrices of every window or grid set of a picture, for window_attention to use."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ..checks import check_picture, check_required
from ..dispatch import call
from ..register import register
from ..spec import Cost, OpSpec
from .reference import reference
from .samples import bad_inputs, bench, samples


def attention_maps(
    x: Tensor,  # [N, C, H, W]
    norm_weight: Tensor,  # [C]
    norm_bias: Tensor,  # [C]
    query_key_weight: Tensor,  # [2C, C]
    position_table: Tensor,  # [(2*window - 1)^2]
    *,
    window: int = 8,
    grid: bool = False,
    eps: float = 1e-5,
) -> Tensor:  # [N*sets, window^2, window^2]
    """Computes how much every pixel of a set attends to every other pixel of it, with one head.

    Equivalent to::

        t = to_sets(F.layer_norm over channels of x)                     # [N*sets, window^2, C]
        q, k = (t @ query_key_weight.mT).chunk(2, -1)
        softmax(q @ k.mT / C**0.5 + position, -1)

    A set holds window^2 pixels, its tokens in the order (i, j), row by row; rows = H/window, columns = W/window. Sets
    are in the order (n, y, x), so there are N * rows * columns of them. With grid=False token (i, j) of set (y, x) is
    pixel (y*window + i, x*window + j): a window. With grid=True it is pixel (i*rows + y, j*columns + x): the set
    spreads over the whole picture. window_attention reads the result in the same order.

    Args:
        x: picture [N, C, H, W], H and W multiples of window; any N, 0 included; contiguous and channels_last are taken
            as they are.
        norm_weight: the layer norm's factor, [C].
        norm_bias: the layer norm's offset, [C].
        query_key_weight: rows that make the queries, then rows that make the keys, [2C, C]; no bias.
        position_table: one number for each offset between two tokens, [(2*window - 1)^2]: entry
            (i_q - i_k + window - 1) * (2*window - 1) + (j_q - j_k + window - 1) for query q and key k.
        window: tokens a side of a set.
        grid: sets spread over the picture instead of windows.
        eps: added to the variance in the layer norm; above 0.

    Returns:
        [N*sets, window^2, window^2], query by key, contiguous, in the dtype of x; every row sums to 1.

    Dtypes: float32, float64, float16, bfloat16, the same for all arguments. Gradients: of every tensor argument; twice
    on the reference backend. Deterministic. Raises ValueError or TypeError in one line for arguments that do not fit.

    Source: the shared spatial attention of ASID (arXiv 2501.15774), which IDSA-Net keeps; windows and positions are
    Swin's (arXiv 2103.14030, equation 4), grid sets are MaxViT's (arXiv 2204.01697).

    Example:
        >>> import torch, lightsr_kernels
        >>> x, ones, zeros = torch.randn(1, 16, 16, 24), torch.ones(16), torch.zeros(16)
        >>> lightsr_kernels.attention_maps(x, ones, zeros, torch.randn(32, 16), torch.zeros(225), grid=True).shape
        torch.Size([6, 64, 64])
    """
    return cast(Tensor, call(SPEC, x, norm_weight, norm_bias, query_key_weight, position_table, window, grid, eps))


def check_sets(op: str, x: Tensor, window: int, eps: float) -> None:
    """Requires a picture that can be cut into sets, and an eps that keeps its norm finite."""
    check_picture(op, "x", x)
    if not isinstance(window, int) or window < 1:
        raise ValueError(f"{op}: window must be a whole number from 1 up, got {window!r}")
    c, h, w = x.shape[1:]
    if c < 1:
        raise ValueError(f"{op}: x must have at least one channel, got shape {list(x.shape)}")
    if h % window or w % window:
        raise ValueError(f"{op}: H and W of x must be multiples of window {window}, got {h} x {w}; pad x first")
    if not eps > 0:
        raise ValueError(f"{op}: eps must be above 0, got {eps}")


def maps_shape(x: Tensor, window: int) -> tuple[int, int, int]:
    """The shape of the attention matrices of x: [N*sets, window^2, window^2]."""
    n, _, h, w = x.shape
    return n * (h // window) * (w // window), window**2, window**2


def _check(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    query_key_weight: Tensor,
    position_table: Tensor,
    window: int,
    grid: bool,
    eps: float,
) -> None:
    op = "attention_maps"
    check_sets(op, x, window, eps)
    c = x.shape[1]
    check_required(op, "norm_weight", norm_weight, (c,), x)
    check_required(op, "norm_bias", norm_bias, (c,), x)
    check_required(op, "query_key_weight", query_key_weight, (2 * c, c), x)
    check_required(op, "position_table", position_table, ((2 * window - 1) ** 2,), x)


def _fake(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    query_key_weight: Tensor,
    position_table: Tensor,
    window: int,
    grid: bool,
    eps: float,
) -> Tensor:
    return torch.empty(maps_shape(x, window), dtype=x.dtype, device=x.device)


def _cost(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    query_key_weight: Tensor,
    position_table: Tensor,
    window: int,
    grid: bool,
    eps: float,
) -> Cost:
    sets, tokens, _ = maps_shape(x, window)
    c = x.shape[1]
    results = sets * tokens * tokens
    moved = x.numel() + query_key_weight.numel() + results
    return Cost(bytes=moved * x.element_size(), flops=4 * x.numel() * c + 2 * results * c)


SPEC = register(
    OpSpec(
        name="attention_maps",
        schema="(Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor query_key_weight, Tensor position_table, "
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
    )
)
