"""Sky, mountains, sea and brickwork of the example picture, as arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 240, 160  # units
HORIZON, QUAY = 92, 128  # rows where sea and brickwork begin
SUN = (158.0, 68.0, 9.0)  # column, row, radius

Array = NDArray[np.float64]


def noise(x: Array, y: Array | float = 0.0, seed: int = 0, octaves: int = 5) -> Array:
    """Smooth noise in 0..1: values at whole coordinates come from a table, and octaves of it are added up."""
    table = np.random.RandomState(seed).uniform(size=(64, 64))
    total, weight = np.zeros(np.broadcast(x, y).shape), 0.0
    for octave in range(octaves):
        u, v = np.broadcast_arrays(x * 2.0**octave, y * 2.0**octave)
        i, j = np.floor(u).astype(int), np.floor(v).astype(int)
        s, t = ((3 - 2 * d) * d * d for d in (u - i, v - j))
        near = table[j % 64, i % 64] * (1 - s) + table[j % 64, (i + 1) % 64] * s
        far = table[(j + 1) % 64, i % 64] * (1 - s) + table[(j + 1) % 64, (i + 1) % 64] * s
        total += (near * (1 - t) + far * t) * 0.5**octave
        weight += 0.5**octave
    return total / weight


def blend(rows: Array, stops: list[tuple[float, tuple[int, int, int]]]) -> Array:
    """Colours [..., 3] between stops (position, colour)."""
    positions = [position for position, _ in stops]
    return np.stack([np.interp(rows, positions, [colour[k] for _, colour in stops]) for k in range(3)], axis=-1)


def backdrop(unit: int) -> NDArray[np.uint8]:
    """Sky, sun, clouds, mountains and sea: [160*unit, 240*unit, 3]."""
    y, x = (np.mgrid[0 : HEIGHT * unit, 0 : WIDTH * unit] + 0.5) / unit
    sky = blend(y, [(0, (46, 74, 132)), (45, (134, 138, 176)), (75, (236, 178, 150)), (HORIZON, (255, 214, 150))])
    cloud = np.clip(noise(x / 46, y / 13, seed=1) * 3.2 - 1.7, 0, 1) * np.clip(1.1 - y / 90, 0, 1)
    sky += cloud[..., None] * (np.array([255, 226, 208]) - sky) * 0.75

    distance = np.hypot(x - SUN[0], y - SUN[1])
    glow = np.exp(-distance / 26)[..., None]
    sky += glow * (np.array([255, 226, 160]) - sky) * 0.8
    sky[distance < SUN[2]] = (255, 244, 206)

    for seed, base, height, colour in ((11, 78, 26, (146, 128, 156)), (12, 86, 22, (84, 86, 122))):
        ridge = base + 8 - height * noise(x[:1] / 44, seed=seed, octaves=7)
        slope = noise(x / 7 + y / 9, y / 5, seed=seed + 1)[..., None]
        shaded = np.array(colour) * (0.78 + 0.44 * slope)
        sky = np.where((y > ridge)[..., None], shaded, sky)
    return np.clip(np.where((y > HORIZON)[..., None], _sea(x, y), sky) + 0.5, 0, 255).astype(np.uint8)


def _sea(x: Array, y: Array) -> Array:
    """Waves that get finer towards the horizon, and the sun's glitter on them."""
    depth = np.maximum(y - HORIZON, 0.1) + 3.5
    drift = noise(x / depth * 1.6, 60 / depth, seed=21)
    wave = np.sin(620 / depth + 9 * drift)
    colour = blend(depth, [(3.5, (168, 148, 152)), (14, (74, 104, 138)), (40, (28, 58, 92))])
    colour = colour * (1 + 0.17 * wave)[..., None]
    path = np.exp(-(((x - SUN[0]) / (5 + 0.55 * depth)) ** 2)) * np.clip(wave * 1.6 + 0.1, 0, 1)
    return colour + path[..., None] * (np.array([255, 224, 164]) - colour) * 0.9


def bricks(unit: int) -> NDArray[np.uint8]:
    """A brick wall from the quay's edge to the bottom: [(160 - 128)*unit, 240*unit, 3]."""
    y, x = (np.mgrid[0 : (HEIGHT - QUAY) * unit, 0 : WIDTH * unit] + 0.5) / unit
    row = np.floor(y / 4.6).astype(int)
    shifted = x / 11 + 0.5 * (row % 2)
    column = np.floor(shifted).astype(int)
    tone = np.random.RandomState(31).uniform(0.72, 1.12, size=(8, 24))[row % 8, column % 24]
    grain = noise(x * 1.3, y * 1.3, seed=32)
    wall = np.array([150, 84, 66]) * (tone * (0.72 + 0.56 * grain))[..., None]
    mortar = (y / 4.6 - row < 0.15) | (shifted - column < 0.062)
    wall[mortar] = (np.array([176, 164, 150]) * (0.75 + 0.4 * grain[..., None]))[mortar]
    return np.clip(wall + 0.5, 0, 255).astype(np.uint8)
