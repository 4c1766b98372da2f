"""The pictures the synthetic dataset is made of: each function fills a canvas with one kind of scene."""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from open_magvit2.data.sources.synthetic.drawing import (
    SHAPES,
    Palette,
    darker,
    fade,
    font,
    lighter,
    linear,
    mix,
    paint,
    pattern,
    plasma,
    radial,
    shape_mask,
)

Scene = Callable[[int, np.random.Generator, Palette], Image.Image]
LETTERS = "ABCDEFGHKLMNPRSTUVXYZ&?!2345789abdeghkmnpqrsty"
WORDS = ("LFQ", "sign", "code", "0110", "bits", "Hello", "pixel", "token", "2^18", "Open", "video", "atlas", "MAGVIT")


def _fill(side: int, generator: np.random.Generator, colours: np.ndarray) -> Image.Image:
    """A square of paint between two colours: a gradient, a ball's shading, one colour or a pattern."""
    first, second = colours
    choice = generator.random()
    if choice < 0.4:
        return paint(linear(side, generator.uniform(0, 2 * math.pi)), np.stack([first, mix(first, second, 0.6)]))
    if choice < 0.65:
        shades = np.stack([lighter(first, 0.45), first, darker(first, 0.35)])
        return paint(radial(side, -0.35, -0.4, 1.7), shades)
    if choice < 0.8:
        return Image.new("RGB", (side, side), tuple(first.tolist()))
    return paint(pattern(side, generator, generator.uniform(2, 4)), np.stack([first, mix(first, second, 0.75)]))


