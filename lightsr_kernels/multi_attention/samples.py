"""What the tests and benches call multi_attention with, and what a call costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from ..spec import BadInput, Cost, Make, Sample, other_dtype


def _call(
    make: Make,
    name: str,
    widths: Sequence[int],
    picture: tuple[int, int, int] = (2, 9, 7),
    *,
    side: int = 7,
    hidden: int = 2,
    out: int | None = None,
    bias: bool = True,
    residual: bool = False,
) -> Sample:
    n, h, w = picture
    layers = (
        [make(c, c, 1, 1, scale=0.5) for c in widths],
        [make(c) for c in widths],
        [make(1, 2, side, side, scale=0.2) for _ in widths],
        [make(hidden, c, 1, 1) for c in widths],
        [make(hidden, offset=0.5) for _ in widths],
        [make(c, hidden, 1, 1) for c in widths],
        [make(c) for c in widths],
    )
    channels = sum(widths) if out is None else out
    joined = (
        None if out is None else make(out, sum(widths), 1, 1),
        make(out) if out is not None and bias else None,
        make(n, channels, h, w) if residual else None,
    )
    return Sample(name, ([make(n, c, h, w) for c in widths], *layers, *joined))


def samples(make: Make) -> Iterator[Sample]:
    yield _call(make, "out-residual", (3, 3), out=4, residual=True)
    yield _call(make, "side-by-side", (2, 3, 1))
    yield _call(make, "side-by-side-residual", (2, 3), residual=True, side=3)
    yield _call(make, "out-no-bias", (3,), (1, 6, 11), out=2, bias=False, side=5)
    yield _call(make, "1-channel", (1,), (2, 5, 6), hidden=1)
    yield _call(make, "1x1-picture", (2, 3), (1, 1, 1), out=4, residual=True)
    yield _call(make, "no-pictures", (2, 3), (0, 9, 7), out=4, residual=True)


def bad_inputs(make: Make) -> Iterator[BadInput]:
    def bad(name: str, position: int, value: object, error: type[Exception], match: str) -> BadInput:
        args = list(_call(make, "", (2, 3), (1, 4, 3), out=4, residual=True).args)
        args[position] = value
        return BadInput(name, tuple(args), error, match)

    x = make(1, 2, 4, 3)
    c2, c3, wide = make(2), make(3), make(3, 3, 1, 1)
    yield bad("no-parts", 0, [], ValueError, "parts must hold at least one tensor")
    yield bad("a-tensor", 0, x, TypeError, "parts must be a list of tensors, got Tensor")
    yield bad("3-d", 0, [x[0], x[0]], ValueError, r"parts\[0\] must have 4 dimensions")
    yield bad("whole-numbers", 0, [x.long()], TypeError, r"parts\[0\] must be float32")
    yield bad("sizes-differ", 0, [x, make(1, 3, 5, 3)], ValueError, r"parts\[1\] must have shape \[1, 3, 4, 3\]")
    yield bad("no-channels", 0, [x, make(1, 0, 4, 3)], ValueError, r"parts\[1\] must have at least one channel")
    yield bad(
        "no-rows", 0, [x[:, :, :0], make(1, 3, 0, 3)], ValueError, r"parts\[0\] must have .* one pixel, got shape"
    )
    yield bad("dtypes-differ", 0, [x, x.to(other_dtype(x))], TypeError, r"parts\[1\] is")
    lists = ("pixel_weights", "pixel_biases", "spatial_weights", "down_weights", "down_biases", "up_weights")
    for position, name in enumerate((*lists, "up_biases"), 1):
        yield bad(f"{name}-count", position, [c2], ValueError, f"{name} must have one entry a part, 2 in all; got 1")
    yield bad("a-list-missing", 1, None, TypeError, "pixel_weights must be a list of tensors, got NoneType")
    yield bad("an-entry-missing", 2, [c2, None], TypeError, r"pixel_biases\[1\] must be a torch.Tensor")
    yield bad("pixel-weight", 1, [wide, wide], ValueError, r"pixel_weights\[0\] must have shape \[2, 2, 1, 1\]")
    yield bad("pixel-bias", 2, [c2, c2], ValueError, r"pixel_biases\[1\] must have shape \[3\]")
    flat = make(1, 2, 3, 5)
    yield bad("spatial-not-square", 3, [flat, flat], ValueError, r"spatial_weights\[0\] must have shape \[1, 2, 5, 5\]")
    even = make(1, 2, 4, 4)
    yield bad("spatial-even", 3, [even, even], ValueError, r"spatial_weights\[0\] must be odd from 1 to 31")
    yield bad("down-weight", 4, [wide, wide], ValueError, r"down_weights\[0\] must have shape \[3, 2, 1, 1\]")
    none = make(0, 2, 1, 1)
    yield bad("no-down-weight", 4, [none, wide], ValueError, r"down_weights\[0\] must have at least one filter, got")
    yield bad("down-bias", 5, [c2, c3], ValueError, r"down_biases\[1\] must have shape \[2\]")
    yield bad("up-weight", 6, [wide, wide], ValueError, r"up_weights\[0\] must have shape \[2, 2, 1, 1\]")
    yield bad("up-bias", 7, [c3, c3], ValueError, r"up_biases\[0\] must have shape \[2\]")
    yield bad("out-weight", 8, make(4, 4, 1, 1), ValueError, r"out_weight must have shape \[4, 5, 1, 1\]")
    yield bad("no-out-weight", 8, make(0, 5, 1, 1), ValueError, "out_weight must have at least one filter, got shape")
    yield bad("out-bias", 9, make(5), ValueError, r"out_bias must have shape \[4\]")
    yield bad("out-bias-alone", 8, None, ValueError, "out_bias was given without out_weight")
    yield bad("residual", 10, make(1, 5, 4, 3), ValueError, r"residual must have shape \[1, 4, 4, 3\]")


def bench(make: Make) -> Iterator[Sample]:
    for h, w in ((45, 80), (180, 320)):
        yield _call(make, f"4x1x26x{h}x{w}-to-52", (26,) * 4, (1, h, w), hidden=6, out=52, residual=True)


def cost(
    parts: Sequence[Tensor],
    pixel_weights: Sequence[Tensor],
    pixel_biases: Sequence[Tensor],
    spatial_weights: Sequence[Tensor],
    down_weights: Sequence[Tensor],
    down_biases: Sequence[Tensor],
    up_weights: Sequence[Tensor],
    up_biases: Sequence[Tensor],
    out_weight: Tensor | None,
    out_bias: Tensor | None,
    residual: Tensor | None,
) -> Cost:
    n, _, h, w = parts[0].shape
    joined = [] if out_weight is None else [out_weight]
    filters = sum(each.numel() for each in [*pixel_weights, *spatial_weights, *joined])
    channels = sum(part.shape[1] for part in parts)
    channels_out = channels if out_weight is None else out_weight.shape[0]
    # The pooled sums need every pixel before the first result, so the parts are read twice.
    planes = 2 * channels + channels_out * (1 + (residual is not None))
    small = sum(each.numel() for each in [*down_weights, *up_weights])
    # Besides the filters: three gates, the mean, the maximum and the pooled sum, an operation a value each.
    flops = (2 * filters + 6 * channels) * n * h * w + 2 * n * small
    return Cost(bytes=(planes * n * h * w + filters + small) * parts[0].element_size(), flops=flops)
