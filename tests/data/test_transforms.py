"""Transforms against torchvision, bit for bit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Resize

from open_magvit2.data.order import random_stream
from open_magvit2.data.transforms import ResizeCenterCrop, ResizeRandomCrop, crop_to_pixels, resize_to_cover

PHOTOS = Path(__file__).parents[2].parent / "shared" / "data" / "imagenet_mini"


def noise(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def as_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(50, 50, 32), (97, 64, 32), (64, 97, 32), (333, 500, 128), (31, 20, 64), (7, 300, 16), (129, 128, 128), (1, 1, 8)],
)
def test_validation_is_torchvisions_resize_and_center_crop(width, height, size):
    image = noise(width, height)
    expected = as_tensor(CenterCrop(size)(Resize(size)(image)))
    pixels = ResizeCenterCrop(size)(image, random_stream("test", 0))
    assert torch.equal(pixels, expected)
    assert pixels.shape == (3, size, size)
    assert pixels.dtype == torch.uint8
    assert pixels.is_contiguous()


def test_odd_margins_round_as_torchvision_does():
    for width in range(32, 44):
        image = noise(width, 32)
        assert torch.equal(ResizeCenterCrop(32)(image, random_stream("test", 0)), as_tensor(CenterCrop(32)(image)))


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs ../shared/data/imagenet_mini")
@pytest.mark.parametrize("size", [128, 256])
def test_validation_of_photos_is_torchvisions(size):
    paths = sorted(PHOTOS.glob("val/*/*.JPEG"))[::10]
    assert paths
    for path in paths:
        image = Image.open(path).convert("RGB")
        expected = as_tensor(CenterCrop(size)(Resize(size)(image)))
        assert torch.equal(ResizeCenterCrop(size)(image, random_stream("test", 0)), expected)


def test_training_crops_come_from_the_resized_image_at_every_place():
    image = noise(40, 32)
    windows = {as_tensor(image)[:, :, left : left + 32].numpy().tobytes(): left for left in range(9)}
    transform = ResizeRandomCrop(32)
    places = [windows[transform(image, random_stream("test", n)).numpy().tobytes()] for n in range(300)]
    counts = np.bincount(places, minlength=9)
    assert counts.min() > 10, "every place from the first to the last column is used"


def test_training_resizes_like_validation():
    image = noise(90, 61)
    resized = as_tensor(Resize(32)(image))
    pixels = ResizeRandomCrop(32)(image, random_stream("test", 3))
    assert any(torch.equal(pixels, resized[:, :, left : left + 32]) for left in range(resized.shape[2] - 31))


def test_flip_is_off_by_default_and_mirrors_half_of_the_images():
    image = noise(32, 32)
    pixels = as_tensor(image)
    assert all(torch.equal(ResizeRandomCrop(32)(image, random_stream("test", n)), pixels) for n in range(20))
    flipped = 0
    for n in range(200):
        result = ResizeRandomCrop(32, flip=True)(image, random_stream("test", n))
        assert result.is_contiguous()
        is_flipped = torch.equal(result, pixels.flip(2))
        assert is_flipped or torch.equal(result, pixels)
        flipped += is_flipped
    assert 70 < flipped < 130


def test_crop_gives_memory_of_its_own():
    image = noise(20, 20)
    before = np.array(image)
    crop_to_pixels(image, 2, 3, 8).zero_()
    np.testing.assert_array_equal(np.array(image), before)


def test_resize_returns_an_image_of_the_right_size_as_it_is():
    image = noise(32, 48)
    assert resize_to_cover(image, 32) is image
