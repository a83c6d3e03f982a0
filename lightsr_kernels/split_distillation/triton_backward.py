"""The Triton kernels of split_distillation's gradients.

With u = x + bias + residual, h = act(u), z the distilling product, d = act_distilled(z) and g the gate computed again:

    grad_s = grad d g (1 - g)                        grad_gate_weight = sum over pixels of grad_s d^T
    grad_z = act_distilled'(z) (grad g + gate_weight^T grad_s)      grad_weight = sum over pixels of grad_z h^T
    grad_x = act'(u) (weight^T grad_z + grad_remaining)             grad_bias = sum over pixels of grad_x

`of_distilled` does this for the channels that are distilled, in one pass: a program holds all of them for PIXELS pixels
at a time, walks the pixels of its stretch of one picture and keeps the sums in registers until its end. It takes ROWS
of the D rows at a time, and for each product with h reads it again, DEPTH channels at a time, out of the L1 cache:
longer products would need more registers than there are. With both weight and gate, ROWS is all of D.
`of_rest` does it for the channels that a split leaves, which need no product. Both leave sums in workspaces, one place
for each stretch (triton_tiles.py).
"""

# Triton compiles these functions from their source, and not all of Python; names in capitals are constants to it.
# mypy: ignore-errors
# ruff: noqa: N803, RUF005, SIM102, SIM108

import triton
import triton.language as tl

from ..depthwise_conv.triton_forward import activated
from .triton_forward import before, hidden, multiply
from .triton_tiles import activation_gradient, matrix_of, offsets_of


@triton.jit
def store_both(one, other, strides, other_strides, picture, channel, pixel, value, here):
    """Writes a tile of grad_x into one or two pictures, of those that are wanted."""
    if one is not None:
        tl.store(one + offsets_of(strides, picture, channel, pixel), value.to(one.dtype.element_ty), mask=here)
    if other is not None:
        at = offsets_of(other_strides, picture, channel, pixel)
        tl.store(other + at, value.to(other.dtype.element_ty), mask=here)


@triton.jit
def store_matrix(workspace, part, value, row, column, rows, columns):
    at = part * rows * columns + row * columns + column
    tl.store(workspace + at, value, mask=(row < rows) & (column < columns))


