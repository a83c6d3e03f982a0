"""The Triton kernels of gated_pointwise, behind the entry, which is `project` of attention_maps.

    entry      entered = (entry_weight weight_c) n + ...                           n: x after its layer norm
    convolve   strided = conv3x3(entered, stride 2), coarse = conv3x3(max7x7(strided, stride 3), padding 1)
    leave      m = coarse, enlarged, + skip_weight entered + skip_bias
               s = relu6(weight_a n + bias_a) (weight_b n + bias_b)
                   + (weight_c n + bias_c) sigmoid(exit_weight m + exit_bias)
               out = out_weight s + out_bias

Nothing non-linear stands between weight_c and the gate's entry, so the entry needs nothing of E channels; `leave` makes
s in pieces of EXPANDED channels, each multiplied by out_weight as soon as it is there. Nothing of E channels is ever in
memory. n is made anew for each piece from x, which the L1 cache has: a fifteenth of the products it goes into.

Moved, in numbers a pixel: x twice, `entered` (P) written and read, `strided` (P / 4) written and read, the result once:
3C + 2.5P, where the ideal, which cannot have the gate before it has seen all, is 3C.

Tiles. `leave`: CHANNELS of the result by PIXELS pixels of one picture, and all P of the gate. `convolve`: all P by
PIXELS pixels of its result; its sums are float32 or wider and so are what it multiplies and returns, whatever x is:
it has a hundredth of the work.

Products of float32 are IEEE float32, never TF32; of 16-bit types on tensor cores, summed in float32.
"""

# Triton compiles these functions from their source, and not all of Python; names in capitals are constants to it.
# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl

from ..split_distillation.triton_tiles import matrix_of, offsets_of


@triton.jit(do_not_specialize=["gate", "height", "out_height", "out_width", "pixel_blocks", "first"])
def convolve(
    x,  # [N, P, H, W]
    x_strides,  # from picture to picture, channel to channel and pixel to pixel
    weight,  # [P, P, 9]
    bias,  # [P]
    out,  # [N, P, out H, out W]
    gate,  # P
    height,
    width,
    out_height,
    out_width,
    pixel_blocks,
    first,  # the number of this launch's first program
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    SUM: tl.constexpr,
    WIDE: tl.constexpr,
    GATE: tl.constexpr,
    PIXELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    program = tl.program_id(0)
    across, channel = tl.arange(0, DEPTH), tl.arange(0, GATE)[:, None]
    if WIDE:
        program, across, channel = program.to(tl.int64) + first, across.to(tl.int64), channel.to(tl.int64)
    pixel = (program % pixel_blocks) * PIXELS + tl.arange(0, PIXELS)[None, :]
    picture = program // pixel_blocks
    here = pixel < out_height * out_width
    top, left = pixel // out_width * STRIDE - PADDING, pixel % out_width * STRIDE - PADDING
    sums = tl.zeros((GATE, PIXELS), SUM)
    for tap in tl.range(9, num_stages=1):
        row, column = top + tap // 3, left + tap % 3
        inside = here & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        for begin in tl.range(0, gate, DEPTH, num_stages=1):
            entry = begin + across
            at = offsets_of(x_strides, picture, entry[:, None], row * width + column)
            values = tl.load(x + at, mask=inside & (entry[:, None] < gate), other=0).to(SUM)
            at = (channel * gate + entry[None, :]) * 9 + tap
            factors = tl.load(weight + at, mask=(channel < gate) & (entry[None, :] < gate), other=0).to(SUM)
            sums = tl.dot(factors, values, sums, input_precision="ieee", out_dtype=SUM)
    if bias is not None:
        sums += tl.load(bias + channel, mask=channel < gate, other=0).to(SUM)
    at = (picture * gate + channel) * out_height * out_width + pixel
    tl.store(out + at, sums.to(out.dtype.element_ty), mask=here & (channel < gate))


@triton.jit
def side_of(place, size, coarse_size, SUM: tl.constexpr):
    """Between which two places of the coarse map a place of the picture lies, and how near it is to the second."""
    at = tl.maximum((place.to(SUM) + 0.5) * (coarse_size.to(SUM) / size.to(SUM)) - 0.5, 0.0)
    low = tl.minimum(at.to(tl.int32), coarse_size - 1)
    return low, tl.minimum(low + 1, coarse_size - 1), at - low.to(SUM)


@triton.jit
def enlarged(coarse, pixel, here, height, width, coarse_height, coarse_width, SUM: tl.constexpr):
    """A tile of the coarse map at the picture's size: bilinear, corners not aligned."""
    above, below, down = side_of(pixel // width, height, coarse_height, SUM)
    left, right, across = side_of(pixel % width, width, coarse_width, SUM)
    coarse_width = coarse_width.to(tl.int32)
    first = tl.load(coarse + above * coarse_width + left, mask=here, other=0) * (1.0 - across)
    first += tl.load(coarse + above * coarse_width + right, mask=here, other=0) * across
    second = tl.load(coarse + below * coarse_width + left, mask=here, other=0) * (1.0 - across)
    second += tl.load(coarse + below * coarse_width + right, mask=here, other=0) * across
    return first * (1.0 - down) + second * down


@triton.jit
def affine_rows(weight, bias, values, row, rows, column, columns, SUM: tl.constexpr, FACTOR: tl.constexpr):
    """Some rows of a small matrix times a tile that is there whole, with their bias."""
    factors = matrix_of(weight, row, column, rows, columns).to(FACTOR)
    sums = tl.dot(factors, values.to(FACTOR), input_precision="ieee", out_dtype=SUM)
    return sums + tl.load(bias + row, mask=row < rows, other=0).to(SUM)
