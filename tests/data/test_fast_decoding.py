"""Fast decoding against the exact way: same crops, pixels within 70 dB, every other kind of file exactly the same."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from open_magvit2.data.dataset import TransformedDataset
from open_magvit2.data.decoding import UnreadableImageError
from open_magvit2.data.fast_decoding import FastDecoding, jpeg_frame, read_jpeg, resize, resizing_error
from open_magvit2.data.loading import ImageDataModule
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.transforms import ResizeRandomCrop, resize_to_cover

PHOTOS = Path(__file__).parents[2].parent / "shared" / "data" / "imagenet_mini"


def picture(width, height, seed=0):
    """Smooth colours with some grain: compresses like a photo."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((smooth + generator.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8))


def psnr(first, second):
    return 10 * math.log10(255**2 / max(np.square(first.astype(int) - second.astype(int)).mean(), 1e-9))


@pytest.mark.parametrize("options", [{"quality": 95}, {"quality": 75, "progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpegs_decode_to_pillows_pixels(tmp_path, options, mode):
    picture(61, 45).convert(mode).save(tmp_path / "a.jpg", **options)
    expected = np.asarray(Image.open(tmp_path / "a.jpg").convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(read_jpeg(str(tmp_path / "a.jpg")).numpy(), expected)
    assert jpeg_frame((tmp_path / "a.jpg").read_bytes()) == (61, 45, 1 if mode == "L" else 3)


# Among them lengths at which torch's weights alone are less exact (160 to 128, 272 to 256), and Pillow's rows first.
@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(500, 375, 256), (375, 500, 256), (160, 160, 128), (272, 408, 256), (375, 803, 256), (90, 61, 128), (64, 80, 64)],
)
def test_resizing_is_within_70_db_of_pillows_at_any_size(width, height, size):
    image = picture(width, height)
    expected = np.asarray(resize_to_cover(image, size)).transpose(2, 0, 1)
    found = resize(torch.from_numpy(np.array(image)).permute(2, 0, 1), size)
    assert found.shape == expected.shape
    assert psnr(found, expected) >= 70


def test_torchs_weights_are_not_exact_enough_at_every_length():
    """Why resize() asks: if torch or Pillow change this, the question can go."""
    assert resizing_error(160, 128) > 255**2 / 10**7 > resizing_error(375, 256) > 0 == resizing_error(128, 128)


def outcome(dataset, index):
    """What reading an image gives: the image, or the words of its error."""
    try:
        return dataset.read(index)
    except UnreadableImageError as error:
        return str(error)


def test_other_files_come_from_the_folder_exactly(tmp_path):
    picture(40, 30).save(tmp_path / "png named.jpg", format="PNG")
    picture(40, 30).convert("CMYK").save(tmp_path / "cmyk.jpg")
    picture(40, 30).save(tmp_path / "fine.jpg")
    (tmp_path / "zero.jpg").touch()
    whole = (tmp_path / "fine.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("nowhere")
    folder = ImageFolder(tmp_path)
    fast, decoded = FastDecoding(folder, 24), 0
    for index in range(len(folder)):
        expected, found = outcome(folder, index), outcome(fast, index)
        if isinstance(expected, str):
            assert found == expected
            continue
        assert (found.path, found.label) == (expected.path, expected.label)
        if isinstance(found.image, Image.Image):
            assert found.image.tobytes() == expected.image.tobytes()
        decoded += 1
    assert decoded == 3
    assert {Path(folder.path(i)).name for i in range(len(folder)) if read_jpeg(folder.path(i)) is not None} == {
        "fine.jpg"
    }


def test_damaged_jpegs_fail_or_decode_as_with_pillow(tmp_path):
    """Bytes anywhere in the file are changed or cut off: never pixels where Pillow refuses, never other pixels."""
    path, outcomes = tmp_path / "a.jpg", set()
    picture(48, 40).save(path, quality=90)
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    folder = ImageFolder(tmp_path)
    for number in range(150):
        data = bytearray(whole)
        for place in generator.integers(0, len(whole), 1 + number % 3):
            data[place] = generator.integers(256)
        path.write_bytes(data if number % 2 else data[: generator.integers(len(whole))])
        pixels = read_jpeg(str(path))
        try:
            expected = np.asarray(folder.read(0).image).transpose(2, 0, 1)
        except UnreadableImageError:
            expected = None
        if pixels is not None:
            assert expected is not None
            np.testing.assert_array_equal(pixels.numpy(), expected)
        outcomes.add((pixels is None, expected is None))
    assert {(True, True), (False, False)} <= outcomes


def test_the_data_module_gives_the_same_crops_in_training_and_exact_ones_in_validation(tmp_path):
    for number in range(6):
        picture(90 + 9 * number, 70, seed=number).save(tmp_path / f"{number}.jpg", quality=95)
    options = {"image_size": 48, "global_batch_size": 6, "num_workers": 0}
    options["train_transform"] = ResizeRandomCrop(48, flip=True)
    modules = {
        decoding: ImageDataModule(ImageFolder(tmp_path), ImageFolder(tmp_path), decoding=decoding, **options)
        for decoding in ("exact", "fast")
    }
    exact, fast = (next(iter(module.train_dataloader())) for module in modules.values())
    assert exact["path"] == fast["path"]
    assert fast["image"].dtype == torch.uint8
    assert not torch.equal(exact["image"], fast["image"])
    assert psnr(exact["image"].numpy(), fast["image"].numpy()) >= 70  # another place or flip would be at 20 dB
    first, second = (next(iter(module.val_dataloader())) for module in modules.values())
    assert torch.equal(first["image"], second["image"])


def test_another_decoding_is_refused(tmp_path):
    picture(20, 20).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="decoding must be 'exact' or 'fast', got 'quick'"):
        ImageDataModule(ImageFolder(tmp_path), ImageFolder(tmp_path), 16, 1, decoding="quick")


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs ../shared/data/imagenet_mini")
@pytest.mark.parametrize("size", [128, 256])
def test_crops_of_photos_are_within_70_db(size):
    folder = ImageFolder(PHOTOS / "val")
    transform = ResizeRandomCrop(size, flip=True)
    exact, fast = (TransformedDataset(images, transform) for images in (folder, FastDecoding(folder, size)))
    pairs = [(exact[index]["image"].numpy(), fast[index]["image"].numpy()) for index in range(0, len(folder), 2)]
    assert psnr(*(np.stack(pixels) for pixels in zip(*pairs, strict=True))) >= 74
    assert min(psnr(*pair) for pair in pairs) >= 69
