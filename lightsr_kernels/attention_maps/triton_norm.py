"""What the Triton kernels of ops with a layer norm over channels share: tiles of normalised pixels, products with them.

    n[c, p]   = norm_weight[c] (x[c, p] - mean[p]) / sqrt(variance[p] + eps) + norm_bias[c]
    project     out[o, p] = bias[o] + added[o, p] + sum over c of weight[o, c] n[c, p]        n may be x itself

n is never in memory. A tile of it is made where it is multiplied, from x, DEPTH channels at a time: mean and variance
take two walks over the channels of the tile's pixels and a product a third, of which the L1 cache answers the later
ones. A tile holds channels along either axis; `place` are the offsets of its pixels, picture included, along the other.

`project` moves x once, and once more from the L2 cache for each further ROWS rows, and its result once.

Products of float32 are IEEE float32, never TF32; of 16-bit types on tensor cores, summed in float32.
"""

# Triton compiles these functions from their source, and not all of Python; names in capitals are constants to it.
# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl

from ..split_distillation.triton_tiles import matrix_of


@triton.jit
def statistics(
    x, place, here, across, channels, channel_stride, norm_weight, EPS: tl.constexpr, SUM: tl.constexpr,
    DEPTH: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """Each pixel's mean, and the factor that gives its channels the variance 1; channels lie along AXIS."""
    mean = tl.zeros(place.shape, SUM)
    scale = mean + 1.0
    if norm_weight is not None:
        sums = tl.zeros(across.shape, SUM) * tl.zeros(place.shape, SUM)
        for begin in tl.range(0, channels, DEPTH, num_stages=1):
            inside = here & (begin + across < channels)
            sums += tl.load(x + place + (begin + across) * channel_stride, mask=inside, other=0).to(SUM)
        mean = tl.sum(sums, axis=AXIS, keep_dims=True) / channels
        squares = tl.zeros(across.shape, SUM) * tl.zeros(place.shape, SUM)
        for begin in tl.range(0, channels, DEPTH, num_stages=1):
            inside = here & (begin + across < channels)
            value = tl.load(x + place + (begin + across) * channel_stride, mask=inside, other=0).to(SUM) - mean
            squares += tl.where(inside, value * value, 0.0)
        scale = 1.0 / tl.sqrt(tl.sum(squares, axis=AXIS, keep_dims=True) / channels + EPS)
    return mean, scale


@triton.jit
def normalised(
    x, place, here, channel, channels, channel_stride, mean, scale, norm_weight, norm_bias, SUM: tl.constexpr,
    FACTOR: tl.constexpr,
):  # fmt: skip
    """A tile of n, zero outside; of x itself without a norm."""
    there = channel < channels
    value = tl.load(x + place + channel * channel_stride, mask=here & there, other=0).to(SUM)
    if norm_weight is not None:
        value = (value - mean) * scale * tl.load(norm_weight + channel, mask=there, other=0).to(SUM)
        value += tl.load(norm_bias + channel, mask=there, other=0).to(SUM)
        value = tl.where(here & there, value, 0.0)
    return value.to(FACTOR)


@triton.jit
def product(
    weight, rows, row, x, place, here, channels, channel_stride, mean, scale, norm_weight, norm_bias,
    SUM: tl.constexpr, FACTOR: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Some rows of a matrix [rows, channels] times n: [row, pixel]."""
    sums = tl.zeros(row.shape, SUM) * tl.zeros(place.shape, SUM)
    across = tl.arange(0, DEPTH).to(row.dtype)
    for begin in tl.range(0, channels, DEPTH, num_stages=1):
        values = normalised(
            x, place, here, (begin + across)[:, None], channels, channel_stride, mean, scale, norm_weight, norm_bias,
            SUM, FACTOR,
        )  # fmt: skip
        factors = matrix_of(weight, row, (begin + across)[None, :], rows, channels).to(FACTOR)
        sums = tl.dot(factors, values, sums, input_precision="ieee", out_dtype=SUM)
    return sums


@triton.jit(do_not_specialize=["channels", "rows", "pixel_blocks", "row_blocks", "first"])
def project(
    x,  # [N, C, H, W]
    norm_weight,  # [C]
    norm_bias,  # [C]
    weight,  # [rows, C]
    bias,  # [rows]
    added,  # [N, rows, H, W]
    out,  # [N, rows, H, W]
    channels,  # C
    rows,
    pixels,  # of a picture
    channel_stride,  # of x
    pixel_stride,
    out_channel_stride,
    out_pixel_stride,
    pixel_blocks,
    row_blocks,
    first,  # the number of this launch's first program
    EPS: tl.constexpr,
    SUM: tl.constexpr,
    FACTOR: tl.constexpr,  # what is multiplied
    WIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    program = tl.program_id(0)
    row = tl.arange(0, ROWS)[:, None]
    across = tl.arange(0, DEPTH)[:, None]
    if WIDE:
        program, row, across = program.to(tl.int64) + first, row.to(tl.int64), across.to(tl.int64)
    row += (program % row_blocks) * ROWS
    program = program // row_blocks
    pixel = (program % pixel_blocks) * PIXELS + tl.arange(0, PIXELS)[None, :]
    picture = program // pixel_blocks
    here = pixel < pixels
    place = picture * channels * pixels + pixel * pixel_stride
    mean, scale = statistics(x, place, here, across, channels, channel_stride, norm_weight, EPS, SUM, DEPTH, 0)
    value = product(
        weight, rows, row, x, place, here, channels, channel_stride, mean, scale, norm_weight, norm_bias,
        SUM, FACTOR, DEPTH,
    )  # fmt: skip
    if bias is not None:
        value += tl.load(bias + row, mask=row < rows, other=0).to(SUM)
    at = picture * rows * pixels + row * out_channel_stride + pixel * out_pixel_stride
    inside = here & (row < rows)
    if added is not None:
        value += tl.load(added + at, mask=inside, other=0).to(SUM)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=inside)
