"""Baselines never cost more bits than they may, and use what they may."""

import io
import math

import pytest
import torch
from PIL import Image
from small_tokenizers import make_images

from open_magvit2.common.images import from_image, to_image
from open_magvit2.evaluation import baselines


@pytest.fixture(scope="module")
def pixels():
    return make_images(1, 128)[0, :, :96]


def test_tokens_cost_their_bits():
    assert baselines.token_bits(256, 2**18) == 256 * 18
    assert baselines.token_bits(64, 1000) == pytest.approx(64 * math.log2(1000))


@pytest.mark.parametrize("max_bits", [12_000, 30_000, 60_000])
def test_the_next_quality_would_not_fit(pixels, max_bits):
    image = to_image(pixels)
    quality = baselines.highest_quality(image, max_bits)
    assert 8 * len(baselines.jpeg_file(image, quality)) <= max_bits < 8 * len(baselines.jpeg_file(image, quality + 1))


def test_qualities_end_at_both_ends(pixels):
    image = to_image(pixels)
    assert baselines.highest_quality(image, 1e9) == 100
    assert baselines.highest_quality(image, 1000) is None


@pytest.mark.parametrize("max_bits", [4_000, 8_000, 20_000, 60_000])
def test_jpeg_is_a_file_within_the_bits(pixels, max_bits):
    result = baselines.jpeg(pixels, max_bits)
    assert result.num_bits <= max_bits
    assert result.pixels.shape == pixels.shape
    assert result.pixels.dtype == torch.uint8


def test_jpeg_at_full_size_is_what_pillow_decodes(pixels):
    result = baselines.jpeg(pixels, 1e9)
    assert result.settings == "quality 100 at 128 x 96"
    file = baselines.jpeg_file(to_image(pixels), 100)
    assert result.num_bits == 8 * len(file)
    assert torch.equal(result.pixels, from_image(Image.open(io.BytesIO(file))))


def test_jpeg_reduces_the_image_where_that_is_better(pixels):
    few = 8 * len(baselines.jpeg_file(to_image(pixels), 1))
    result = baselines.jpeg(pixels, few)
    at_full_size = from_image(Image.open(io.BytesIO(baselines.jpeg_file(to_image(pixels), 1))))
    assert "at 128 x 96" not in result.settings
    assert baselines.psnr(pixels, result.pixels) > baselines.psnr(pixels, at_full_size)


def test_more_bits_are_never_worse(pixels):
    for method in baselines.BASELINES.values():
        quality = [baselines.psnr(pixels, method(pixels, bits).pixels) for bits in (6_000, 20_000, 60_000, 200_000)]
        assert quality == sorted(quality)


@pytest.mark.parametrize("size", [(96, 128), (128, 20), (1, 100), (100, 1)])
@pytest.mark.parametrize("max_bits", [24, 100, 4608])
def test_bicubic_counts_its_pixels(size, max_bits):
    image = make_images(1, 128)[0, :, : size[0], : size[1]]
    result = baselines.bicubic(image, max_bits)
    width, height = (int(word) for word in result.settings.split() if word.isdigit())
    assert result.num_bits == 24 * width * height <= max_bits
    assert result.pixels.shape == image.shape


def test_bicubic_with_all_bits_is_the_image(pixels):
    result = baselines.bicubic(pixels, 1e9)
    assert torch.equal(result.pixels, pixels)
    assert result.num_bits == 24 * 96 * 128


def test_where_nothing_fits_there_is_no_baseline(pixels):
    assert baselines.jpeg(pixels, 800) is None  # less than the headers
    assert baselines.bicubic(pixels, 23) is None


def test_baselines_are_named():
    assert baselines.parse("jpeg, bicubic") == ["jpeg", "bicubic"]
    assert baselines.parse("") == []
    with pytest.raises(ValueError, match="no baseline is called webp; available: jpeg, bicubic"):
        baselines.parse("jpeg,webp")
