"""The Triton kernel of a depthwise convolution, forward and, with the taps in reverse order, backward to the picture.

    out[n, c, h, w] = act(bias[c] + sum over i, j of weight[c, i, j] * x[n, c, h + (i - KH//2) dh, w + (j - KW//2) dw])
                      * gate[n, c, h, w] + residual[n, c, h, w]

Tile. Triton can shift no tile that is in registers, so a tap in another column is another load. A tap in another row is
not: a program keeps ROWS output rows, dh apart, in ROWS tiles of sums. For one column of the filter it holds the
column's weights in registers, loads each of the ROWS + KH - 1 input rows once, and adds it to every output row that
it reaches: ROWS*KH multiply-adds for ROWS + KH - 1 loads. The columns of the filter are the run-time loop, so the code
does not grow with KW, and columns beyond the picture are left out. Filters taller than TAPS are taken TAPS at a time.

    contiguous      one channel; a tile is BANDS bands (each ROWS output rows) by COLUMNS columns; weights are scalars
    channels_last   one band; a tile is COLUMNS columns by CHANNELS channels; weights are vectors over channels

Rows that are dh apart share their taps, so band b holds the rows (b // dh) ROWS dh + b % dh + r dh, r = 0 .. ROWS - 1.
"""

# Triton compiles these functions from their source, and not all of Python; names in capitals are constants to it.
# mypy: ignore-errors
# ruff: noqa: B007, N803, RUF005

import triton
import triton.language as tl


@triton.jit
def activated(value, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr):
    """An activation by name, of float32 or float64; like PyTorch's for infinities and NaN."""
    if ACTIVATION == "relu":
        value = tl.where(value < 0, 0.0, value)
    elif ACTIVATION == "leaky_relu":
        value = tl.where(value > 0, value, value * SLOPE)
    elif ACTIVATION == "gelu":
        value = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
    elif ACTIVATION == "silu":
        value = value / (1.0 + tl.exp(-value))
    elif ACTIVATION == "sigmoid":
        value = 1.0 / (1.0 + tl.exp(-value))
    return value


