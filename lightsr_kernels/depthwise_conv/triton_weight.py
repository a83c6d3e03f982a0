"""The Triton kernels of a depthwise convolution's gradients to the filter and the bias.

    grad_weight[c, i, j] = sum over n, h, w of grad[n, c, h, w] * x[n, c, h + (i - KH//2) dh, w + (j - KW//2) dw]
    grad_bias[c]         = sum over n, h, w of grad[n, c, h, w]

Tile. As in the forward kernel, with the roles exchanged: for one column j of the filter a program holds ROWS rows of
grad and a tile of partial sums for each of TAPS taps. Each input row is loaded once for all the taps that it meets. A
program walks its own few bands of rows, which its L1 cache holds, once for each of its columns of the filter, and adds
each tap's tile up.

The partial sums of every program stand in a workspace [parts, C, KH*KW + 1], or [parts, KH*KW + 1, C] for
channels_last, where a part is one stretch of one picture and the last place is the bias. A second kernel adds the parts
in a fixed order: no atomics, and the same bits at every run. Where many pictures would take a large workspace they come
a few at a time, and the second kernel adds their parts to those before.
"""

# Triton compiles these functions from their source, and not all of Python; names in capitals are constants to it.
# mypy: ignore-errors
# ruff: noqa: B007, N803, RUF005, SIM102, SIM108

import triton
import triton.language as tl

from .triton_forward import rows_of_bands


@triton.jit
def total(tile, CHANNELS_LAST: tl.constexpr):
    """The sum over the pixels of a tile: a number, or one for each channel [1, CHANNELS]."""
    if CHANNELS_LAST:
        value = tl.sum(tile, axis=0, keep_dims=True)
    else:
        value = tl.sum(tl.sum(tile, axis=1), axis=0)
    return value


