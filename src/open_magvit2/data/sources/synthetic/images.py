"""Images drawn by code, seeded, without end: the built-in dataset of the demo, the tests and the debug configs."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image

from open_magvit2.common.arguments import integer
from open_magvit2.data.dataset import ImageDataset, RawImage
from open_magvit2.data.order import random_stream
from open_magvit2.data.sources.synthetic.drawing import Palette, linear, paint
from open_magvit2.data.sources.synthetic.scenes import SCENES

SPLITS = ("train", "validation")
_DRAWING = {scene.__name__: scene for scene in SCENES}


class SyntheticImages(ImageDataset):
    """Shapes, landscapes, lettering, patterns, ...: every image a pure function of (seed, split, index).

    The splits draw from different random streams, so validation shows scenes that training never saw, made of the
    same elements. The label is the kind of scene, its position in `scenes`.

    Args:
        num_images: length of the dataset.
        size: side of the square images in pixels, at least 16.
        seed: another seed, other images.
        split: "train" or "validation".
        scenes: names of the kinds of scene to draw, functions of `scenes.SCENES`; None for all of them, in that order.

    Raises:
        ValueError: for numbers out of range, another split, or scenes that do not exist or appear twice.
    """

    def __init__(
        self,
        num_images: int,
        size: int,
        seed: int = 0,
        split: Literal["train", "validation"] = "train",
        scenes: Sequence[str] | None = None,
    ) -> None:
        integer(1, num_images=num_images)
        integer(16, size=size)
        integer(0, seed=seed)
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
        self.num_images = num_images
        self.size = size
        self.seed = seed
        self.split = split
        self.scenes = list(_DRAWING if scenes is None else scenes)
        if not self.scenes or len(set(self.scenes)) < len(self.scenes) or not set(self.scenes) <= set(_DRAWING):
            raise ValueError(f"scenes must be different names among {', '.join(_DRAWING)}, got {self.scenes}")

    def __len__(self) -> int:
        return self.num_images

    def read(self, index: int) -> RawImage:
        """Draw image `index`: RGB, size x size."""
        generator = random_stream("synthetic", self.seed, SPLITS.index(self.split), index)
        label = int(generator.integers(len(self.scenes)))
        # Drawn larger and reduced, which smooths all edges; more so at small sizes, where it shows.
        factor = 4 if self.size <= 32 else 3 if self.size <= 64 else 2
        draw = _DRAWING[self.scenes[label]]
        canvas = draw(factor * self.size, generator, Palette(generator))
        image = _light(canvas.reduce(factor), generator)
        return RawImage(image, label, f"synthetic://{self.split}/{self.seed}/{index}")


def _light(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Let light fall in from one side: darker by up to a seventh towards the other."""
    shade = linear(image.width, generator.uniform(0, 2 * np.pi))
    colours = np.array([[8, 6, 30], [255, 250, 235]])
    mask = Image.fromarray(np.rint(18 + 18 * np.abs(2 * shade - 1)).astype(np.uint8))
    return Image.composite(paint(shade, colours), image, mask)
