"""The Triton kernel of gated_feed_forward's gradients between its convolutions.

With a and b as triton_forward.py has them, and star = gelu(a) b:

    grad_star[m, p] = sum over o of out_weight[o, m] grad[o, p]
    grad_a = grad_star b gelu'(a),   grad_b = grad_star gelu(a)

Tile. CHANNELS of the M by ROWS by COLUMNS pixels of one picture. a and b are convolved anew from `hidden`, grad_star is
multiplied DEPTH channels of grad at a time, and neither is stored: of 2M channels this reads `hidden` and writes both
gradients side by side, of M it writes star, which the gradient of out_weight takes.

Products of float32 are IEEE float32, never TF32; of 16-bit types on tensor cores, summed in float32.
"""

# Triton compiles these functions from their source, and not all of Python; names in capitals are constants to it.
# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl

from ..depthwise_conv.triton_forward import activated
from ..split_distillation.triton_tiles import activation_gradient, matrix_of
from .triton_forward import convolved


@triton.jit(do_not_specialize=["channels", "middle", "tiles_down", "tiles_across", "channel_blocks", "first"])
def gate_gradient(
    hidden,  # [N, 2M, H, W]
    depthwise_weight,  # [2M, 9]
    out_weight,  # [C, M]
    grad,  # [N, C, H, W]
    grad_hidden,  # [N, 2M, H, W], behind the depthwise convolution
    star,  # [N, M, H, W]
    channels,  # C
    middle,  # M
    height,
    width,
    channel_stride,  # of grad
    pixel_stride,
    hidden_channel_stride,
    hidden_pixel_stride,
    star_channel_stride,
    star_pixel_stride,
    tiles_down,
    tiles_across,
    channel_blocks,
    first,  # the number of this launch's first program
    SUM: tl.constexpr,
    FACTOR: tl.constexpr,  # what is multiplied
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    program = tl.program_id(0)
    channel, across = tl.arange(0, CHANNELS)[:, None], tl.arange(0, DEPTH)
    if WIDE:
        program, channel, across = program.to(tl.int64) + first, channel.to(tl.int64), across.to(tl.int64)
    channel += (program % channel_blocks) * CHANNELS
    program = program // channel_blocks
    pixel = tl.arange(0, ROWS * COLUMNS)[None, :]
    column = (program % tiles_across) * COLUMNS + pixel % COLUMNS
    program = program // tiles_across
    row = (program % tiles_down) * ROWS + pixel // COLUMNS
    picture = program // tiles_down
    number = row * width + column
    pixels = height * width
    here = (row < height) & (column < width)

    grad_star = tl.zeros((CHANNELS, ROWS * COLUMNS), SUM)
    at = picture * channels * pixels + number * pixel_stride
    for begin in tl.range(0, channels, DEPTH, num_stages=1):
        entry = begin + across
        inside = here & (entry[:, None] < channels)
        values = tl.load(grad + at + entry[:, None] * channel_stride, mask=inside, other=0).to(FACTOR)
        factors = matrix_of(out_weight, entry[None, :], channel, channels, middle).to(FACTOR)
        grad_star = tl.dot(factors, values, grad_star, input_precision="ieee", out_dtype=SUM)

    place = picture * 2 * middle * pixels + number * hidden_pixel_stride + channel * hidden_channel_stride
    apart = middle * hidden_channel_stride
    a, b = convolved(
        hidden, place, apart, row, column, height, width, width * hidden_pixel_stride, hidden_pixel_stride,
        depthwise_weight, channel, middle, SUM,
    )  # fmt: skip
    inside = here & (channel < middle)
    gelu = activated(a, "gelu", 0.0)
    if grad_hidden is not None:
        value = activation_gradient(grad_star * b, a, "gelu", 0.0)
        tl.store(grad_hidden + place, value.to(grad_hidden.dtype.element_ty), mask=inside)
        tl.store(grad_hidden + place + apart, (grad_star * gelu).to(grad_hidden.dtype.element_ty), mask=inside)
    if star is not None:
        at = picture * middle * pixels + number * star_pixel_stride + channel * star_channel_stride
        tl.store(star + at, (gelu * b).to(star.dtype.element_ty), mask=inside)
