"""The font of captions: DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic, Hebrew, Arabic and more.

It has neither Chinese, Japanese and Korean nor Indian letters, which are drawn as boxes.
"""

from pathlib import Path

from PIL import ImageFont


def sans(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans of a size in pixels. (Pillow's own font has ASCII letters alone.)"""
    from matplotlib import get_data_path  # here: it takes a while, and few programs draw letters

    return ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)
