"""PSNR and SSIM as super-resolution papers measure them: on BT.601 luma, with the border left out."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError

SSIM_SIDE, SSIM_SIGMA = 11, 1.5  # of the gaussian window, in pixels
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def luma(
    rgb: Tensor,  # [..., 3, H, W] in 0..255
) -> Tensor:  # [..., H, W] float64 in 16..235
    """The Y of YCbCr, BT.601 studio range, not rounded: 16 + (65.481 R + 128.553 G + 24.966 B) / 255.

    Three multiplications in float64 rather than a matrix product, so that no TF32 unit can round them: a GPU gives what
    a CPU gives. Any dtype and device. Raises InputError when the third dimension from the end is not 3.

    Source: ITU-R BT.601, as in MATLAB's rgb2ycbcr.

    Example:
        >>> import torch
        >>> luma(torch.full((3, 1, 1), 255, dtype=torch.uint8)).item()
        235.0
    """
    if rgb.dim() < 3 or rgb.shape[-3] != 3:
        raise InputError(f"luma: the picture must be RGB, [..., 3, H, W]; got {list(rgb.shape)}")
    red, green, blue = rgb.double().unbind(-3)
    return 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255


def psnr(
    a: Tensor,  # [3, H, W] uint8
    b: Tensor,  # [3, H, W] uint8
    crop: int,
) -> float:
    """Peak signal-to-noise ratio of two RGB pictures in dB, on luma with peak 255; inf when the luma is equal.

    Args:
        a: a picture, [3, H, W] uint8; a grey one repeated three times.
        b: another of the same size.
        crop: pixels left out on every side; papers take the scale.

    Raises InputError when the pictures do not match or nothing is left of them.

    Source: the protocol of the papers since Timofte et al., A+, ACCV 2014.

    Example:
        >>> import torch
        >>> picture = torch.zeros(3, 8, 8, dtype=torch.uint8)
        >>> psnr(picture, picture, crop=2)
        inf
    """
    difference = _cropped_luma("psnr", a, crop, 1, b) - _cropped_luma("psnr", b, crop, 1, a)
    error = float(difference.square().mean())
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(
    a: Tensor,  # [3, H, W] uint8
    b: Tensor,  # [3, H, W] uint8
    crop: int,
) -> float:
    """Structural similarity of two RGB pictures, on luma: 1 when it is equal.

    Window 11x11 gaussian of sigma 1.5 at every place where it fits whole, K1 = 0.01, K2 = 0.03, data range 255, in
    float64; the mean over all places.

    Args:
        a: a picture, [3, H, W] uint8; a grey one repeated three times.
        b: another of the same size.
        crop: pixels left out on every side; papers take the scale.

    Raises InputError when the pictures do not match, or a side is below 11 + 2*crop.

    Source: Wang et al., Image quality assessment: from error visibility to structural similarity, IEEE TIP 2004.

    Example:
        >>> import torch
        >>> picture = torch.zeros(3, 16, 16, dtype=torch.uint8)
        >>> ssim(picture, picture, crop=2)
        1.0
    """
    x, y = (_cropped_luma("ssim", p, crop, SSIM_SIDE, q) for p, q in ((a, b), (b, a)))
    maps = torch.stack([x, y, x * x, y * y, x * y])[:, None]
    distance = torch.arange(SSIM_SIDE, dtype=torch.float64, device=maps.device) - SSIM_SIDE // 2
    window = torch.exp(-(distance**2) / (2 * SSIM_SIGMA**2))
    window = window / window.sum()
    maps = F.conv2d(F.conv2d(maps, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
    mean_x, mean_y, square_x, square_y, product = maps.squeeze(1)
    variances = square_x - mean_x**2 + square_y - mean_y**2
    covariance = product - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (variances + SSIM_C2)
    return float((luminance * structure).mean())


def _cropped_luma(metric: str, picture: Tensor, crop: int, smallest: int, other: Tensor) -> Tensor:
    if picture.dtype != torch.uint8 or picture.dim() != 3 or picture.shape[0] != 3:
        got = f"{picture.dtype} {list(picture.shape)}"
        raise InputError(f"{metric}: a picture must be uint8 RGB, [3, H, W]; got {got}")
    if picture.shape != other.shape:
        sizes = " and ".join(f"{w}x{h}" for _, h, w in (picture.shape, other.shape))
        raise InputError(f"{metric}: the two pictures must have one size; got {sizes} (width x height)")
    if crop < 0:
        raise InputError(f"{metric}: crop must be 0 or more pixels; got {crop}")
    height, width = picture.shape[1:]
    if min(height, width) < smallest + 2 * crop:
        least = smallest + 2 * crop
        raise InputError(f"{metric}: {width}x{height} is too small: with crop {crop} it takes {least}x{least} at least")
    return luma(picture[:, crop : height - crop, crop : width - crop])
