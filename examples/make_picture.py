"""Renders the example picture: text, lines of many angles, circles, gradients and textures, from numbers alone.

    python examples/make_picture.py                          # writes examples/picture.png, 240 x 160
    python examples/make_picture.py --scale 4 -o large.png   # the same scene with four times the detail

The scene is drawn with 8 samples a unit and averaged to 4 pixels a unit. The smaller sizes are bicubic reductions of
that, as in the benchmark sets, so `--scale 4` is the truth an upscaled picture can be compared with.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scenery import HEIGHT, WIDTH, backdrop, bricks, noise

UNIT = 8  # samples a unit; the picture is 240 x 160 units
MASTER = 4  # pixels a unit after averaging

Point = tuple[float, float]
Colour = tuple[int, int, int]

WHITE, INK, NAVY, RED, GOLD = (246, 244, 236), (24, 28, 40), (22, 44, 92), (190, 46, 42), (226, 178, 84)


class Pen:
    """Draws in units instead of samples."""

    def __init__(self, picture: Image.Image) -> None:
        self.draw = ImageDraw.Draw(picture)

    def polygon(self, points: list[Point], fill: Colour) -> None:
        self.draw.polygon([(x * UNIT, y * UNIT) for x, y in points], fill=fill)

    def line(self, points: list[Point], width: float, fill: Colour) -> None:
        self.draw.line([(x * UNIT, y * UNIT) for x, y in points], fill=fill, width=round(width * UNIT), joint="curve")

    def disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        self.draw.ellipse([(x - radius) * UNIT, (y - radius) * UNIT, (x + radius) * UNIT, (y + radius) * UNIT], fill)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Colour, corner: float = 0) -> None:
        self.draw.rounded_rectangle([x0 * UNIT, y0 * UNIT, x1 * UNIT, y1 * UNIT], corner * UNIT, fill=fill)

    def text(self, x: float, y: float, words: str, size: float, fill: Colour, bold: float = 0) -> None:
        font = ImageFont.load_default(size * UNIT)
        self.draw.text((x * UNIT, y * UNIT), words, fill, font, anchor="mm", stroke_width=bold * UNIT)


def lighthouse(pen: Pen) -> None:
    """A striped tower with a lantern, a railing and rays of many angles."""
    for k in range(9):
        angle = math.radians(-38 + 9.5 * k)
        reach = 28 + 7 * (k % 2)
        pen.line([(43, 32), (43 + reach * math.cos(angle), 32 + reach * math.sin(angle))], 0.55, (250, 226, 170))
        pen.line([(43, 32), (43 - 38 * math.cos(angle), 32 + 38 * math.sin(angle))], 0.4, (196, 186, 200))
    for stripe in range(6):
        top, bottom = 42 + 12 * stripe, 54 + 12 * stripe
        left, right = (lambda y: 37.5 - 0.09 * (y - 42)), (lambda y: 48.5 + 0.09 * (y - 42))
        colour, shade = (WHITE, (196, 192, 196)) if stripe % 2 else (RED, (142, 30, 38))
        pen.polygon([(left(top), top), (right(top), top), (right(bottom), bottom), (left(bottom), bottom)], colour)
        edge = [(right(y) - 0.3 * (right(y) - left(y)), y) for y in (bottom, top)]
        pen.polygon([(right(top), top), (right(bottom), bottom), *edge], shade)
    for y in (62, 86):
        pen.box(41.5, y, 44.5, y + 6, INK, 1.4)
    pen.box(35, 39.6, 51, 42, INK)
    for k in range(9):
        pen.line([(35.5 + 1.9 * k, 35.4), (35.5 + 1.9 * k, 40)], 0.45, INK)
    pen.line([(35, 35.4), (51, 35.4)], 0.6, INK)
    pen.box(38.5, 27.5, 47.5, 39.6, (255, 236, 170))
    for x in (38.8, 41.6, 44.4, 47.2):
        pen.line([(x, 27.5), (x, 39.6)], 0.5, INK)
    pen.polygon([(36.5, 27.7), (49.5, 27.7), (45, 21.5), (41, 21.5)], RED)
    pen.line([(43, 22), (43, 15)], 0.6, INK)
    pen.disc(43, 20.8, 1.3, GOLD)


def balloon(pen: Pen, x: float = 105, y: float = 31, radius: float = 20) -> None:
    """Gores that get narrower towards the rim, so every stripe frequency occurs."""
    colours = (RED, WHITE, NAVY, GOLD)
    count = 18

    def rim(longitude: float, latitude: float) -> Point:
        bulge = math.cos(latitude) if latitude < 0 else math.cos(latitude) ** 0.8
        return x + radius * math.sin(longitude) * bulge, y + radius * 1.12 * math.sin(latitude)

    latitudes = np.radians(np.linspace(-89, 76, 40))
    for k in range(count):
        west, east = (math.pi * (j / count - 0.5) for j in (k, k + 1))
        light = 0.62 + 0.38 * math.cos((west + east) / 2 + 0.45)
        fill = tuple(round(value * light) for value in colours[k % 4])
        pen.polygon([rim(west, a) for a in latitudes] + [rim(east, a) for a in latitudes[::-1]], fill)
    low = y + radius * 1.09
    for dx in (-3.4, -1.1, 1.1, 3.4):
        pen.line([(x + dx * 1.35, low), (x + dx, low + 7)], 0.35, INK)
    pen.box(x - 3.6, low + 6.6, x + 3.6, low + 11, (142, 92, 50), 0.6)
    for k in range(6):
        pen.line([(x - 3 + 1.2 * k, low + 7.2), (x - 3 + 1.2 * k, low + 10.6)], 0.3, (92, 56, 30))


def clock(pen: Pen, x: float = 204, y: float = 50) -> None:
    """Circles, sixty ticks, numerals and two hands."""
    pen.polygon([(x - 2.2, y + 20), (x + 2.2, y + 20), (x + 3.4, 132), (x - 3.4, 132)], (34, 52, 52))
    pen.line([(x - 0.6, y + 20), (x - 0.9, 132)], 0.7, (92, 122, 116))
    for ring, colour in ((25, INK), (23.8, GOLD), (22.6, INK), (21.8, WHITE)):
        pen.disc(x, y, ring, colour)

    def at(turn: float, distance: float) -> Point:
        return x + distance * math.sin(math.tau * turn), y - distance * math.cos(math.tau * turn)

    for minute in range(60):
        hour = minute % 5 == 0
        pen.line([at(minute / 60, 18.6 if hour else 19.6), at(minute / 60, 20.8)], 0.8 if hour else 0.4, INK)
    for hour in range(1, 13):
        pen.text(*at(hour / 12, 15.2), str(hour), 5.4, INK, 0.1)
    pen.line([at(0.767, -3), at(0.767, 9.5)], 1.5, INK)
    pen.line([at(0.205, -4), at(0.205, 16.5)], 0.9, INK)
    pen.line([at(0.458, -4), at(0.458, 18)], 0.35, RED)
    pen.disc(x, y, 1.4, GOLD)


def boat(pen: Pen, x: float = 118, y: float = 106) -> None:
    """Two sails with seams, and rigging at many angles."""
    pen.line([(x, y), (x, y - 31)], 0.7, (70, 44, 30))
    pen.polygon([(x + 0.9, y - 29), (x + 0.9, y - 4), (x + 15, y - 4)], (244, 236, 218))
    pen.polygon([(x - 0.9, y - 26), (x - 0.9, y - 4), (x - 10.5, y - 4)], (222, 212, 200))
    for k in range(1, 6):
        height = 4 + 4.1 * k
        pen.line([(x + 0.9, y - height), (x + 15 - 14.1 * (height - 4) / 25, y - height)], 0.25, (176, 160, 146))
    for dx in (-17, -14, -12, 16, 18.5):
        pen.line([(x, y - 30.5), (x + dx, y - 1.5)], 0.28, INK)
    pen.polygon([(x - 18, y - 3), (x + 19, y - 3), (x + 14, y + 3.6), (x - 13, y + 3.6)], NAVY)
    pen.line([(x - 17.4, y - 1.7), (x + 18.2, y - 1.7)], 0.6, GOLD)
    for k in range(5):
        pen.disc(x - 9 + 5 * k, y + 0.9, 0.75, WHITE)


def sign(pen: Pen) -> None:
    """An enamel sign: one large word and one line of small print."""
    pen.box(69, 130.5, 171, 157.5, INK, 3.2)
    pen.box(69.8, 131.3, 170.2, 156.7, WHITE, 2.6)
    pen.box(71, 132.5, 169, 155.5, NAVY, 1.8)
    pen.text(120, 140.4, "HARBOUR LIGHT", 11, WHITE, 0.14)
    pen.text(120, 150.4, "ferries at 9:15, 12:40 and 18:05", 6, (236, 214, 150))
    for x in (73.6, 166.4):
        for y in (135, 153):
            pen.disc(x, y, 0.8, GOLD)


def grass(pen: Pen) -> None:
    """The rock under the lighthouse and blades of grass on it."""
    top = 9 * noise(np.linspace(0, 6, 75), seed=3)
    ridge = [(float(x), 104 + 28 * (x / 74) ** 5 - float(dy)) for x, dy in zip(np.arange(75), top, strict=True)]
    pen.polygon([*ridge, (74, 133), (0, 133)], (58, 60, 56))
    random = np.random.RandomState(7)  # its stream is frozen, unlike that of default_rng
    for _ in range(2400):
        x, y = ridge[random.randint(0, 74)]
        y += random.uniform(0, 1) ** 1.5 * (130 - y)
        lean, length = random.normal(0, 1.3), random.uniform(1.5, 5)
        green = random.randint(70, 170)
        pen.line([(x, y), (x + lean, y - length)], random.uniform(0.2, 0.5), (green * 5 // 8, green, green * 3 // 8))


def master() -> Image.Image:
    """The scene at 4 pixels a unit, 960 x 640."""
    picture = Image.fromarray(backdrop(UNIT))
    pen = Pen(picture)
    balloon(pen)
    lighthouse(pen)
    boat(pen)
    grass(pen)
    picture.paste(Image.fromarray(bricks(UNIT)), (0, 128 * UNIT))
    pen.line([(0, 128.4), (WIDTH, 128.4)], 1.6, (150, 138, 126))
    clock(pen)
    sign(pen)
    return picture.reduce(UNIT // MASTER)


def render(scale: int = 1) -> Image.Image:
    """The picture at `scale` (1, 2 or 4) pixels a unit: 240 x 160 times scale."""
    picture = master()
    return picture if scale == MASTER else picture.resize((WIDTH * scale, HEIGHT * scale), Image.Resampling.BICUBIC)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Renders the example picture.")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_name("picture.png"))
    parser.add_argument("--scale", type=int, choices=(1, 2, 4), default=1)
    args = parser.parse_args()
    render(args.scale).save(args.output, optimize=True)
