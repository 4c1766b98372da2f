"""From files to batches: images a second on one core by pipeline, how far their pixels are apart, and collation."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from benchmarks.settings import Row, Settings
from benchmarks.timing import interleaved
from open_magvit2.common.images import psnr
from open_magvit2.data.dataset import ImageDataset, TransformedDataset
from open_magvit2.data.fast_decoding import FastDecoding
from open_magvit2.data.sources.cache_building import build, make_plan
from open_magvit2.data.sources.cached import CachedImages
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.sources.synthetic import SyntheticImages
from open_magvit2.data.transforms import ResizeRandomCrop, resize_to_cover

TITLE = "Data loading, CPU seconds of one core, warm file cache"
COLLATION = "Collation, a batch of 16"

_CPU = torch.device("cpu")
_SHORTER_SIDE = 375  # of most of ImageNet's photos
_RATES = (300, 1000)  # images a second that a GPU may want


class ReferenceTransform:
    """The recipe's resizing and random crop as the reference hands them over: floats, channels last."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image, generator: np.random.Generator) -> Tensor:
        """Image -> float32 [size, size, 3] in [-1, 1]."""
        image = resize_to_cover(image, self.size)
        left, top = (int(generator.integers(side - self.size + 1)) for side in image.size)
        pixels = np.asarray(image.crop((left, top, left + self.size, top + self.size)))
        return torch.from_numpy((pixels / 127.5 - 1.0).astype(np.float32))


def measure(settings: Settings) -> list[Row]:
    """Every pipeline on photos as they are and on photos of ImageNet's usual size, at 128 and 256; then collation."""
    count = 300 if settings.full else 100
    with tempfile.TemporaryDirectory() as folder:
        sets = {f"{_SHORTER_SIDE} pixels, drawn by code": drawn(Path(folder) / "drawn", count)}
        if settings.images is not None:
            photos = ImageFolder(settings.images)
            step = max(1, len(photos) // count)
            chosen = [photos.path(index) for index in range(0, len(photos), step)][:count]
            sets = {
                "photos as they are": _linked(chosen, Path(folder) / "photos"),
                f"photos enlarged to {_SHORTER_SIDE} pixels": _enlarged(chosen, Path(folder) / "enlarged"),
            }
        rows = []
        for name, images in sets.items():
            for size in (128, 256):
                cache = Path(folder) / f"{name} {size}"
                build(images, cache, make_plan(images, size, 1024, num_workers=0), num_workers=0)
                rows += pipelines(name, images, CachedImages(cache), size, settings.repeats)
    return rows + [collation(size, settings.repeats) for size in (128, 256)]


def pipelines(name: str, images: ImageFolder, cache: CachedImages, size: int, repeats: int) -> list[Row]:
    """One row a pipeline: from file to training's crops, uint8 [3, size, size]; the reference's are floats.

    Args:
        name: of the images, for the table.
        images: JPEG files.
        cache: of the same images at this size.
        size: of the crops.
        repeats: measurements behind each median.
    """
    sources: dict[str, ImageDataset] = {
        "reference": images,
        "exact": images,
        "fast": FastDecoding(images, size),
        "cached": cache,
    }
    transforms = {key: ResizeRandomCrop(size) for key in sources} | {"reference": ReferenceTransform(size)}
    datasets = {key: TransformedDataset(source, transforms[key]) for key, source in sources.items()}
    exact = [datasets["exact"][index]["image"] for index in range(len(images))]
    times = interleaved({key: _passing(dataset) for key, dataset in datasets.items()}, _CPU, repeats)
    rows = []
    for key, dataset in datasets.items():
        rate = len(images) / times[key].median
        rows.append(
            {
                "table": TITLE,
                "images": name,
                "size": size,
                "pipeline": key,
                "images/s a core": rate,
                "ratio to reference": times["reference"].median / times[key].median,
                "ratio to exact": times["exact"].median / times[key].median,
                **_distances(dataset if key != "reference" else None, exact),
                **{f"cores for {wanted:,} images/s": wanted / rate for wanted in _RATES},
            }
        )
    return rows


def collation(size: int, repeats: int, batch_size: int = 16) -> Row:
    """A batch of uint8 [3, size, size] against what the reference collates: float32 [size, size, 3], then permuted."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, size, size, 3), dtype=np.uint8)
    floats = [{"image": (image / 127.5 - 1.0).astype(np.float32)} for image in pixels]
    integers = [{"image": torch.from_numpy(image.transpose(2, 0, 1).copy())} for image in pixels]

    def reference() -> None:
        default_collate(floats)["image"].permute(0, 3, 1, 2).contiguous()

    def ours() -> None:
        default_collate(integers)

    times = interleaved({"reference": reference, "ours": ours}, _CPU, repeats)
    return {
        "table": COLLATION,
        "size": size,
        "float32, channels last, then permuted [ms an image]": 1000 * times["reference"].median / batch_size,
        "uint8, channels first [ms an image]": 1000 * times["ours"].median / batch_size,
        "ratio": times["reference"].median / times["ours"].median,
    }


def _passing(dataset: TransformedDataset) -> Callable[[], None]:
    """One pass over a dataset; nothing is kept, as in a loader."""

    def run() -> None:
        for index in range(len(dataset)):
            dataset[index]

    return run


def _distances(dataset: TransformedDataset | None, exact: Sequence[Tensor]) -> Row:
    """PSNR to the exact pixels, of all and of the image that is furthest away; None leaves both empty."""
    names = "PSNR to exact [dB]", "of the worst image"
    if dataset is None:
        return dict.fromkeys(names)
    images = (dataset[number]["image"].double() for number in range(len(exact)))
    errors = [(image - pixels).square().mean().item() for image, pixels in zip(images, exact, strict=True)]
    return dict(zip(names, (_psnr(sum(errors) / len(errors)), _psnr(max(errors))), strict=True))


def _psnr(squared_error: float) -> float | str:
    return psnr(torch.tensor(squared_error), 255.0).item() if squared_error else "identical"


def _linked(paths: Sequence[str], folder: Path) -> ImageFolder:
    folder.mkdir()
    for number, path in enumerate(paths):
        (folder / f"{number:05}.JPEG").symlink_to(Path(path).absolute())
    return ImageFolder(folder)


def _enlarged(paths: Sequence[str], folder: Path) -> ImageFolder:
    """The photos at ImageNet's usual size, with grain, since enlarging alone gives files far smaller than real ones."""
    folder.mkdir()
    for number, path in enumerate(paths):
        image = Image.open(path).convert("RGB")
        factor = _SHORTER_SIDE / min(image.size)
        larger = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)
        _save(larger, number, folder)
    return ImageFolder(folder)


def drawn(folder: Path, count: int) -> ImageFolder:
    """JPEGs of images drawn by code, with grain, 500 x 375 pixels, in a folder that is made."""
    folder.mkdir()
    for number in range(count):
        image = SyntheticImages(count, 500)[number].image
        _save(image.crop((0, 0, 500, _SHORTER_SIDE)), number, folder)
    return ImageFolder(folder)


def _save(image: Image.Image, number: int, folder: Path) -> None:
    """With grain; every second file with colours at full resolution, as cameras and editors leave them."""
    grain = np.random.default_rng(number).normal(0, 4, (image.height, image.width, 1))
    pixels = (np.asarray(image) + grain).clip(0, 255).astype(np.uint8)
    options: dict[str, Any] = {"quality": 95, "subsampling": 2} if number % 2 else {"quality": 90, "subsampling": 0}
    Image.fromarray(pixels).save(folder / f"{number:05}.JPEG", **options)
