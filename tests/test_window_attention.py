"""window_attention against loops over sets, and against self-attention when its maps come from attention_maps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightsr_kernels.attention_maps import attention_maps
from lightsr_kernels.spec import Make
from lightsr_kernels.window_attention import window_attention

SHAPES = pytest.mark.parametrize(
    ("shape", "window"),
    [((2, 3, 6, 4), 2), ((1, 4, 9, 6), 3), ((1, 2, 8, 24), 8), ((2, 5, 2, 3), 1), ((1, 1, 4, 8), 4)],
    ids=str,
)
SETS = pytest.mark.parametrize("grid", [False, True], ids=["windows", "grid"])


def weights_of(make: Make, c: int) -> dict[str, Tensor]:
    return {"norm_weight": make(c), "norm_bias": make(c), "value_weight": make(c, c), "out_weight": make(c, c)}


def mask_of(y: int, x: int, h: int, w: int, window: int, grid: bool) -> Tensor:
    """Which pixels belong to set (y, x), as a picture of booleans."""
    row, column = torch.arange(h)[:, None], torch.arange(w)[None, :]
    if grid:
        return (row % (h // window) == y) & (column % (w // window) == x)
    return (row // window == y) & (column // window == x)


def expected(x: Tensor, maps: Tensor, weights: dict[str, Tensor], window: int, grid: bool) -> Tensor:
    """One set after another, its pixels chosen by a mask, which keeps them in reading order."""
    n, c, h, w = x.shape
    norm = nn.LayerNorm(c, eps=1e-5, dtype=torch.float64)
    value, out = (nn.Conv1d(c, c, 1, bias=False, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        norm.weight.copy_(weights["norm_weight"])
        norm.bias.copy_(weights["norm_bias"])
        value.weight.copy_(weights["value_weight"][:, :, None])
        out.weight.copy_(weights["out_weight"][:, :, None])
    result, remaining = x.clone(), iter(maps)
    for picture in range(n):
        for y in range(h // window):
            for column in range(w // window):
                mask = mask_of(y, column, h, w, window, grid)
                tokens = norm(x[picture, :, mask].T)
                values = value(tokens.T)  # [C, tokens]
                result[picture, :, mask] += out(torch.einsum("qk,ck->cq", next(remaining), values))
    return result


@SHAPES
@SETS
def test_equals_loops(shape: tuple[int, int, int, int], window: int, grid: bool) -> None:
    make = Make(torch.float64)
    n, c, h, w = shape
    x, weights = make(*shape), weights_of(make, c)
    maps = make(n * (h // window) * (w // window), window**2, window**2)
    out = window_attention(x, maps, **weights, window=window, grid=grid)
    torch.testing.assert_close(out, expected(x, maps, weights, window, grid), rtol=1e-12, atol=1e-12)


@SHAPES
@SETS
def test_with_its_own_maps_is_self_attention(shape: tuple[int, int, int, int], window: int, grid: bool) -> None:
    """Written without sets: every pixel attends to all pixels, those of other sets masked out."""
    make = Make(torch.float64)
    n, c, h, w = shape
    x, weights = make(*shape), weights_of(make, c)
    query_key, table = make(2 * c, c), make((2 * window - 1) ** 2)
    norm = weights["norm_weight"], weights["norm_bias"]
    maps = attention_maps(x, *norm, query_key, table, window=window, grid=grid)
    out = window_attention(x, maps, **weights, window=window, grid=grid)

    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    if grid:
        sets = (rows % (h // window)) * w + columns % (w // window)
        i, j = rows // (h // window), columns // (w // window)
    else:
        sets = (rows // window) * w + columns // window
        i, j = rows % window, columns % window
    sets, i, j = sets.flatten(), i.flatten(), j.flatten()
    entry = (i[:, None] - i + window - 1) * (2 * window - 1) + (j[:, None] - j + window - 1)
    together = sets[:, None] == sets

    flat = x.flatten(2)  # [N, C, pixels]
    centred = flat - flat.mean(1, keepdim=True)
    normal = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() * norm[0][:, None] + norm[1][:, None]
    query, key, value = query_key[:c] @ normal, query_key[c:] @ normal, weights["value_weight"] @ normal
    scores = torch.einsum("ncq,nck->nqk", query, key) / c**0.5
    scores = (scores + table[entry.clamp(0, len(table) - 1)]).masked_fill(~together, -torch.inf)
    mixed = torch.einsum("nqk,nck->ncq", scores.softmax(-1), value)
    attended = x + (weights["out_weight"] @ mixed).reshape(n, c, h, w)
    torch.testing.assert_close(out, attended, rtol=1e-12, atol=1e-12)


@SETS
def test_later_layers_read_the_maps_in_the_order_they_were_stored(grid: bool) -> None:
    """Maps made from one picture move the pixels of another: each pixel asks for the one it matched in the first."""
    window, h, w = 2, 6, 8
    sets, tokens = (h // window) * (w // window), window**2
    # In every set the queries point at the token one after their own, cyclically: a one-hot code in the channels.
    code = torch.eye(tokens, dtype=torch.float64)
    first = torch.zeros(1, tokens, h, w, dtype=torch.float64)
    for y in range(h // window):
        for x in range(w // window):
            first[0, :, mask_of(y, x, h, w, window, grid)] = code
    shifted = code.roll(1, 0).T  # token t queries as token t + 1
    ones, zeros = torch.ones(tokens, dtype=torch.float64), torch.zeros(tokens, dtype=torch.float64)
    maps = attention_maps(
        first, ones, zeros, 40 * torch.cat([shifted, code]), torch.zeros(9, dtype=torch.float64), window=2, grid=grid
    )
    assert maps.shape == (sets, tokens, tokens)
    assert (maps.amax(-1) > 0.999).all()

    later = Make(torch.float64)(1, 3, h, w)  # another width, another picture
    eye = torch.eye(3, dtype=torch.float64)
    norm = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    moved = window_attention(later, maps, *norm, eye, eye, window=window, grid=grid) - later
    normal = nn.functional.layer_norm(later.movedim(1, -1), (3,)).movedim(-1, 1)
    for y in range(h // window):
        for x in range(w // window):
            mask = mask_of(y, x, h, w, window, grid)
            asked = maps[y * (w // window) + x].argmax(-1)
            assert sorted(asked.tolist()) == list(range(tokens))
            assert (asked != torch.arange(tokens)).all()
            torch.testing.assert_close(moved[0, :, mask], normal[0, :, mask][:, asked], rtol=0, atol=1e-3)


@SETS
def test_sets_stay_apart(grid: bool) -> None:
    """A changed pixel changes its own set and nothing else."""
    make = Make(torch.float64)
    x, maps, weights = make(1, 3, 6, 9), make(6, 9, 9), weights_of(make, 3)
    other = x.clone()
    other[0, 1, 4, 5] += 1
    changed = (
        window_attention(x, maps, **weights, window=3, grid=grid)
        - window_attention(other, maps, **weights, window=3, grid=grid)
    ).abs().amax(1)[0] > 0
    y, column = (4 % 2, 5 % 3) if grid else (4 // 3, 5 // 3)
    assert torch.equal(changed, mask_of(y, column, 6, 9, 3, grid))


def test_gradient_reaches_maps_made_by_another_layer() -> None:
    """The first group's queries learn through the maps the later groups use."""
    make = Make(torch.float64)
    x, weights = make(1, 2, 4, 4), weights_of(make, 2)
    query_key = make(4, 2).requires_grad_()
    norm = weights["norm_weight"], weights["norm_bias"]

    def result(query_key: Tensor) -> Tensor:
        maps = attention_maps(x, *norm, query_key, torch.zeros(9, dtype=torch.float64), window=2)
        again = window_attention(x, maps, **weights, window=2)
        return window_attention(again, maps, **weights, window=2)

    torch.autograd.gradcheck(result, (query_key,))