@triton.jit
def rows_of_bands(band, ROWS: tl.constexpr, dilation):
    """The first row of each band."""
    return (band // dilation) * (ROWS * dilation) + band % dilation


@triton.jit
def first_and_last_column(start, width, dilation, COLUMNS: tl.constexpr, KW: tl.constexpr):
    """The columns of the filter, from one to before the other, that reach the picture from a tile that starts there."""
    left = tl.minimum(KW // 2, (start + (COLUMNS - 1)) // dilation)
    right = tl.minimum(KW // 2, (width - 1 - start) // dilation)
    return KW // 2 - left, KW // 2 + right + 1


@triton.jit
def add_taps(
    sums,  # ROWS tiles
    x,  # pointers to row 0 of the picture, shifted to this column of the filter
    inside,  # which columns (and channels) of the tile are in the picture there
    row,  # the input row of the first tap of the first output row, one for each band
    height,
    row_stride,
    dilation,
    weight,  # pointers to the first tap
    weight_inside,
    tap_stride,  # to the next tap of the same column
    TAPS: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Adds TAPS taps of one column of the filter to ROWS output rows."""
    weights = ()
    for i in tl.static_range(TAPS):
        if CHANNELS_LAST:
            tap = tl.load(weight + i * tap_stride, mask=weight_inside, other=0)
        else:
            tap = tl.load(weight + i * tap_stride)
        weights = weights + (tap.to(sums[0].dtype),)
    x += row * row_stride
    for q in tl.static_range(ROWS + TAPS - 1):
        value = tl.load(x, mask=inside & (row >= 0) & (row < height), other=0).to(sums[0].dtype)
        row += dilation
        x += dilation * row_stride
        for r in tl.static_range(ROWS):
            if q >= r and q - r < TAPS:
                sums = sums[:r] + (tl.fma(weights[q - r], value, sums[r]),) + sums[r + 1 :]
    return sums


@triton.jit(do_not_specialize=["channels", "height", "band_blocks", "first"])
def convolve(
    x,  # [N, C, H, W]
    weight,  # [C, KH, KW]; channels_last: [KH, KW, C]
    bias,  # [C]
    gate,  # [N, C, H, W]
    residual,  # [N, C, H, W]
    out,  # [N, C, H, W]
    channels,
    height,
    width,
    channel_stride,  # channels_last: 1
    row_stride,
    column_stride,
    weight_channel_stride,
    weight_tap_stride,
    dilation_h,
    dilation_w,
    band_blocks,
    column_blocks,
    channel_blocks,
    first,  # the number of this launch's first program
    KH: tl.constexpr,
    KW: tl.constexpr,
    FLIP: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
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
    if CHANNELS_LAST:
        channel = (program % channel_blocks) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
        program = program // channel_blocks
        start = (program % column_blocks) * COLUMNS
        program = program // column_blocks
        row = rows_of_bands(program % band_blocks + tl.arange(0, 1)[:, None], ROWS, dilation_h)
        picture = program // band_blocks
        column = start + tl.arange(0, COLUMNS)[:, None]
        inside = (column < width) & (channel < channels)
        at_column = picture * height * row_stride + channel + column * column_stride
    else:
        start = (program % column_blocks) * COLUMNS
        program = program // column_blocks
        band = (program % band_blocks) * BANDS + tl.arange(0, BANDS)[:, None]
        program = program // band_blocks
        row = rows_of_bands(band, ROWS, dilation_h)
        channel = program % channels
        picture = program // channels
        column = start + tl.arange(0, COLUMNS)[None, :]
        inside = column < width
        at_column = (picture * channels + channel) * channel_stride + column
    tap = weight + channel * weight_channel_stride
    tap_row_stride = KW * weight_tap_stride
    if FLIP:
        tap += (KH * KW - 1) * weight_tap_stride
        weight_tap_stride = -weight_tap_stride
        tap_row_stride = -tap_row_stride

    zero = tl.zeros((COLUMNS, CHANNELS) if CHANNELS_LAST else (BANDS, COLUMNS), SUM)
    sums = ()
    for r in tl.static_range(ROWS):
        sums = sums + (zero,)
    begin, end = first_and_last_column(start, width, dilation_w, COLUMNS, KW)
    for j in range(begin, end):
        shift = (j - KW // 2) * dilation_w
        reached = inside & (column + shift >= 0) & (column + shift < width)
        shifted = x + (at_column + shift * column_stride)
        top = row - (KH // 2) * dilation_h
        taps = tap + j * weight_tap_stride
        for chunk in range(KH // TAPS):
            sums = add_taps(
                sums, shifted, reached, top, height, row_stride, dilation_h, taps, channel < channels, tap_row_stride,
                TAPS, ROWS, CHANNELS_LAST,
            )  # fmt: skip
            top += TAPS * dilation_h
            taps += TAPS * tap_row_stride
        if KH % TAPS > 0:
            sums = add_taps(
                sums, shifted, reached, top, height, row_stride, dilation_h, taps, channel < channels, tap_row_stride,
                KH % TAPS, ROWS, CHANNELS_LAST,
            )  # fmt: skip

    for r in tl.static_range(ROWS):
        value = sums[r]
        at = row + r * dilation_h
        here = inside & (at < height)
        offset = at_column + at * row_stride
        if bias is not None:
            value += tl.load(bias + channel, mask=channel < channels, other=0).to(SUM)
        value = activated(value, ACTIVATION, SLOPE)
        if gate is not None:
            value *= tl.load(gate + offset, mask=here, other=0).to(SUM)
        if residual is not None:
            value += tl.load(residual + offset, mask=here, other=0).to(SUM)
        tl.store(out + offset, value.to(out.dtype.element_ty), mask=here)
