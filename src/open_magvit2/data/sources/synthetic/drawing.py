"""Colours, scalar fields, outlines: the drawing kit of the synthetic images, quick enough to draw while training."""

import functools
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Field = np.ndarray  # float32 [side, side] in [0, 1]; `paint` gives it colours
SHAPES = ("disc", "ellipse", "polygon", "star", "blob", "flower", "ring", "crescent", "bar", "cross")


def oklch_to_rgb(lightness: np.ndarray, chroma: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """OKLCH colours -> sRGB uint8 [N, 3]; equal steps in it look equally far apart.

    Args:
        lightness: [N] in [0, 1].
        chroma: [N], 0 is grey, 0.2 is vivid.
        hue: [N] in radians.

    Source: B. Ottosson, "A perceptual color space for image processing" (2020).
    """
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    cones = np.stack(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ],
        axis=-1,
    )
    to_linear_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(cones**3 @ to_linear_rgb.T, 0.0, 1.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(encoded * 255).astype(np.uint8)


# lightness and chroma of the background, then of the colours in front of it
MOODS = {
    "vivid": ((0.60, 0.92), (0.05, 0.15), (0.45, 0.85), (0.13, 0.22)),
    "pastel": ((0.88, 0.96), (0.02, 0.06), (0.60, 0.90), (0.07, 0.13)),
    "deep": ((0.22, 0.42), (0.04, 0.11), (0.45, 0.85), (0.09, 0.19)),
    "night": ((0.12, 0.24), (0.02, 0.08), (0.62, 0.90), (0.14, 0.24)),
    "paper": ((0.90, 0.97), (0.00, 0.03), (0.35, 0.70), (0.10, 0.20)),
    "muted": ((0.55, 0.85), (0.02, 0.06), (0.30, 0.92), (0.05, 0.11)),
}
# offsets from a base hue, in turns: the harmonies of the colour wheel
HARMONIES = ((0.0, 0.06, 0.12, -0.08), (0.0, 0.5, 0.05, 0.45), (0.0, 0.33, 0.67, 0.05), (0.0, 0.42, 0.58, -0.05))


class Palette:
    """Colours that go together: two for the background, five in front, and an ink that stands out from all.

    Attributes:
        background: uint8 [2, 3].
        colours: uint8 [5, 3].
        ink: uint8 [3], dark on a light background and light on a dark one.
    """

    def __init__(self, generator: np.random.Generator) -> None:
        mood = list(MOODS.values())[generator.integers(len(MOODS))]
        base = generator.uniform(0, 1)
        offsets = np.array(HARMONIES[generator.integers(len(HARMONIES))])
        behind = np.sort(generator.uniform(*mood[0], 2))
        # One from each fifth of the range: whichever two meet, they differ in lightness too.
        front = mood[2][0] + (generator.permutation(5) + generator.uniform(0, 1, 5)) / 5 * (mood[2][1] - mood[2][0])
        turns = base + np.concatenate([offsets[:2] * 0.4, generator.choice(offsets, 5), offsets[1:2]])
        turns = turns + generator.normal(0, 0.015, 8)
        dark = behind.mean() < 0.55
        lightness = np.concatenate([behind, front, [0.95 if dark else 0.25]])
        chroma = np.concatenate([generator.uniform(*mood[1], 2), generator.uniform(*mood[3], 5), [0.05]])
        rgb = oklch_to_rgb(lightness, chroma, 2 * math.pi * turns)
        self.background, self.colours, self.ink = rgb[:2], rgb[2:7], rgb[7]

    def pick(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """`count` different colours of the five in front, uint8 [count, 3]."""
        return self.colours[generator.permutation(5)[:count]]


def mix(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """`first` with a `share` in [0, 1] of `second`; uint8 colours."""
    return (first * (1.0 - share) + second * share + 0.5).astype(np.uint8)


def darker(colour: np.ndarray, share: float) -> np.ndarray:
    """A shade of a colour: mixed with a bluish black, as shadows are."""
    return mix(colour, np.array([12, 10, 35]), share)


def lighter(colour: np.ndarray, share: float) -> np.ndarray:
    """A tint of a colour: mixed with a warm white."""
    return mix(colour, np.array([255, 252, 240]), share)


def paint(field: Field, colours: np.ndarray) -> Image.Image:
    """Colour a field: 0 becomes the first of `colours` uint8 [N, 3], 1 the last, the rest is blended between them."""
    image = Image.fromarray((field * 255).astype(np.uint8))
    image.putpalette(np.rint(_blend(len(colours)) @ colours).astype(np.uint8).tobytes())
    return image.convert("RGB")


def fade(mask: Image.Image, share: float) -> Image.Image:
    """A mask (mode L) times a `share` in [0, 1]."""
    return Image.blend(Image.new("L", mask.size), mask, share)


@functools.lru_cache(maxsize=16)
def _blend(num_colours: int) -> np.ndarray:
    """Weights [256, num_colours] that blend neighbouring colours into a ramp of 256."""
    distance = np.linspace(0, num_colours - 1, 256)[:, None] - np.arange(num_colours)
    return np.clip(1 - np.abs(distance), 0, None)


@functools.lru_cache(maxsize=512)
def _axis(side: int) -> np.ndarray:
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    axis.flags.writeable = False
    return axis


def linear(side: int, angle: float) -> Field:
    """Rises from 0 to 1 along a direction."""
    cos, sin = math.cos(angle), math.sin(angle)
    reach = 2 * (abs(cos) + abs(sin))
    return _axis(side)[None, :] * (cos / reach) + (_axis(side)[:, None] * (sin / reach) + 0.5)


def radial(side: int, x: float, y: float, radius: float) -> Field:
    """Distance from the point (x, y), 1 at `radius` and beyond; the image spans [-1, 1]."""
    squares = (_axis(side)[None, :] - x) ** 2 + (_axis(side)[:, None] - y) ** 2
    return np.minimum(np.sqrt(squares, out=squares) * (1 / radius), 1.0)


def plasma(side: int, generator: np.random.Generator, cells: int) -> Field:
    """Soft noise: random values on a coarse lattice, smoothly enlarged; `cells` x `cells` of them."""
    coarse = Image.fromarray(generator.integers(0, 256, (cells, cells), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
    low, high = smooth.min(), smooth.max()
    return (smooth - low) / max(high - low, 1.0)


def pattern(side: int, generator: np.random.Generator, repeats: float) -> Field:
    """Stripes, waves, rings, a checkerboard or dots with `repeats` periods across, as a 0 / 1 field with soft edges."""
    angle = float(generator.choice([0.0, math.pi / 4, math.pi / 2, generator.uniform(0, math.pi)]))
    phase = math.pi * repeats
    along, across = linear(side, angle) * (2 * phase), linear(side, angle + math.pi / 2) * (2 * phase)
    kind = generator.integers(5)
    if kind == 0:
        wave = np.sin(along)
    elif kind == 1:
        wave = np.sin(along + np.float32(generator.uniform(0.6, 1.6)) * np.sin(across * 0.5))
    elif kind == 2:
        x, y = generator.uniform(-1, 1, 2)
        wave = np.sin(radial(side, x, y, 3.0) * (3 * phase))
    elif kind == 3:
        wave = np.sin(along) * np.sin(across)
    else:
        wave = np.cos(along) + np.cos(across) - 0.6
    return np.clip(wave * (side / (8 * repeats)) + 0.5, 0.0, 1.0)


def outline(kind: str, generator: np.random.Generator) -> np.ndarray:
    """Corners [N, 2] of a shape inside the unit disc, turned at random."""
    if kind == "bar":
        points = np.array([(-0.95, -0.2), (0.95, -0.2), (0.95, 0.2), (-0.95, 0.2)])
    elif kind == "cross":
        arm = generator.uniform(0.2, 0.4)
        corner = np.array([(arm, 0.9), (arm, arm), (0.9, arm)])
        quarter = np.array([[0, -1], [1, 0]])
        points = np.concatenate([corner @ np.linalg.matrix_power(quarter, turns) for turns in range(4)])
    else:
        if kind == "polygon":
            angles, radii = np.linspace(0, 2 * math.pi, generator.integers(3, 8), endpoint=False), 1.0
        elif kind == "star":
            tips = int(generator.integers(4, 9))
            angles = np.linspace(0, 2 * math.pi, 2 * tips, endpoint=False)
            radii = np.tile([1.0, generator.uniform(0.4, 0.65)], tips)
        else:
            angles = np.linspace(0, 2 * math.pi, 48, endpoint=False)
            radii = {
                "blob": 0.8 + 0.12 * np.sin(2 * angles + generator.uniform(0, 6)) + 0.08 * np.sin(3 * angles),
                "flower": 0.78 + 0.22 * np.cos(int(generator.integers(4, 8)) * angles),
            }.get(kind, 1.0)
        points = np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1)
        if kind == "ellipse":
            points[:, 1] *= generator.uniform(0.45, 0.75)
    turn = generator.uniform(0, 2 * math.pi)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return points @ rotation


def shape_mask(kind: str, side: int, generator: np.random.Generator) -> Image.Image:
    """A shape of `SHAPES` that fills a square of `side` pixels: mode L, 0 outside and 255 inside."""
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    middle, last = (side - 1) / 2, side - 1
    if kind in ("disc", "ring", "crescent"):
        draw.ellipse((0, 0, last, last), fill=255)
        if kind != "disc":
            hole = generator.uniform(0.45, 0.7) * middle if kind == "ring" else 0.8 * middle
            turn, away = generator.uniform(0, 2 * math.pi), 0.0 if kind == "ring" else 0.45 * middle
            x, y = middle + away * math.cos(turn), middle + away * math.sin(turn)
            draw.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
        return mask
    points = middle + outline(kind, generator) * middle
    draw.polygon(points.reshape(-1).tolist(), fill=255)
    if kind == "bar":
        for (x, y), half in ((points[[0, 3]].mean(0), 0.2 * middle), (points[[1, 2]].mean(0), 0.2 * middle)):
            draw.ellipse((x - half, y - half, x + half, y + half), fill=255)
    return mask


@functools.lru_cache(maxsize=64)
def font(height: int) -> ImageFont.ImageFont:
    """Pillow's own font at a height in pixels."""
    return ImageFont.load_default(height)
