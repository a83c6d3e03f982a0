import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightsr import InputError
from lightsr.resize import imresize


def cubic(t):
    t = abs(t)
    if t <= 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0


def slow_line(line, scale):
    """The published rule, one output sample at a time, in 1-based coordinates as it is published."""
    stretch = min(scale, 1)
    result = []
    for i in range(1, int(np.ceil(len(line) * scale - 1e-9)) + 1):
        u = i / scale + 0.5 * (1 - 1 / scale)
        total = norm = 0.0
        for j in range(int(np.floor(u - 2 / stretch)) - 1, int(np.ceil(u + 2 / stretch)) + 2):
            mirrored = j
            while not 1 <= mirrored <= len(line):
                mirrored = 1 - mirrored if mirrored < 1 else 2 * len(line) + 1 - mirrored
            weight = cubic(stretch * (u - j))
            total += weight * line[mirrored - 1]
            norm += weight
        result.append(total / norm)
    return result


def slow(picture, scale, rounding):
    rows = rounding(np.array([slow_line(column, scale) for column in picture.T]).T)
    return rounding(np.array([slow_line(row, scale) for row in rows]))


def half_up(values):
    return np.clip(np.floor(values + 0.5), 0, 255)


CASES = [(9, 7, 1 / 4), (13, 10, 1 / 3), (8, 12, 1 / 2), (5, 3, 4), (4, 6, 3), (1, 1, 2), (1, 5, 1 / 4), (7, 9, 0.37)]


@pytest.mark.parametrize(("height", "width", "scale"), CASES)
def test_floats_follow_the_published_rule(height, width, scale):
    picture = np.random.default_rng(height).random((height, width))
    got = imresize(torch.tensor(picture), scale).numpy()
    np.testing.assert_allclose(got, slow(picture, scale, lambda values: values), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("height", "width", "scale"), CASES)
def test_bytes_are_rounded_and_clipped_in_both_passes(height, width, scale):
    # Black and white alone: the cubic overshoots, so clipping between the passes shows.
    picture = np.random.default_rng(width).choice([0, 255], (height, width)).astype(np.uint8)
    got = imresize(torch.tensor(picture), scale)
    assert got.dtype == torch.uint8
    np.testing.assert_array_equal(got.numpy(), slow(picture.astype(float), scale, half_up))


def test_by_hand():
    # Doubling [0, 64], mirrored 64 0 | 0 64 | 64 0. Sample 0 lies at -1/4: taps at -2 .. 1 with weights -3, 29, 111, -9
    # (of 128) on 64 0 0 64. Sample 1 lies at 1/4: taps at -1 .. 2 with -9, 111, 29, -3 on 0 0 64 64. Then by symmetry.
    got = imresize(torch.tensor([[0.0, 64.0]], dtype=torch.float64), 2)
    assert got.tolist() == [[-6, 13, 51, 70]] * 2
    got = imresize(torch.tensor([[0, 64]], dtype=torch.uint8), 2)
    assert got.tolist() == [[0, 13, 51, 70]] * 2


def test_a_flat_picture_stays_flat():
    assert (imresize(torch.full((3, 9, 14), 201, dtype=torch.uint8), 1 / 4) == 201).all()
    torch.testing.assert_close(imresize(torch.full((2, 3, 5, 6), 0.3), 3), torch.full((2, 3, 15, 18), 0.3))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1 / 4, 1 / 3, 1 / 2, 0.7, 1.0, 2, 3, 4]))
def test_any_size(height, width, scale):
    out = imresize(torch.ones(2, height, width), scale)
    assert out.shape == (2, int(np.ceil(height * scale)), int(np.ceil(width * scale)))
    torch.testing.assert_close(out, torch.ones_like(out))


@pytest.mark.parametrize("side", [3, 21, 51, 99, 300, 1023])
def test_a_third_of_a_multiple_of_three_is_exact(side):
    assert imresize(torch.zeros(side, 1), 1 / 3).shape[0] == side // 3


@pytest.mark.parametrize("scale", [1 / 3, 4])
def test_gradients(scale):
    x = torch.rand(2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: imresize(t, scale), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_worked_on_in_float32(dtype):
    x = torch.rand(1, 3, 12, 8).to(dtype)
    torch.testing.assert_close(imresize(x, 2), imresize(x.float(), 2).to(dtype), rtol=0, atol=0)


def test_layouts_and_batches_give_the_same():
    x = torch.rand(2, 3, 10, 9)
    expected = torch.stack([imresize(each, 1 / 2) for each in x])
    for same in (x, x.contiguous(memory_format=torch.channels_last), x.mT.contiguous().mT):
        assert torch.equal(imresize(same, 1 / 2), expected)
    assert imresize(x[:0], 2).shape == (0, 3, 20, 18)


@pytest.mark.parametrize(
    ("x", "scale", "message"),
    [
        (torch.zeros(3, 4, dtype=torch.int64), 2, "uint8 or floating point"),
        (torch.zeros(4), 2, "H and W from 1 up"),
        (torch.zeros(3, 0, 4), 2, "H and W from 1 up"),
        (torch.zeros(3, 4), 0, "scale must be"),
        (torch.zeros(3, 4), float("nan"), "scale must be"),
    ],
    ids=["dtype", "1-d", "empty", "zero-scale", "nan-scale"],
)
def test_bad_input(x, scale, message):
    with pytest.raises(InputError, match=message):
        imresize(x, scale)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("dataset", "count"), [("Set5", 5), ("Set14", 14)])
def test_published_low_resolution_files_bit_for_bit(shared, dataset, count, scale):
    from PIL import Image

    folder = shared / "testsets" / dataset
    paths = sorted((folder / "HR").glob("*.png"))
    assert len(paths) == count
    for path in paths:
        hr, lr = (
            torch.from_numpy(np.array(Image.open(each)))
            for each in (path, folder / "LR_bicubic" / f"X{scale}" / f"{path.stem}x{scale}.png")
        )
        if hr.dim() == 3:  # `bridge` has one channel
            hr, lr = hr.permute(2, 0, 1), lr.permute(2, 0, 1)
        height, width = (side // scale * scale for side in hr.shape[-2:])
        assert torch.equal(imresize(hr[..., :height, :width], 1 / scale), lr), path.name
