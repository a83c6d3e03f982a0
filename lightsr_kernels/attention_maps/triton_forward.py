"""The Triton kernel of attention_maps: a program makes the scores of some queries of a set with all its keys.

    q[i, d]      = sum over c of n[c, i] weight[c, d]              weight = C^-1/2 query_weight^T key_weight
    maps[i, k]   = softmax over k of (position of i and k + sum over d of q[i, d] n[d, k])

and for gradients, without maps in memory, or with the pixels of another picture as queries and no softmax:

    scores[i, k] = maps[i, k] (grad[i, k] - sum over j of maps[i, j] grad[i, j])

Queries and keys are linear in their pixels, so one matrix stands between two pixels: half the products that both
weights would take. What 16-bit types round off that matrix and off q is multiplied too, because the exponential makes a
large error of it. The pixels of a set are read where they lie, windows and grid sets alike, by their offsets alone: no
permuted copy. Of a window of 8 one program has the whole set.

It moves x once (a set's later walks over x come from the L1 cache) and the maps once; nothing else of their size.
Products of float32 are IEEE float32, never TF32; of 16-bit types on tensor cores, summed in float32.
"""

# Triton compiles these functions from their source, and not all of Python; names in capitals are constants to it.
# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl

from ..split_distillation.triton_tiles import matrix_of
from .triton_norm import normalised, statistics


@triton.jit
def place_of_token(
    token, tokens_set, sets_down, sets_across, pixel_stride, WINDOW: tl.constexpr, GRID: tl.constexpr
):  # fmt: skip
    """The offset of a token within its picture; `tokens_set` is the number of its set there."""
    down, across = tokens_set // sets_across, tokens_set % sets_across
    i, j = token // WINDOW, token % WINDOW
    if GRID:
        row, column = i * sets_down + down, j * sets_across + across
    else:
        row, column = down * WINDOW + i, across * WINDOW + j
    return (row * (sets_across * WINDOW) + column) * pixel_stride


@triton.jit
def unrounded_dot(left, right, sums, SUM: tl.constexpr, FACTOR: tl.constexpr):
    """A product of a tile in SUM with one in FACTOR, either way round, of which a 16-bit FACTOR loses nothing."""
    if FACTOR == SUM:
        sums = tl.dot(left, right, sums, input_precision="ieee", out_dtype=SUM)
    elif left.dtype == SUM:
        high = left.to(FACTOR)
        sums = tl.dot((left - high.to(SUM)).to(FACTOR), right, sums, input_precision="ieee", out_dtype=SUM)
        sums = tl.dot(high, right, sums, input_precision="ieee", out_dtype=SUM)
    else:
        high = right.to(FACTOR)
        sums = tl.dot(left, (right - high.to(SUM)).to(FACTOR), sums, input_precision="ieee", out_dtype=SUM)
        sums = tl.dot(left, high, sums, input_precision="ieee", out_dtype=SUM)
    return sums


@triton.jit(do_not_specialize=["channels", "sets_down", "sets_across", "query_blocks", "key_blocks", "first"])
def score(
    x,  # [N, C, H, W]
    other,  # [N, C, H, W], whose pixels are the queries as they are; without it those of n are
    norm_weight,  # [C]
    norm_bias,  # [C]
    weight,  # [C, C]
    table,  # [(2 WINDOW - 1)^2]; without it the scores are the result
    grad,  # [N sets, WINDOW^2, WINDOW^2], of the maps; with it the result is the gradient of the scores
    maps,  # [N sets, WINDOW^2, WINDOW^2]
    channels,
    sets_down,  # H / WINDOW
    sets_across,  # W / WINDOW
    picture_stride,
    channel_stride,
    pixel_stride,
    query_blocks,
    key_blocks,  # 1 with a table
    first,  # the number of this launch's first program
    WINDOW: tl.constexpr,
    GRID: tl.constexpr,
    EPS: tl.constexpr,
    SUM: tl.constexpr,
    FACTOR: tl.constexpr,  # what is multiplied
    WIDE: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,  # with a table a power of 2 that holds all of a set
    DEPTH: tl.constexpr,
):
    tokens: tl.constexpr = WINDOW * WINDOW
    program = tl.program_id(0)
    across = tl.arange(0, DEPTH)
    if WIDE:
        program, across = program.to(tl.int64) + first, across.to(tl.int64)
    key = (program % key_blocks) * KEYS + tl.arange(0, KEYS)[None, :]
    program = program // key_blocks
    query = (program % query_blocks) * QUERIES + tl.arange(0, QUERIES)[:, None]
    number = program // query_blocks
    sets = sets_down * sets_across
    x += number // sets * picture_stride
    of_query = place_of_token(query, number % sets, sets_down, sets_across, pixel_stride, WINDOW, GRID)
    of_key = place_of_token(key, number % sets, sets_down, sets_across, pixel_stride, WINDOW, GRID)
    if other is None:
        asking, query_weight = x, norm_weight
    else:
        asking, query_weight = other + number // sets * picture_stride, None
    query_mean, query_scale = statistics(
        asking, of_query, query < tokens, across[None, :], channels, channel_stride, query_weight, EPS, SUM, DEPTH, 1
    )  # fmt: skip
    key_mean, key_scale = statistics(
        x, of_key, key < tokens, across[:, None], channels, channel_stride, norm_weight, EPS, SUM, DEPTH, 0
    )  # fmt: skip

    scores = tl.zeros((QUERIES, KEYS), SUM)
    for begin in tl.range(0, channels, DEPTH, num_stages=1):
        column = begin + across
        queries = tl.zeros((QUERIES, DEPTH), SUM)
        for start in tl.range(0, channels, DEPTH, num_stages=1):
            channel = start + across
            values = normalised(
                asking, of_query, query < tokens, channel[None, :], channels, channel_stride, query_mean, query_scale,
                query_weight, norm_bias, SUM, FACTOR,
            )  # fmt: skip
            factors = matrix_of(weight, channel[:, None], column[None, :], channels, channels).to(SUM)
            queries = unrounded_dot(values, factors, queries, SUM, FACTOR)
        keys = normalised(
            x, of_key, key < tokens, column[:, None], channels, channel_stride, key_mean, key_scale,
            norm_weight, norm_bias, SUM, FACTOR,
        )  # fmt: skip
        queries = tl.where(column[None, :] < channels, queries, 0.0)  # zero times infinity is not zero
        scores = unrounded_dot(queries, keys, scores, SUM, FACTOR)

    both = (query < tokens) & (key < tokens)
    at = (number * tokens + query) * tokens + key
    if table is not None:
        down, right = query // WINDOW - key // WINDOW + WINDOW - 1, query % WINDOW - key % WINDOW + WINDOW - 1
        scores += tl.load(table + down * (2 * WINDOW - 1) + right, mask=both, other=0).to(SUM)
        scores = tl.where(key < tokens, scores, -float("inf"))
        scores = tl.exp(scores - tl.max(scores, axis=1, keep_dims=True))
        scores /= tl.sum(scores, axis=1, keep_dims=True)
        if grad is not None:
            incoming = tl.load(grad + at, mask=both, other=0).to(SUM)
            scores *= incoming - tl.sum(tl.where(both, scores * incoming, 0.0), axis=1, keep_dims=True)
    tl.store(maps + at, scores.to(maps.dtype.element_ty), mask=both)
