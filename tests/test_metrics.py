import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from lightsr import InputError
from lightsr.metrics import luma, psnr, ssim


def pictures(height, width, seed=0, noise=12.0):
    """A smooth picture with edges, and a noisy copy."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    base = np.stack([128 + 90 * np.sin(rows / 5 + k) * np.cos(columns / (7 + k)) for k in range(3)])
    base[:, height // 3 : height // 2] += 40
    noisy = base + noise * rng.standard_normal(base.shape)
    return tuple(torch.from_numpy(np.clip(each, 0, 255).astype(np.uint8)) for each in (base, noisy))


def numpy_luma(picture):
    return 16 + np.tensordot([65.481, 128.553, 24.966], picture.numpy().astype(float), 1) / 255


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [((0, 0, 0), 16), ((255, 255, 255), 235), ((255, 0, 0), 81.481), ((0, 255, 0), 144.553), ((0, 0, 255), 40.966)],
    ids=["black", "white", "red", "green", "blue"],
)
def test_luma_of_the_corners(rgb, expected):
    for dtype in (torch.uint8, torch.float32):
        y = luma(torch.tensor(rgb, dtype=dtype).view(3, 1, 1))
        assert y.dtype == torch.float64
        assert y.item() == pytest.approx(expected, abs=1e-12)


def test_luma_is_not_rounded_and_takes_batches():
    batch = torch.randint(0, 256, (2, 5, 3, 4, 6), dtype=torch.uint8)
    y = luma(batch)
    assert y.shape == (2, 5, 4, 6)
    np.testing.assert_allclose(y[1, 2].numpy(), numpy_luma(batch[1, 2]), rtol=0, atol=1e-12)
    assert (y != y.round()).any()


@pytest.mark.parametrize("crop", [0, 2, 3, 4])
@pytest.mark.parametrize("size", [(40, 53), (31, 23)], ids=["40x53", "31x23"])
def test_psnr_against_numpy(size, crop):
    a, b = pictures(*size)
    inside = np.s_[crop : size[0] - crop, crop : size[1] - crop]
    error = np.mean((numpy_luma(a)[inside] - numpy_luma(b)[inside]) ** 2)
    assert psnr(a, b, crop) == pytest.approx(10 * np.log10(255**2 / error), abs=1e-10)


def test_psnr_by_hand():
    black = torch.zeros(3, 1, 1, dtype=torch.uint8)
    assert psnr(black, black + 255, 0) == pytest.approx(20 * math.log10(255 / 219), abs=1e-12)


@pytest.mark.parametrize("crop", [0, 2, 4])
@pytest.mark.parametrize("size", [(40, 53), (19, 20), (64, 32)], ids=["40x53", "19x20", "64x32"])
def test_ssim_against_scikit_image(size, crop):
    a, b = pictures(*size, seed=crop)
    inside = np.s_[crop : size[0] - crop, crop : size[1] - crop]
    places = structural_similarity(
        numpy_luma(a)[inside],
        numpy_luma(b)[inside],
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        win_size=11,
        full=True,
    )[1]
    assert ssim(a, b, crop) == pytest.approx(places[5:-5, 5:-5].mean(), abs=1e-10)


def test_the_crop_is_left_out():
    a, b = pictures(40, 53)
    for metric in (psnr, ssim):
        spoilt = b.clone()
        spoilt[:, :4] = 0
        spoilt[:, -4:] = 0
        spoilt[:, :, :4] = 0
        spoilt[:, :, -4:] = 0
        assert metric(a, spoilt, 4) == metric(a, b, 4)
        assert metric(a, spoilt, 3) != metric(a, b, 3)


def test_equal_pictures():
    a, _ = pictures(30, 30)
    assert psnr(a, a.clone(), 4) == math.inf
    assert ssim(a, a.clone(), 4) == 1


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_symmetric(metric):
    a, b = pictures(30, 41)
    assert metric(a, b, 2) == pytest.approx(metric(b, a, 2), abs=1e-12)


def test_smallest_sizes():
    a, b = pictures(19, 19)
    assert 0 < ssim(a, b, 4) < 1
    with pytest.raises(InputError, match="19x19 is too small: with crop 5 it takes 21x21 at least"):
        ssim(a, b, 5)
    assert psnr(a, b, 9) > 0
    with pytest.raises(InputError, match="19x19 is too small: with crop 10 it takes 21x21"):
        psnr(a, b, 10)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    ("a", "b", "crop", "message"),
    [
        (torch.zeros(3, 20, 20), torch.zeros(3, 20, 20), 0, "must be uint8 RGB"),
        (torch.zeros(1, 20, 20).byte(), torch.zeros(1, 20, 20).byte(), 0, r"must be uint8 RGB.*\[1, 20, 20\]"),
        (torch.zeros(3, 20, 21).byte(), torch.zeros(3, 20, 20).byte(), 0, "one size; got 21x20 and 20x20"),
        (torch.zeros(3, 20, 20).byte(), torch.zeros(3, 20, 20).byte(), -1, "crop must be 0 or more"),
    ],
    ids=["float", "grey", "sizes", "crop"],
)
def test_bad_input(metric, a, b, crop, message):
    with pytest.raises(InputError, match=message):
        metric(a, b, crop)


def test_luma_refuses_grey():
    with pytest.raises(InputError, match=r"must be RGB.*\[1, 4, 4\]"):
        luma(torch.zeros(1, 4, 4))
