"""Transforms that are chosen in the configuration: other sizes, random resized crops, ten crops."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from open_magvit2.data.dataset import ImageDataset, RawImage, TransformedDataset
from open_magvit2.data.order import random_stream
from open_magvit2.data.transforms import (
    RandomResizedCrop,
    ResizeCenterCrop,
    ResizeRandomCrop,
    TenCrop,
    height_and_width,
    resized_size,
)


def picture(width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("size", "image", "expected"),
    [
        (64, (100, 80), (80, 64)),
        ((64, 96), (100, 80), (96, 76)),
        ((64, 96), (300, 80), (240, 64)),
        ((64, 32), (50, 80), (40, 64)),
    ],
)
def test_an_image_is_resized_to_cover_the_size(size, image, expected):
    assert resized_size(*image, size) == expected
    height, width = height_and_width(size)
    for transform in (ResizeCenterCrop(size), ResizeRandomCrop(size, flip=True), RandomResizedCrop(size)):
        pixels = transform(picture(*image), random_stream("test", 1))
        assert pixels.shape == (3, height, width)
        assert pixels.dtype == torch.uint8


def test_sizes_that_are_none_are_refused():
    for size, message in ((0, "size must be at least 1, got 0"), ((8, 8, 8), r"\(height, width\), got \(8, 8, 8\)")):
        with pytest.raises(ValueError, match=message):
            ResizeCenterCrop(size)


def test_random_resized_crops_are_torchvision_s():
    """The same box gives the same pixels; the boxes have torchvision's distribution of areas and ratios."""
    image, transform, generator = picture(90, 60), RandomResizedCrop(32), random_stream("test", 2)
    boxes = np.array([transform._box(90, 60, generator) for _ in range(4000)], dtype=np.float64)
    areas, ratios = boxes[:, 2] * boxes[:, 3] / 5400, boxes[:, 2] / boxes[:, 3]
    assert (boxes[:, 0] + boxes[:, 2]).max() <= 90
    assert (boxes[:, 1] + boxes[:, 3]).max() <= 60
    torch.manual_seed(0)
    theirs = np.array([v2.RandomResizedCrop.make_params(v2.RandomResizedCrop(32), [image]) for _ in range(4000)])
    their_areas = np.array([p["height"] * p["width"] / 5400 for p in theirs])
    their_ratios = np.array([p["width"] / p["height"] for p in theirs])
    assert areas.mean() == pytest.approx(their_areas.mean(), abs=0.02)
    assert np.log(ratios).std() == pytest.approx(np.log(their_ratios).std(), abs=0.02)
    left, top, width, height = transform._box(90, 60, random_stream("test", 3))
    expected = v2.functional.resized_crop(image, top, left, height, width, [32, 32], antialias=True)
    found = transform(image, random_stream("test", 3))
    assert torch.equal(found, torch.from_numpy(np.asarray(expected).transpose(2, 0, 1).copy()))
    with pytest.raises(ValueError, match="0 < low <= high"):
        RandomResizedCrop(32, scale=(0.5, 0.2))


class Two(ImageDataset):
    """Two images."""

    def __len__(self):
        return 2

    def read(self, index):
        return RawImage(picture(60 + index, 50), label=7 + index, path=str(index))


def test_ten_crops_are_ten_samples_of_an_image():
    dataset = TransformedDataset(Two(), TenCrop(32, enlargement=1.25))
    assert len(dataset) == 20
    samples = [dataset[index] for index in range(20)]
    assert [sample["label"] for sample in samples] == [7] * 10 + [8] * 10
    assert [sample["index"] for sample in samples] == list(range(20))
    area = ResizeCenterCrop(40)(picture(60, 50), None)
    expected = [crop.contiguous() for crop in v2.functional.ten_crop(area, [32, 32])]
    for view in range(10):
        assert torch.equal(samples[view]["image"], expected[view])