def _paste(canvas: Image.Image, patch: Image.Image, mask: Image.Image, x: float, y: float, shadow: float = 0.3) -> None:
    """Paste a patch around (x, y) through a mask, above a faint shadow thrown to the lower right."""
    left, top = round(x - patch.width / 2), round(y - patch.height / 2)
    if shadow:
        away = max(canvas.width // 48, 1)
        faint = fade(mask, shadow)
        canvas.paste((12, 10, 35), (left + away, top + away), faint)
    canvas.paste(patch, (left, top), mask)


def _put_shape(
    canvas: Image.Image, generator: np.random.Generator, palette: Palette, x: float, y: float, radius: float
) -> None:
    """One random shape of a palette's colours; `radius` in pixels."""
    diameter = max(round(2 * radius), 4)
    mask = shape_mask(SHAPES[generator.integers(len(SHAPES))], diameter, generator)
    _paste(canvas, _fill(diameter, generator, palette.pick(generator, 2)), mask, x, y)


def _backdrop(side: int, generator: np.random.Generator, palette: Palette) -> Image.Image:
    """A quiet background: linear, radial or cloudy."""
    choice = generator.random()
    if choice < 0.45:
        field = linear(side, generator.uniform(0, 2 * math.pi))
    elif choice < 0.75:
        field = radial(side, *generator.uniform(-0.8, 0.8, 2), 2.2)
    else:
        field = plasma(side, generator, int(generator.integers(3, 6)))
    return paint(field, palette.background)


def shapes(side: int, generator: np.random.Generator, palette: Palette) -> Image.Image:
    """Overlapping shapes, large ones behind small ones."""
    canvas = _backdrop(side, generator, palette)
    for radius in np.sort(generator.uniform(0.09, 0.34, generator.integers(4, 9)))[::-1]:
        x, y = generator.uniform(0.08, 0.92, 2) * side
        _put_shape(canvas, generator, palette, x, y, radius * side)
    return canvas


def landscape(side: int, generator: np.random.Generator, palette: Palette) -> Image.Image:
    """Sky, sun or moon, and ranges of hills that fade into the distance, sometimes with trees."""
    sky, glow = palette.background
    canvas = paint(linear(side, math.pi / 2), np.stack([sky, mix(sky, glow, 0.5), lighter(glow, 0.3)]))
    radius = generator.uniform(0.08, 0.17) * side
    x, y = generator.uniform(0.15, 0.85) * side, generator.uniform(0.15, 0.45) * side
    light = lighter(palette.colours[0], 0.55)
    for size, share in ((2.0, 0.2), (1.45, 0.35), (1.0, 1.0)):
        halo = fade(shape_mask("disc", round(2 * size * radius), generator), share)
        _paste(canvas, Image.new("RGB", halo.size, tuple(light.tolist())), halo, x, y, shadow=0)
    draw = ImageDraw.Draw(canvas)
    num_ranges = int(generator.integers(3, 5))
    columns = np.linspace(0, 1, 33)
    for nearness in np.linspace(0.25, 1, num_ranges):
        colour = mix(glow, darker(palette.colours[1 + int(nearness * 3)], 0.35 * nearness), 0.25 + 0.75 * nearness)
        phases, roughness = generator.uniform(0, 2 * math.pi, 3), generator.uniform(0.5, 1.2)
        ridge = 0.42 + 0.4 * nearness
        for octave, phase in enumerate(phases):
            ridge = ridge + roughness * 0.09 / (octave + 1) ** 1.3 * np.sin(2.3 ** (octave + 1.3) * columns + phase)
        line = np.stack([columns, ridge], axis=1) * side
        draw.polygon([(0, side), *map(tuple, line.tolist()), (side, side)], fill=tuple(colour.tolist()))
        if nearness > 0.5 and generator.random() < 0.5:
            for foot in generator.choice(33, generator.integers(3, 9)):
                x, y = line[foot]
                tall = generator.uniform(0.08, 0.2) * side * nearness
                tree = tuple(darker(colour, 0.35).tolist())
                draw.polygon([(x - tall * 0.3, y + 2), (x, y - tall), (x + tall * 0.3, y + 2)], fill=tree)
    return canvas


def still_life(side: int, generator: np.random.Generator, palette: Palette) -> Image.Image:
    """Shaded balls on a table, with soft shadows."""
    canvas = paint(linear(side, math.pi / 2), palette.background)
    horizon = round(generator.uniform(0.45, 0.65) * side)
    table = np.stack([mix(palette.background[1], palette.colours[4], 0.55), darker(palette.colours[4], 0.3)])
    canvas.paste(paint(linear(side, math.pi / 2), table), (0, horizon))
    for depth in np.sort(generator.uniform(0, 1, generator.integers(2, 6))):
        radius = (0.1 + 0.12 * depth) * generator.uniform(0.8, 1.25) * side
        x, y = generator.uniform(0.1, 0.9) * side, horizon + (side - horizon) * (0.1 + 0.7 * depth) - radius * 0.9
        diameter = round(2 * radius)
        colour = palette.colours[generator.integers(4)]
        shadow = shape_mask("disc", diameter, generator).resize((round(diameter * 1.3), round(diameter * 0.42)))
        for share, scale in ((0.2, 1.0), (0.25, 0.75)):
            layer = shadow.resize((round(shadow.width * scale), round(shadow.height * scale)))
            dark = Image.new("RGB", layer.size, (12, 10, 35))
            _paste(canvas, dark, fade(layer, share), x + radius * 0.35, y + radius * 0.92, shadow=0)
        shades = np.stack(
            [lighter(colour, 0.85), lighter(colour, 0.25), colour, darker(colour, 0.3), darker(colour, 0.6)]
        )
        mask = shape_mask("disc", diameter, generator)
        _paste(canvas, paint(radial(diameter, -0.38, -0.42, 1.65), shades), mask, x, y, shadow=0)
    return canvas


def poster(side: int, generator: np.random.Generator, palette: Palette) -> Image.Image:
    """A letter or a word, lines of small print, and a shape or two, as on a book cover."""
    canvas = _backdrop(side, generator, palette)
    for _ in range(generator.integers(1, 3)):
        x, y = generator.uniform(0.1, 0.9, 2) * side
        _put_shape(canvas, generator, palette, x, y, generator.uniform(0.15, 0.32) * side)
    draw = ImageDraw.Draw(canvas)
    ink = tuple(palette.ink.tolist())
    if generator.random() < 0.5:
        text, height = LETTERS[generator.integers(len(LETTERS))], generator.uniform(0.5, 0.75)
    else:
        text = WORDS[generator.integers(len(WORDS))]
        height = min(1.3 / len(text), 0.45) * generator.uniform(0.75, 1.0)
    x, y = generator.uniform(0.4, 0.6) * side, generator.uniform(0.3, 0.42) * side
    draw.text((x, y), text, font=font(max(round(height * side), 8)), fill=ink, anchor="mm")
    left, line_height = generator.uniform(0.08, 0.3) * side, 0.09 * side
    for line in range(generator.integers(2, 4)):
        top = 0.66 * side + 1.15 * line * line_height
        letters = "".join(LETTERS[letter] for letter in generator.integers(len(LETTERS), size=generator.integers(4, 9)))
        draw.text((left, top), letters, font=font(max(round(line_height * 1.1), 6)), fill=ink)
    return canvas


def mosaic(side: int, generator: np.random.Generator, palette: Palette) -> Image.Image:
    """A grid of tiles with quarter discs, triangles, discs and leaves."""
    count = int(generator.integers(2, 6))
    canvas = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(canvas)
    edges = [round(edge) for edge in np.linspace(0, side, count + 1)]
    colours = np.concatenate([palette.colours, palette.background[1:], palette.ink[None]])
    for row in range(count):
        for column in range(count):
            left, top, right, bottom = edges[column], edges[row], edges[column + 1], edges[row + 1]
            back, front, small = (tuple(colour) for colour in colours[generator.permutation(7)[:3]].tolist())
            draw.rectangle((left, top, right, bottom), fill=back)
            kind, corner, size = generator.integers(5), int(generator.integers(4)), right - left
            corners = ((left, top), (right, top), (right, bottom), (left, bottom))
            x, y = corners[corner]
            if kind == 0:
                for reach, colour in ((size, front), (size // 2, small)):
                    box = (x - reach, y - reach, x + reach, y + reach)
                    draw.pieslice(box, 90 * corner, 90 * corner + 90, fill=colour)
            elif kind == 1:
                draw.polygon([corners[corner - 1], corners[corner], corners[(corner + 1) % 4]], fill=front)
            elif kind == 2:
                inset = size * 0.12
                draw.ellipse((left + inset, top + inset, right - inset, bottom - inset), fill=front)
                inset = size * 0.32
                draw.ellipse((left + inset, top + inset, right - inset, bottom - inset), fill=small)
            elif kind == 3:
                middle = (left + right) / 2
                half = (left, top, middle, bottom) if corner % 2 else (left, top, right, (top + bottom) / 2)
                draw.rectangle(half, fill=front)
            else:
                draw.pieslice((left, top, right, bottom), 90 * corner, 90 * corner + 180, fill=front)
    return canvas


def skyline(side: int, generator: np.random.Generator, palette: Palette) -> Image.Image:
    """Houses in two rows below a sky, with lit windows."""
    sky, glow = palette.background
    canvas = paint(linear(side, math.pi / 2), np.stack([darker(sky, 0.2), sky, mix(glow, palette.colours[0], 0.4)]))
    moon = round(generator.uniform(0.12, 0.26) * side)
    disc = paint(radial(moon, -0.3, -0.3, 1.8), np.stack([lighter(glow, 0.9), lighter(glow, 0.5)]))
    x, y = generator.uniform(0.15, 0.85) * side, generator.uniform(0.12, 0.3) * side
    _paste(canvas, disc, shape_mask("disc", moon, generator), x, y, shadow=0)
    draw = ImageDraw.Draw(canvas)
    for row, (low, high) in enumerate(((0.3, 0.6), (0.5, 0.8))):
        left = -generator.uniform(0, 0.1) * side
        while left < side:
            width, top = generator.uniform(0.14, 0.28) * side, generator.uniform(low, high) * side
            wall = mix(darker(palette.colours[generator.integers(5)], 0.25 + 0.2 * row), sky, 0.45 - 0.4 * row)
            draw.rectangle((left, top, left + width, side), fill=tuple(wall.tolist()))
            if generator.random() < 0.35:
                roof = [(left, top), (left + width / 2, top - width * 0.45), (left + width, top)]
                draw.polygon(roof, fill=tuple(darker(wall, 0.25).tolist()))
            pane, light = side * 0.036, tuple(lighter(palette.colours[3], 0.6).tolist())
            dark = tuple(darker(wall, 0.4).tolist())
            for y in np.arange(top + pane, side, pane * 2.2):
                for x in np.arange(left + pane, left + width - 1.5 * pane, pane * 2.1):
                    draw.rectangle((x, y, x + pane, y + pane * 1.2), fill=light if generator.random() < 0.55 else dark)
            left += width
    return canvas


def textile(side: int, generator: np.random.Generator, palette: Palette) -> Image.Image:
    """A pattern over the whole image, with a shape or two on it."""
    first, second = palette.pick(generator, 2)
    canvas = paint(pattern(side, generator, generator.uniform(1.5, 4.5)), np.stack([first, mix(first, second, 0.8)]))
    if generator.random() < 0.4:
        inset = paint(pattern(side, generator, generator.uniform(1.5, 4.0)), palette.background)
        canvas.paste(inset, (0, 0), shape_mask("blob", side, generator))
    for _ in range(generator.integers(0, 3)):
        x, y = generator.uniform(0.2, 0.8, 2) * side
        _put_shape(canvas, generator, palette, x, y, generator.uniform(0.16, 0.34) * side)
    return canvas


def marble(side: int, generator: np.random.Generator, palette: Palette) -> Image.Image:
    """Bands of colour that flow around each other."""
    field = 0.75 * plasma(side, generator, int(generator.integers(3, 5))) + 0.25 * plasma(side, generator, 7)
    canvas = paint(field, np.concatenate([palette.background, palette.colours])[generator.permutation(7)])
    if generator.random() < 0.4:
        _put_shape(canvas, generator, palette, *(generator.uniform(0.3, 0.7, 2) * side), 0.25 * side)
    return canvas


def garden(side: int, generator: np.random.Generator, palette: Palette) -> Image.Image:
    """Flowers on stems."""
    canvas = _backdrop(side, generator, palette)
    draw = ImageDraw.Draw(canvas)
    green = mix(np.array([40, 120, 70]), palette.background[0], generator.uniform(0.1, 0.4))
    for radius in np.sort(generator.uniform(0.1, 0.22, generator.integers(3, 7))) * side:
        x, y = generator.uniform(0.1, 0.9) * side, generator.uniform(0.15, 0.7) * side
        foot = x + generator.uniform(-0.15, 0.15) * side
        draw.line(
            [(x, y), ((x + foot) / 2 + 0.02 * side, (y + side) / 2), (foot, side)], tuple(green.tolist()), side // 32
        )
        petals, heart = palette.pick(generator, 2)
        for size, colour, kind, shadow in ((1.0, petals, "flower", 0.2), (0.36, lighter(heart, 0.25), "disc", 0)):
            diameter = round(2 * size * radius)
            shades = np.stack([lighter(colour, 0.35), colour, darker(colour, 0.2)])
            mask = shape_mask(kind, diameter, generator)
            _paste(canvas, paint(radial(diameter, 0, 0, 1.2), shades), mask, x, y, shadow)
    return canvas


def portrait(side: int, generator: np.random.Generator, palette: Palette) -> Image.Image:
    """A cartoon face."""
    canvas = _backdrop(side, generator, palette)
    head = round(generator.uniform(0.6, 0.82) * side)
    x, y = side * generator.uniform(0.44, 0.56), side * generator.uniform(0.48, 0.58)
    skin, hair, iris = palette.pick(generator, 3)
    for ear in (-1, 1):
        mask = shape_mask(SHAPES[generator.integers(3)], round(head * 0.36), generator)
        _paste(canvas, Image.new("RGB", mask.size, tuple(hair.tolist())), mask, x + ear * head * 0.36, y - head * 0.36)
    shades = np.stack([lighter(skin, 0.35), skin, darker(skin, 0.25)])
    mask = shape_mask(("disc", "blob")[generator.integers(2)], head, generator)
    _paste(canvas, paint(radial(head, -0.3, -0.35, 1.7), shades), mask, x, y)
    draw = ImageDraw.Draw(canvas)
    eye, apart = head * generator.uniform(0.09, 0.14), head * generator.uniform(0.17, 0.24)
    glance, level = generator.uniform(-0.4, 0.4, 2) * eye, y - head * generator.uniform(0.02, 0.12)
    for centre in (x - apart, x + apart):
        draw.ellipse((centre - eye, level - eye, centre + eye, level + eye), fill=(250, 250, 250))
        for size, colour in ((0.62, darker(iris, 0.2)), (0.34, np.array([20, 18, 30]))):
            inner, dx, dy = eye * size, *glance
            box = (centre + dx - inner, level + dy - inner, centre + dx + inner, level + dy + inner)
            draw.ellipse(box, fill=tuple(colour.tolist()))
    wide, low, pen = head * generator.uniform(0.14, 0.26), y + head * 0.16, max(side // 40, 2)
    dark = tuple(darker(skin, 0.75).tolist())
    mouth = (x - wide, low - wide * 0.5, x + wide, low + wide * 0.6)
    if generator.random() < 0.5:
        draw.chord(mouth, 10, 170, fill=dark)
    else:
        draw.arc(mouth, 15, 165, fill=dark, width=pen)
    return canvas


SCENES: tuple[Scene, ...] = (
    shapes, landscape, still_life, poster, mosaic, skyline, textile, marble, garden, portrait,
)  # fmt: skip
