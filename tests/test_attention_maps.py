"""attention_maps against loops over sets and pixels, and the order of sets and tokens that stored maps rely on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lightsr_kernels.attention_maps import attention_maps
from lightsr_kernels.functional import from_sets, to_sets
from lightsr_kernels.spec import Make

SHAPES = pytest.mark.parametrize(
    ("shape", "window"),
    [((2, 3, 6, 4), 2), ((1, 4, 9, 6), 3), ((1, 2, 8, 24), 8), ((2, 5, 2, 3), 1), ((1, 1, 4, 8), 4)],
    ids=str,
)
SETS = pytest.mark.parametrize("grid", [False, True], ids=["windows", "grid"])


def pixels(h: int, w: int, window: int, grid: bool) -> list[list[tuple[int, int]]]:
    """The pixels of every set in their order, by walking over sets and tokens."""
    rows, columns = h // window, w // window
    sets = []
    for y in range(rows):
        for x in range(columns):
            tokens = [(i, j) for i in range(window) for j in range(window)]
            if grid:
                sets.append([(i * rows + y, j * columns + x) for i, j in tokens])
            else:
                sets.append([(y * window + i, x * window + j) for i, j in tokens])
    return sets


def weights_of(make: Make, c: int, window: int) -> dict[str, Tensor]:
    return {
        "norm_weight": make(c),
        "norm_bias": make(c),
        "query_key_weight": make(2 * c, c),
        "position_table": make((2 * window - 1) ** 2),
    }


@SHAPES
@SETS
def test_equals_loops(shape: tuple[int, int, int, int], window: int, grid: bool) -> None:
    make = Make(torch.float64)
    n, c, h, w = shape
    x, weights = make(*shape), weights_of(make, c, window)
    norm = nn.LayerNorm(c, eps=1e-5, dtype=torch.float64)
    query, key = (nn.Linear(c, c, bias=False, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        norm.weight.copy_(weights["norm_weight"])
        norm.bias.copy_(weights["norm_bias"])
        query.weight.copy_(weights["query_key_weight"][:c])
        key.weight.copy_(weights["query_key_weight"][c:])

    expected = []
    for picture in range(n):
        for places in pixels(h, w, window, grid):
            tokens = norm(torch.stack([x[picture, :, row, column] for row, column in places]))
            scores = query(tokens) @ key(tokens).T / math.sqrt(c)
            for a in range(window**2):
                for b in range(window**2):
                    below, right = a // window - b // window, a % window - b % window
                    entry = (below + window - 1) * (2 * window - 1) + right + window - 1
                    scores[a, b] += weights["position_table"][entry]
            expected.append(scores.exp() / scores.exp().sum(1, keepdim=True))
    maps = attention_maps(x, **weights, window=window, grid=grid)
    torch.testing.assert_close(maps, torch.stack(expected), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(maps.sum(-1), torch.ones_like(maps[..., 0]), rtol=0, atol=1e-12)


@SHAPES
@SETS
def test_sets_equal_an_explicit_gather(shape: tuple[int, int, int, int], window: int, grid: bool) -> None:
    n, c, h, w = shape
    x = torch.arange(n * c * h * w, dtype=torch.float64).reshape(shape)
    places = pixels(h, w, window, grid)
    gathered = [
        torch.stack([x[picture, :, row, column] for row, column in each]) for picture in range(n) for each in places
    ]
    assert torch.equal(to_sets(x, window, grid), torch.stack(gathered))
    assert sorted(place for each in places for place in each) == [(y, x) for y in range(h) for x in range(w)]


@SHAPES
@SETS
def test_sets_and_picture_are_inverses(shape: tuple[int, int, int, int], window: int, grid: bool) -> None:
    make = Make(torch.float64)
    n, c, h, w = shape
    x = make(*shape)
    assert torch.equal(from_sets(to_sets(x, window, grid), x.shape, window, grid), x)
    tokens = make(n * (h // window) * (w // window), window**2, c + 2)  # another width than the picture's
    assert torch.equal(to_sets(from_sets(tokens, x.shape, window, grid), window, grid), tokens)


@SETS
def test_position_alone(grid: bool) -> None:
    """Without queries every pixel attends by offset: a table that favours (1 up, 2 left) sends each token there."""
    window, (up, left) = 4, (1, 2)
    table = torch.zeros(7, 7, dtype=torch.float64)
    table[window - 1 + up, window - 1 + left] = 100.0  # the query lies below and right of that key
    maps = attention_maps(
        torch.randn(1, 2, 8, 8, dtype=torch.float64),
        torch.ones(2, dtype=torch.float64),
        torch.zeros(2, dtype=torch.float64),
        torch.zeros(4, 2, dtype=torch.float64),
        table.flatten(),
        window=window,
        grid=grid,
    )
    for i in range(window):
        for j in range(window):
            row = maps[:, i * window + j]
            if i >= up and j >= left:
                assert (row[:, (i - up) * window + j - left] > 0.999).all()
            else:
                torch.testing.assert_close(row, torch.full_like(row, 1 / window**2))


@SETS
def test_pictures_do_not_see_each_other(grid: bool) -> None:
    make = Make(torch.float64)
    x, weights = make(3, 2, 4, 6), weights_of(make, 2, 2)
    alone = torch.cat([attention_maps(each[None], **weights, window=2, grid=grid) for each in x])
    torch.testing.assert_close(attention_maps(x, **weights, window=2, grid=grid), alone, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(alone[:6], alone[6:12])


def test_large_scores_do_not_overflow() -> None:
    """Scores of 1e5 are beyond float16's exponentials and sums, not beyond the softmax."""
    make = Make(torch.float16)
    weights = weights_of(make, 4, 2) | {"query_key_weight": make(8, 4, scale=60.0)}
    maps = attention_maps(make(1, 4, 4, 4), **weights, window=2)
    assert maps.isfinite().all()
    torch.testing.assert_close(maps.float().sum(-1), torch.ones(4, 4), rtol=0, atol=2e-3)