@triton.jit(do_not_specialize=["channels", "split", "distilled", "steps", "stretches", "first"])
def of_distilled(
    grad,  # [N, D, H, W]
    grad_strides,
    grad_remaining,  # [N, C, H, W], where all channels remain
    grad_remaining_strides,
    x,  # [N, C, H, W]
    x_strides,
    bias,  # [C]
    residual,  # [N, C, H, W]
    residual_strides,
    weight,  # [D, split]
    weight_bias,  # [D]
    gate_weight,  # [D, D]
    gate_bias,  # [D]
    grad_x,  # [N, C, H, W], or not wanted, and so for all that follow
    grad_x_strides,
    grad_residual,  # [N, C, H, W]
    grad_residual_strides,
    bias_sums,  # [parts, C]
    weight_sums,  # [parts, D, split]
    weight_bias_sums,  # [parts, D]
    gate_sums,  # [parts, D, D]
    gate_bias_sums,  # [parts, D]
    channels,  # C
    split,  # channels that are distilled
    distilled,  # D
    pixels,  # of a picture
    steps,  # of PIXELS pixels, that a program walks
    stretches,  # of a picture
    first,  # the number of this launch's first program
    ACTIVATION: tl.constexpr,
    DISTILLED_ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
    SUM: tl.constexpr,
    FACTOR: tl.constexpr,  # what is multiplied
    WIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,  # a power of two, not below split
    DISTILLED: tl.constexpr,  # and one not below D; CHANNELS where there is no weight
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    part = tl.program_id(0)
    channel = tl.arange(0, CHANNELS)[:, None]
    rows = tl.arange(0, ROWS)[:, None]
    if WIDE:
        part, channel, rows = part.to(tl.int64) + first, channel.to(tl.int64), rows.to(tl.int64)
    picture = part // stretches
    begin = (part % stretches) * steps * PIXELS
    columns = tl.arange(0, ROWS)[None, :]
    bias_total = tl.zeros((CHANNELS, 1), SUM)
    matrix_zero, vector_zero = tl.zeros((ROWS, CHANNELS), SUM), tl.zeros((ROWS, 1), SUM)
    weight_total, weight_bias_total, gate_total, gate_bias_total = (), (), (), ()
    for _ in tl.static_range(DISTILLED // ROWS):
        weight_total, weight_bias_total = weight_total + (matrix_zero,), weight_bias_total + (vector_zero,)
        gate_bias_total = gate_bias_total + (vector_zero,)
        if weight is None:
            gate_total = gate_total + (matrix_zero,)
        else:
            gate_total = gate_total + (tl.zeros((ROWS, DISTILLED), SUM),)
    for step in range(steps):
        pixel = begin + step * PIXELS + tl.arange(0, PIXELS)[None, :]
        inside = (channel < split) & (pixel < pixels)
        u = before(x, x_strides, bias, residual, residual_strides, picture, channel, pixel, split, pixels, SUM)
        h = tl.where(inside, activated(u, ACTIVATION, SLOPE), 0.0)
        back = tl.zeros((CHANNELS, PIXELS), SUM)
        for i in tl.static_range(DISTILLED // ROWS):
            row = rows + i * ROWS
            column = columns + i * ROWS
            within = (row < distilled) & (pixel < pixels)
            gradient = tl.load(grad + offsets_of(grad_strides, picture, row, pixel), mask=within, other=0).to(SUM)
            if weight is not None:
                z = multiply(
                    weight, distilled, row, x, x_strides, bias, residual, residual_strides, picture, pixel, split,
                    pixels, ACTIVATION, SLOPE, SUM, FACTOR, ROWS, PIXELS, DEPTH,
                )  # fmt: skip
                if weight_bias is not None:
                    z += tl.load(weight_bias + row, mask=row < distilled, other=0).to(SUM)
                d = tl.where(within, activated(z, DISTILLED_ACTIVATION, SLOPE), 0.0)
            else:
                d = hidden(
                    x, x_strides, bias, residual, residual_strides, picture, row, pixel, split, pixels,
                    ACTIVATION, SLOPE, SUM,
                )  # fmt: skip
            if gate_weight is not None:
                if weight is not None:
                    square = matrix_of(gate_weight, row, column, distilled, distilled).to(FACTOR)
                    logit = tl.dot(square, d.to(FACTOR), input_precision="ieee", out_dtype=SUM)
                else:
                    logit = multiply(
                        gate_weight, distilled, row, x, x_strides, bias, residual, residual_strides, picture, pixel,
                        split, pixels, ACTIVATION, SLOPE, SUM, FACTOR, ROWS, PIXELS, DEPTH,
                    )  # fmt: skip
                if gate_bias is not None:
                    logit += tl.load(gate_bias + row, mask=row < distilled, other=0).to(SUM)
                gate = 1.0 / (1.0 + tl.exp(-logit))
                grad_s = tl.where(within, gradient * d * gate * (1.0 - gate), 0.0)
                gradient *= gate
                if gate_bias_sums is not None:
                    added = gate_bias_total[i] + tl.sum(grad_s, axis=1, keep_dims=True)
                    gate_bias_total = gate_bias_total[:i] + (added,) + gate_bias_total[i + 1 :]
                if gate_sums is not None:
                    if weight is not None:
                        values = tl.trans(d.to(FACTOR))
                    else:
                        values = tl.trans(h.to(FACTOR))
                    added = tl.dot(grad_s.to(FACTOR), values, gate_total[i], input_precision="ieee", out_dtype=SUM)
                    gate_total = gate_total[:i] + (added,) + gate_total[i + 1 :]
                if weight is not None:
                    square = matrix_of(gate_weight, column, row, distilled, distilled).to(FACTOR)
                    gradient = tl.dot(square, grad_s.to(FACTOR), gradient, input_precision="ieee", out_dtype=SUM)
                else:
                    factors = matrix_of(gate_weight, column, channel, distilled, split).to(FACTOR)
                    back = tl.dot(factors, grad_s.to(FACTOR), back, input_precision="ieee", out_dtype=SUM)
            if weight is not None:
                gradient = tl.where(within, activation_gradient(gradient, z, DISTILLED_ACTIVATION, SLOPE), 0.0)
                if weight_bias_sums is not None:
                    added = weight_bias_total[i] + tl.sum(gradient, axis=1, keep_dims=True)
                    weight_bias_total = weight_bias_total[:i] + (added,) + weight_bias_total[i + 1 :]
                if weight_sums is not None:
                    values = tl.trans(h.to(FACTOR))
                    added = tl.dot(gradient.to(FACTOR), values, weight_total[i], input_precision="ieee", out_dtype=SUM)
                    weight_total = weight_total[:i] + (added,) + weight_total[i + 1 :]
                factors = matrix_of(weight, column, channel, distilled, split).to(FACTOR)
                back = tl.dot(factors, gradient.to(FACTOR), back, input_precision="ieee", out_dtype=SUM)
            elif DISTILLED == ROWS:
                back += gradient
        if DISTILLED != ROWS:
            if weight is None:  # the rows of d are channels of the tile, but ROWS of them cannot be put into it
                own = tl.load(grad + offsets_of(grad_strides, picture, channel, pixel), mask=inside, other=0).to(SUM)
                if gate_weight is not None:
                    logits = multiply(
                        gate_weight, distilled, channel, x, x_strides, bias, residual, residual_strides, picture,
                        pixel, split, pixels, ACTIVATION, SLOPE, SUM, FACTOR, CHANNELS, PIXELS, DEPTH,
                    )  # fmt: skip
                    if gate_bias is not None:
                        logits += tl.load(gate_bias + channel, mask=channel < distilled, other=0).to(SUM)
                    own *= 1.0 / (1.0 + tl.exp(-logits))
                back += own
        if grad_remaining is not None:
            at = offsets_of(grad_remaining_strides, picture, channel, pixel)
            back += tl.load(grad_remaining + at, mask=inside, other=0).to(SUM)
        back = tl.where(inside, activation_gradient(back, u, ACTIVATION, SLOPE), 0.0)
        if bias_sums is not None:
            bias_total += tl.sum(back, axis=1, keep_dims=True)
        store_both(grad_x, grad_residual, grad_x_strides, grad_residual_strides, picture, channel, pixel, back, inside)

    part = part.to(tl.int64)
    if bias_sums is not None:
        tl.store(bias_sums + part * channels + channel, bias_total, mask=channel < split)
    for i in tl.static_range(DISTILLED // ROWS):
        row = rows + i * ROWS
        if weight_sums is not None:
            store_matrix(weight_sums, part, weight_total[i], row, tl.arange(0, CHANNELS)[None, :], distilled, split)
        if weight_bias_sums is not None:
            tl.store(weight_bias_sums + part * distilled + row, weight_bias_total[i], mask=row < distilled)
        if gate_sums is not None:
            store_matrix(
                gate_sums, part, gate_total[i], row, tl.arange(0, gate_total[i].shape[1])[None, :], distilled, distilled
            )
        if gate_bias_sums is not None:
            tl.store(gate_bias_sums + part * distilled + row, gate_bias_total[i], mask=row < distilled)


@triton.jit(do_not_specialize=["channels", "split", "steps", "stretches", "channel_blocks", "first"])
def of_rest(
    grad,  # [N, C - split, H, W], or nobody reads what remains
    grad_strides,
    x,  # [N, C, H, W]
    x_strides,
    bias,  # [C]
    residual,  # [N, C, H, W]
    residual_strides,
    grad_x,  # [N, C, H, W], or not wanted, and so for all that follow
    grad_x_strides,
    grad_residual,  # [N, C, H, W]
    grad_residual_strides,
    bias_sums,  # [parts, C]
    channels,  # C
    split,  # the first channel that remains
    pixels,  # of a picture
    steps,  # of PIXELS pixels, that a program walks
    stretches,  # of a picture
    channel_blocks,
    first,  # the number of this launch's first program
    ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
    SUM: tl.constexpr,
    WIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    program = tl.program_id(0)
    channel = tl.arange(0, CHANNELS)[:, None]
    if WIDE:
        program, channel = program.to(tl.int64) + first, channel.to(tl.int64)
    channel += split + (program % channel_blocks) * CHANNELS
    part = program // channel_blocks
    picture = part // stretches
    begin = (part % stretches) * steps * PIXELS
    total = tl.zeros((CHANNELS, 1), SUM)
    for step in range(steps):
        pixel = begin + step * PIXELS + tl.arange(0, PIXELS)[None, :]
        inside = (channel < channels) & (pixel < pixels)
        u = before(x, x_strides, bias, residual, residual_strides, picture, channel, pixel, channels, pixels, SUM)
        if grad is not None:
            at = offsets_of(grad_strides, picture, channel - split, pixel)
            gradient = tl.load(grad + at, mask=inside, other=0).to(SUM)
        else:
            gradient = tl.zeros((CHANNELS, PIXELS), SUM)
        gradient = activation_gradient(gradient, u, ACTIVATION, SLOPE)
        total += tl.sum(gradient, axis=1, keep_dims=True)
        store_both(
            grad_x, grad_residual, grad_x_strides, grad_residual_strides, picture, channel, pixel, gradient, inside
        )
    if bias_sums is not None:
        tl.store(bias_sums + part.to(tl.int64) * channels + channel, total, mask=channel < channels)
