"""The data section of the benchmark on a few images: every pipeline, its distance to the exact one, collation."""

import numpy as np
import torch
from PIL import Image

from benchmarks.data_loading import ReferenceTransform, collation, pipelines
from open_magvit2.data.sources.cache_building import build, make_plan
from open_magvit2.data.sources.cached import CachedImages
from open_magvit2.data.sources.image_folder import ImageFolder


def test_pipelines_are_measured_against_the_exact_one(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        smooth = Image.fromarray(pixels).resize((400, 300), Image.Resampling.BICUBIC)
        smooth.save(tmp_path / "images" / f"{number}.jpg", quality=95)
    images = ImageFolder(tmp_path / "images")
    build(images, tmp_path / "cache", make_plan(images, 64, 2, num_workers=0), num_workers=0)
    rows = pipelines("three", images, CachedImages(tmp_path / "cache"), 64, repeats=3)
    by_pipeline = {row["pipeline"]: row for row in rows}
    assert by_pipeline["exact"]["ratio to exact"] == by_pipeline["reference"]["ratio to reference"] == 1
    assert by_pipeline["cached"]["PSNR to exact [dB]"] == by_pipeline["exact"]["PSNR to exact [dB]"] == "identical"
    assert by_pipeline["fast"]["PSNR to exact [dB]"] > 70
    for row in rows:
        assert round(row["cores for 300 images/s"] * row["images/s a core"]) == 300


def test_the_reference_pipeline_has_the_exact_pixels_as_floats():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 64, 3), dtype=np.uint8))
    found = ReferenceTransform(64)(image, np.random.default_rng(1))
    assert (found.dtype, found.shape) == (torch.float32, (64, 64, 3))
    pixels = ((found.double() + 1) * 127.5).round()
    assert any(np.array_equal(np.asarray(image)[top : top + 64], pixels) for top in range(37))


def test_collation_has_both_kinds_and_their_ratio():
    row = collation(32, repeats=2)
    assert row["ratio"] > 0
    assert row["size"] == 32