@triton.jit
def add_products(
    sums,  # TAPS tiles
    grad,  # pointers to row 0 of grad
    x,  # pointers to row 0 of the picture, shifted to this column of the filter
    inside,  # which columns (and channels) of the tile are in the picture
    reached,  # which of them are so shifted
    row,  # the first output row of each band
    shift,  # from there to the input row of the first tap
    height,
    row_stride,
    dilation,
    TAPS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Adds the products of ROWS rows of grad with the input rows they meet to the sums of TAPS taps."""
    grads = ()
    for r in tl.static_range(ROWS):
        at = row + r * dilation
        grads = grads + (tl.load(grad + at * row_stride, mask=inside & (at < height), other=0).to(sums[0].dtype),)
    row += shift
    x += row * row_stride
    for q in tl.static_range(ROWS + TAPS - 1):
        value = tl.load(x, mask=reached & (row >= 0) & (row < height), other=0).to(sums[0].dtype)
        row += dilation
        x += dilation * row_stride
        for i in tl.static_range(TAPS):
            if q >= i and q - i < ROWS:
                sums = sums[:i] + (tl.fma(grads[q - i], value, sums[i]),) + sums[i + 1 :]
    return sums


@triton.jit
def sum_column(
    zero,  # a tile
    workspace,  # pointers to the first of the taps
    workspace_stride,  # to the next of them
    channel_inside,
    grad,
    x,
    inside,
    reached,
    band,  # of the first step
    steps,
    height,
    row_stride,
    dilation,
    tap,  # the number of the first of the taps in its column
    KH: tl.constexpr,
    TAPS: tl.constexpr,
    ROWS: tl.constexpr,
    BANDS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Writes the sums of TAPS taps of one column of the filter over the bands of a program."""
    sums = ()
    for i in tl.static_range(TAPS):
        sums = sums + (zero,)
    shift = (tap - KH // 2) * dilation
    for step in range(steps):
        row = rows_of_bands(band + step * BANDS, ROWS, dilation)
        sums = add_products(sums, grad, x, inside, reached, row, shift, height, row_stride, dilation, TAPS, ROWS)
    for i in tl.static_range(TAPS):
        tl.store(workspace + i * workspace_stride, total(sums[i], CHANNELS_LAST), mask=channel_inside)


@triton.jit(do_not_specialize=["channels", "height", "bands", "steps", "parts_down", "group", "first"])
def partial_sums(
    grad,  # [N, C, H, W]
    x,  # [N, C, H, W]
    workspace,  # [parts, C, KH*KW + 1]; channels_last: [parts, KH*KW + 1, C]
    channels,
    height,
    width,
    channel_stride,  # channels_last: 1
    row_stride,
    column_stride,
    dilation_h,
    dilation_w,
    bands,  # of a picture
    steps,  # of BANDS bands, that a program walks
    parts_down,
    parts_across,
    channel_blocks,
    groups,
    group,  # columns of the filter that a program takes, of KW in `groups` groups
    first,  # the number of this launch's first program
    KH: tl.constexpr,
    KW: tl.constexpr,
    BIAS: tl.constexpr,
    SUM: tl.constexpr,
    WIDE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ROWS: tl.constexpr,
    BANDS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
):
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64) + first
    begin = (program % groups) * group
    program = program // groups
    if CHANNELS_LAST:
        channel = (program % channel_blocks) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
        program = program // channel_blocks
    start = (program % parts_across) * COLUMNS
    across = program % parts_across
    program = program // parts_across
    down = program % parts_down
    program = program // parts_down
    band = down * (steps * BANDS)
    walked = tl.minimum(steps, (bands - band + (BANDS - 1)) // BANDS)
    band += tl.arange(0, BANDS)[:, None]
    if CHANNELS_LAST:
        picture = program
        column = start + tl.arange(0, COLUMNS)[:, None]
        inside = (column < width) & (channel < channels)
        base = picture * height * row_stride + channel
    else:
        channel = program % channels
        picture = program // channels
        column = start + tl.arange(0, COLUMNS)[None, :]
        inside = column < width
        base = (picture * channels + channel) * channel_stride
    channel_inside = channel < channels
    grad += base + column * column_stride
    x += base + column * column_stride
    part = (picture * parts_down + down) * parts_across + across
    places = KH * KW + 1
    if CHANNELS_LAST:
        place_stride = channels
        workspace += part.to(tl.int64) * places * channels + channel
    else:
        place_stride = 1
        workspace += (part.to(tl.int64) * channels + channel) * places

    zero = tl.zeros((COLUMNS, CHANNELS) if CHANNELS_LAST else (BANDS, COLUMNS), SUM)
    for j in range(begin, tl.minimum(begin + group, KW)):
        shift = (j - KW // 2) * dilation_w
        reached = inside & (column + shift >= 0) & (column + shift < width)
        meets = (start + (COLUMNS - 1) + shift >= 0) & (start + shift < width)
        walk = tl.where(meets, walked, 0)
        shifted = x + shift * column_stride
        for i in range(0, KH - TAPS + 1, TAPS):
            sum_column(
                zero, workspace + (i * KW + j) * place_stride, KW * place_stride, channel_inside, grad, shifted, inside,
                reached, band, walk, height, row_stride, dilation_h, i, KH, TAPS, ROWS, BANDS, CHANNELS_LAST,
            )  # fmt: skip
        if KH % TAPS > 0:
            i = KH - KH % TAPS
            sum_column(
                zero, workspace + (i * KW + j) * place_stride, KW * place_stride, channel_inside, grad, shifted, inside,
                reached, band, walk, height, row_stride, dilation_h, i, KH, KH % TAPS, ROWS, BANDS, CHANNELS_LAST,
            )  # fmt: skip
    if BIAS:
        if begin == 0:
            sums = zero
            for step in range(walked):
                row = rows_of_bands(band + step * BANDS, ROWS, dilation_h)
                for r in tl.static_range(ROWS):
                    at = row + r * dilation_h
                    sums += tl.load(grad + at * row_stride, mask=inside & (at < height), other=0).to(SUM)
            tl.store(workspace + KH * KW * place_stride, total(sums, CHANNELS_LAST), mask=channel_inside)


@triton.jit(do_not_specialize=["parts", "channels", "numbers"])
def add_parts(
    workspace,  # [parts, C, places]; channels_last: [parts, places, C]
    before,  # one part, the sum of all before; not used where these are both the first and the last
    grad_weight,  # [C, places - 1]
    grad_bias,  # [C]
    parts,
    channels,
    places,
    numbers,  # C * places
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PARTS: tl.constexpr,
    SIZE: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)[None, :]
    part = tl.arange(0, PARTS)[:, None].to(tl.int64)
    sums = tl.zeros((PARTS, SIZE), workspace.dtype.element_ty)
    for begin in range(0, parts, PARTS):
        here = (begin + part < parts) & (at < numbers)
        sums += tl.load(workspace + (begin + part) * numbers + at, mask=here, other=0)
    value = tl.sum(sums, axis=0)[None, :]
    if not FIRST:
        value += tl.load(before + at, mask=at < numbers, other=0)
    if not LAST:
        tl.store(before + at, value, mask=at < numbers)
    else:
        if CHANNELS_LAST:
            channel, place = at % channels, at // channels
        else:
            channel, place = at // places, at % places
        is_tap = place < places - 1
        to = grad_weight + channel * (places - 1) + place
        tl.store(to, value.to(grad_weight.dtype.element_ty), mask=(at < numbers) & is_tap)
        if grad_bias is not None:
            to = grad_bias + channel
            tl.store(to, value.to(grad_bias.dtype.element_ty), mask=(at < numbers) & (place == places - 1))
