"""The font of captions: DejaVu Sans, which comes with matplotlib and has the letters of most alphabets."""

from pathlib import Path

from PIL import ImageFont


def sans(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans of a size in pixels. (Pillow's own font has ASCII letters alone and draws boxes for others.)"""
    from matplotlib import get_data_path  # here: it takes a while, and few programs draw letters

    return ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)
