"""Makes the README's comparison: the input, bicubic, HASN, and the same scene drawn at four times the size.

    python examples/compare.py -w HASN.pth     # writes docs/images/comparison.png

Every crop is what the method gives for examples/picture.png, unretouched; the figures are over the whole picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from make_picture import render
from PIL import Image, ImageDraw, ImageFont

import lightsr
from lightsr.metrics import psnr
from lightsr.networks import SRNetwork

SCALE = 4
HERE = Path(__file__).parent
CROPS = ((176, 24, 60, 38), (110, 131, 60, 26), (25, 12, 60, 34))  # column, row, width, height
GAP, CAPTION = 6, 40  # pixels of the page
PAPER, INK = (255, 255, 255), (36, 41, 47)


def tensor(picture: Image.Image) -> torch.Tensor:  # [3, H, W] uint8
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)


def enlarge(net: SRNetwork, picture: Image.Image) -> Image.Image:
    """The network's result, rounded to 8 bit."""
    with torch.inference_mode():
        out = net(tensor(picture)[None] / 255)[0]
    rounded = (out * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(rounded.permute(1, 2, 0).numpy())


def page(columns: list[tuple[str, str, Image.Image]], crops: tuple[tuple[int, int, int, int], ...]) -> Image.Image:
    """One column a picture (title, figure, picture), one row a crop."""
    width = crops[0][2] * SCALE
    heights = [height * SCALE for _, _, _, height in crops]
    size = (len(columns) * (width + GAP) - GAP, CAPTION + sum(heights) + GAP * (len(crops) - 1))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (title, figure, picture) in enumerate(columns):
        left, top = number * (width + GAP), CAPTION
        draw.text((left, 2), title, INK, ImageFont.load_default(17))
        draw.text((left, 22), figure, INK, ImageFont.load_default(13))
        for (x, y, w, h), height in zip(crops, heights, strict=True):
            box = tuple(SCALE * each for each in (x, y, x + w, y + h))
            sheet.paste(picture.crop(box), (left, top))
            top += height + GAP
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the README's comparison picture.")
    parser.add_argument("-w", "--weights", required=True, help="HASN.pth, the authors' x4 checkpoint")
    parser.add_argument("-o", "--output", type=Path, default=HERE.parent / "docs" / "images" / "comparison.png")
    args = parser.parse_args()

    small, truth = Image.open(HERE / "picture.png"), render(SCALE)
    bicubic = enlarge(lightsr.create("bicubic", scale=SCALE).eval(), small)
    hasn = enlarge(lightsr.load(args.weights, network="hasn", scale=SCALE), small)

    def figure(picture: Image.Image) -> str:
        return f"{psnr(tensor(picture), tensor(truth), SCALE):.2f} dB"

    shown = [
        ("Input, 240 x 160", "each pixel as a square", small.resize(truth.size, Image.Resampling.NEAREST)),
        ("Bicubic x4", figure(bicubic), bicubic),
        ("HASN x4", figure(hasn), hasn),
        ("Drawn at 960 x 640", "the truth", truth),
    ]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    page(shown, CROPS).save(args.output, optimize=True)


if __name__ == "__main__":
    main()
