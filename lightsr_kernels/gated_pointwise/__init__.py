"""gated_pointwise: HASN's star block, everything between its two depthwise convolutions in one call."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from ..checks import check_picture, check_required
from ..dispatch import call
from ..functional import empty_result
from ..register import register
from ..spec import Cost, OpSpec
from .reference import reference
from .samples import NAMES, bad_inputs, bench, samples, shapes

SMALLEST = 15  # pixels a side: the least that leaves the 7x7 pool one window after the stride-2 convolution


def gated_pointwise(
    x: Tensor,  # [N, C, H, W]
    norm_weight: Tensor,  # [C]
    norm_bias: Tensor,  # [C]
    weight_a: Tensor,  # [E, C, 1, 1]
    bias_a: Tensor,  # [E]
    weight_b: Tensor,  # [E, C, 1, 1]
    bias_b: Tensor,  # [E]
    weight_c: Tensor,  # [E, C, 1, 1]
    bias_c: Tensor,  # [E]
    entry_weight: Tensor,  # [P, E, 1, 1]
    entry_bias: Tensor,  # [P]
    stride_weight: Tensor,  # [P, P, 3, 3]
    stride_bias: Tensor,  # [P]
    pool_weight: Tensor,  # [P, P, 3, 3]
    pool_bias: Tensor,  # [P]
    skip_weight: Tensor,  # [P, P, 1, 1]
    skip_bias: Tensor,  # [P]
    exit_weight: Tensor,  # [E, P, 1, 1]
    exit_bias: Tensor,  # [E]
    out_weight: Tensor,  # [C, E, 1, 1]
    out_bias: Tensor,  # [C]
    *,
    eps: float = 1e-5,
) -> Tensor:  # [N, C, H, W]
    """Expands every normalised pixel three ways: two paths multiply (a star), the third is gated by its surroundings.

    Equivalent to::

        n = F.layer_norm over channels of x
        a, b, c = conv2d(n, weight_a, bias_a), conv2d(n, weight_b, bias_b), conv2d(n, weight_c, bias_c)
        conv2d(relu6(a) * b + c * gate(c), out_weight, out_bias)

        def gate(c):                                                     # ESA, without activations inside
            p = conv2d(c, entry_weight, entry_bias)
            q = max_pool2d(conv2d(p, stride_weight, stride_bias, stride=2), 7, stride=3)
            q = conv2d(q, pool_weight, pool_bias, padding=1)
            q = interpolate(q, (H, W), mode="bilinear", align_corners=False)
            return sigmoid(conv2d(q + conv2d(p, skip_weight, skip_bias), exit_weight, exit_bias))

    Args:
        x: picture [N, C, H, W], H and W at least 15 (below that the pool has no window: pad x first); any N, 0
            included; contiguous and channels_last are taken as they are.
        norm_weight: the layer norm's factor, [C].
        norm_bias: the layer norm's offset, [C].
        weight_a: 1x1 filters of the path that relu6 limits, [E, C, 1, 1].
        bias_a: [E].
        weight_b: 1x1 filters of the path it multiplies, [E, C, 1, 1].
        bias_b: [E].
        weight_c: 1x1 filters of the gated path, [E, C, 1, 1].
        bias_c: [E].
        entry_weight: 1x1 filters into the gate, [P, E, 1, 1].
        entry_bias: [P].
        stride_weight: 3x3 filters, stride 2, no padding, [P, P, 3, 3].
        stride_bias: [P].
        pool_weight: 3x3 filters on the pooled map, zero padding 1, [P, P, 3, 3].
        pool_bias: [P].
        skip_weight: 1x1 filters beside the pooled path, [P, P, 1, 1].
        skip_bias: [P].
        exit_weight: 1x1 filters out of the gate, [E, P, 1, 1].
        exit_bias: [E].
        out_weight: 1x1 filters back to C channels, [C, E, 1, 1].
        out_bias: [C].
        eps: added to the variance in the layer norm; above 0.

    Returns:
        [N, C, H, W] in the dtype and layout of x.

    Dtypes: float32, float64, float16, bfloat16, the same for all arguments. Gradients: of every tensor argument; twice
    on the reference backend. Deterministic, but for the reference's pooling and upsampling backward on CUDA.
    Raises ValueError or TypeError in one line for arguments that do not fit.

    Source: the HASB of HASN (arXiv 2410.09844) between its depthwise convolutions; the gate is ESA, enhanced spatial
    attention (Liu et al., RFANet, CVPR 2020), the star is StarNet's (arXiv 2403.19967).

    Example:
        >>> import torch, lightsr_kernels
        >>> from lightsr_kernels.gated_pointwise.samples import shapes
        >>> weights = {name: torch.randn(shape) for name, shape in shapes(c=8, e=24, p=4).items()}
        >>> lightsr_kernels.gated_pointwise(torch.randn(1, 8, 16, 20), **weights).shape
        torch.Size([1, 8, 16, 20])
    """
    star = (norm_weight, norm_bias, weight_a, bias_a, weight_b, bias_b, weight_c, bias_c)
    gate = (entry_weight, entry_bias, stride_weight, stride_bias, pool_weight, pool_bias, skip_weight, skip_bias)
    return cast(Tensor, call(SPEC, x, *star, *gate, exit_weight, exit_bias, out_weight, out_bias, eps))


def _check(x: Tensor, *others: Any) -> None:
    op = "gated_pointwise"
    *weights, eps = others
    given: dict[str, Tensor] = dict(zip(NAMES, weights, strict=True))
    check_picture(op, "x", x)
    check_picture(op, "weight_a", given["weight_a"])
    check_picture(op, "entry_weight", given["entry_weight"])
    c, h, w = x.shape[1:]
    if c < 1:
        raise ValueError(f"{op}: x must have at least one channel, got shape {list(x.shape)}")
    if min(h, w) < SMALLEST:
        raise ValueError(f"{op}: H and W of x must be at least {SMALLEST}, got {h} x {w}; pad x first")
    wanted = shapes(c, given["weight_a"].shape[0], given["entry_weight"].shape[0])
    for name, shape in wanted.items():
        check_required(op, name, given[name], shape, x)
    if not eps > 0:
        raise ValueError(f"{op}: eps must be above 0, got {eps}")


def _fake(x: Tensor, *_: object) -> Tensor:
    return empty_result(x, x.shape[1])


def _cost(x: Tensor, *others: Any) -> Cost:
    n, c, h, w = x.shape
    given: dict[str, Tensor] = dict(zip(NAMES, others[:-1], strict=True))
    p = given["entry_weight"].shape[0]
    coarse_h, coarse_w = (h - 1) // 2, (w - 1) // 2
    pooled_h, pooled_w = (coarse_h - 7) // 3 + 1, (coarse_w - 7) // 3 + 1
    # Nothing non-linear stands between weight_c and the gate's entry, so the two are one 1x1 filter from C to P.
    each_pixel = sum(given[name].numel() for name in ("weight_a", "weight_b", "weight_c", "out_weight"))
    each_pixel += given["skip_weight"].numel() + given["exit_weight"].numel() + p * c
    coarse = given["stride_weight"].numel() * coarse_h * coarse_w + given["pool_weight"].numel() * pooled_h * pooled_w
    moved = 2 * x.numel() + sum(weight.numel() for weight in given.values())
    return Cost(bytes=moved * x.element_size(), flops=2 * n * (each_pixel * h * w + coarse))


SPEC = register(
    OpSpec(
        name="gated_pointwise",
        schema="(Tensor x, " + ", ".join(f"Tensor {name}" for name in NAMES) + ", float eps) -> Tensor",
        source="HASN, arXiv 2410.09844 (HASB between its depthwise convolutions)",
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
