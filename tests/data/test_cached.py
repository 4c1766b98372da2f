"""The cache as a dataset: identical samples, refusal of what is damaged or of another size."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from open_magvit2.data.dataset import TransformedDataset
from open_magvit2.data.loading import ImageDataModule
from open_magvit2.data.sources.cache_building import build, make_plan
from open_magvit2.data.sources.cached import CachedImages, DamagedCacheError, verify
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.transforms import ResizeRandomCrop

PHOTOS = Path(__file__).parents[2].parent / "shared" / "data" / "imagenet_mini"


def write_images(root, count=9):
    """Noise of many shapes in three classes, JPEG and PNG, larger and smaller than 32 pixels."""
    for number in range(count):
        generator = np.random.default_rng(number)
        height, width = generator.integers(20, 90, 2)
        folder = root / f"n{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"ü {number}.{'JPEG' if number % 2 else 'png'}")
    return root


def cached(source, root, image_size=32, images_per_file=4):
    build(source, root, make_plan(source, image_size, images_per_file, num_workers=0), num_workers=0)
    return CachedImages(root)


@pytest.fixture
def source(tmp_path):
    return ImageFolder(write_images(tmp_path / "images"))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_samples_of_the_data_module_are_identical(source, tmp_path, num_workers):
    cache = cached(source, tmp_path / "cache")
    options = {"image_size": 32, "global_batch_size": 3, "num_workers": num_workers}
    options["train_transform"] = ResizeRandomCrop(32, flip=True)
    from_files, from_cache = (ImageDataModule(images, images, **options) for images in (source, cache))
    for loaders in (
        (from_files.train_dataloader(), from_cache.train_dataloader()),
        (from_files.val_dataloader(), from_cache.val_dataloader()),
    ):
        for expected, found in zip(*loaders, strict=True):
            assert torch.equal(found["image"], expected["image"])
            assert torch.equal(found["label"], expected["label"])
            assert found["path"] == expected["path"]
    assert cache.classes == source.classes == ["n0", "n1", "n2"]


def test_crops_have_memory_of_their_own_and_the_dataset_travels_to_other_processes(source, tmp_path):
    cache = cached(source, tmp_path / "cache")
    before = cache[0].image.copy()
    sample = TransformedDataset(cache, ResizeRandomCrop(32))[0]
    sample["image"].zero_()
    copy = pickle.loads(pickle.dumps(cache))
    assert len(pickle.dumps(cache)) < 20_000  # not the pixels
    np.testing.assert_array_equal(copy[0].image, before)


def test_another_image_size_is_refused_when_the_data_module_is_built(source, tmp_path):
    cache = cached(source, tmp_path / "cache")
    with pytest.raises(ValueError, match="the train images were resized to 32 pixels, expected image_size 64"):
        ImageDataModule(cache, source, image_size=64, global_batch_size=3)
    with pytest.raises(
        ValueError, match="got an image that was resized to 32 pixels, expected one that covers 64 x 64"
    ):
        TransformedDataset(cache, ResizeRandomCrop(64))[0]


def flip_bit(path, place=-3):
    data = bytearray(path.read_bytes())
    data[place] ^= 16
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["images.npy", "paths.bin", "cache.json"])
def test_a_flipped_bit_of_the_index_is_refused_at_opening(source, tmp_path, name):
    cached(source, tmp_path / "cache")
    flip_bit(tmp_path / "cache" / name, place=-200 if name == "cache.json" else -3)
    with pytest.raises(DamagedCacheError, match=rf"{name}.*(checksum|no header).*delete its folder and write it again"):
        CachedImages(tmp_path / "cache")


def test_a_truncated_or_missing_file_is_refused_at_opening(source, tmp_path):
    cached(source, tmp_path / "cache")
    pixels = tmp_path / "cache" / "pixels-00001.bin"
    size = pixels.stat().st_size
    pixels.write_bytes(pixels.read_bytes()[:-1])
    with pytest.raises(DamagedCacheError, match=rf"pixels-00001.bin' has {size - 1} bytes, expected {size}"):
        CachedImages(tmp_path / "cache")
    pixels.unlink()
    with pytest.raises(DamagedCacheError, match="has no bytes"):
        CachedImages(tmp_path / "cache")


def test_a_flipped_bit_of_the_pixels_is_found_by_verification(source, tmp_path):
    cache = cached(source, tmp_path / "cache")
    verify(cache)
    flip_bit(tmp_path / "cache" / "pixels-00001.bin", place=0)
    with pytest.raises(DamagedCacheError, match=r"1 of 9 images .* wrong checksums, first 'n1/ü 4.png'"):
        verify(CachedImages(tmp_path / "cache"), num_workers=1)


def test_unfinished_and_newer_caches_are_refused(source, tmp_path):
    with pytest.raises(FileNotFoundError, match="is not there"):
        CachedImages(tmp_path / "cache")
    cached(source, tmp_path / "cache")
    header = tmp_path / "cache" / "cache.json"
    content = json.loads(header.read_text())
    header.write_text(json.dumps({**content, "format": 2}))
    with pytest.raises(DamagedCacheError, match="has format 2, expected 1"):
        CachedImages(tmp_path / "cache")
    header.unlink()
    with pytest.raises(FileNotFoundError, match="is not finished"):
        CachedImages(tmp_path / "cache")


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs ../shared/data/imagenet_mini")
def test_photos_come_out_of_a_cache_identically(tmp_path):
    source = ImageFolder(PHOTOS / "val")
    cache = cached(source, tmp_path / "cache", image_size=128, images_per_file=64)
    exact, fast = (TransformedDataset(images, ResizeRandomCrop(128, flip=True)) for images in (source, cache))
    assert all(torch.equal(exact[i]["image"], fast[i]["image"]) for i in range(len(source)))
