"""Synthetic images: reproducible, held-out ones never seen in training, and varied enough to learn from."""

import numpy as np
import pytest
from PIL import Image

from open_magvit2.data.order import random_stream
from open_magvit2.data.sources.synthetic import SyntheticImages
from open_magvit2.data.sources.synthetic.drawing import Palette, oklch_to_rgb, paint, pattern, plasma, radial
from open_magvit2.data.sources.synthetic.scenes import SCENES


def pixels(dataset, count):
    return np.stack([np.asarray(dataset[index].image) for index in range(count)])


def test_images_are_a_function_of_seed_split_and_index():
    first, second = SyntheticImages(20, 32, seed=5), SyntheticImages(1000, 32, seed=5)
    backwards = [np.asarray(second[index].image) for index in reversed(range(20))][::-1]
    np.testing.assert_array_equal(pixels(first, 20), np.stack(backwards))
    assert [first[index].label for index in range(20)] == [second[index].label for index in range(20)]


def test_no_image_appears_twice_in_or_across_splits_and_seeds():
    datasets = [SyntheticImages(150, 32, seed, split) for seed in (0, 1) for split in ("train", "validation")]
    images = [image.tobytes() for dataset in datasets for image in pixels(dataset, 150)]
    assert len(set(images)) == 600
    paths = {dataset[index].path for dataset in datasets for index in range(150)}
    assert len(paths) == 600


@pytest.mark.parametrize("size", [16, 32, 48, 64, 100, 128])
def test_size_and_mode(size):
    for index in range(12):
        image, label, path = SyntheticImages(12, size)[index][:3]
        assert image.size == (size, size)
        assert image.mode == "RGB"
        assert 0 <= label < len(SCENES)
        assert path.startswith("synthetic://train/0/")


def test_images_are_varied():
    dataset = SyntheticImages(200, 32)
    images = pixels(dataset, 200).astype(float)
    assert images.std(axis=0).mean() > 45, "images differ from each other"
    assert np.median(images.std(axis=(1, 2)).mean(axis=1)) > 25, "and within themselves"
    colours = [len(np.unique(image.reshape(-1, 3), axis=0)) for image in images]
    assert np.median(colours) > 300
    assert 90 < images.mean() < 160
    labels = np.bincount([dataset[index].label for index in range(200)], minlength=len(SCENES))
    assert labels.min() >= 8
    assert images.mean(axis=(0, 1, 2)).std() < 15, "no colour cast over the whole dataset"


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_every_scene_fills_any_canvas(scene):
    for side in (33, 64):
        for number in range(15):
            generator = random_stream("test", number)
            canvas = scene(side, generator, Palette(generator))
            assert canvas.size == (side, side)
            assert np.asarray(canvas).std() > 2


def test_oklch_reproduces_srgb_primaries():
    lightness = np.array([0.62796, 0.86644, 0.45201, 1.0, 0.0])
    chroma = np.array([0.25768, 0.29483, 0.31321, 0.0, 0.0])
    hue = np.radians([29.234, 142.495, 264.052, 0.0, 0.0])
    expected = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)]
    assert np.abs(oklch_to_rgb(lightness, chroma, hue).astype(int) - expected).max() <= 1


def test_fields_are_fractions_and_paint_meets_its_colours():
    generator = random_stream("test", 1)
    for field in (radial(20, 0.5, 0.5, 1.0), plasma(20, generator, 4), *(pattern(20, generator, 2) for _ in range(9))):
        assert field.shape == (20, 20)
        assert field.min() >= 0
        assert field.max() <= 1
    colours = np.array([[10, 20, 30], [100, 0, 200], [255, 255, 255]])
    ramp = np.linspace(0, 1, 3, dtype=np.float32)[None].repeat(2, axis=0)
    painted = np.asarray(paint(ramp, colours))[0].astype(int)
    assert np.abs(painted - colours).max() <= 1


def test_scenes_can_be_chosen_and_are_labelled_by_their_place():
    chosen, names = SyntheticImages(40, 32, scenes=["portrait", "marble"]), [scene.__name__ for scene in SCENES]
    assert 10 < sum(chosen[index].label for index in range(40)) < 30
    for scene in names:
        alone = SyntheticImages(1, 32, scenes=[scene])
        generator = random_stream("synthetic", 0, 0, 0)
        generator.integers(1)
        light_aside = SCENES[names.index(scene)](128, generator, Palette(generator)).reduce(4)
        assert np.abs(pixels(alone, 1)[0].astype(int) - np.asarray(light_aside)).max() < 40
    everything = SyntheticImages(20, 32, scenes=names)
    np.testing.assert_array_equal(pixels(SyntheticImages(20, 32), 20), pixels(everything, 20))


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="num_images must be at least 1, got 0"):
        SyntheticImages(0, 32)
    with pytest.raises(ValueError, match="size must be at least 16, got 8"):
        SyntheticImages(1, 8)
    with pytest.raises(ValueError, match=r"split must be one of .*got 'val'"):
        SyntheticImages(1, 32, split="val")
    for scenes in (["portrait", "potrait"], ["marble", "marble"], []):
        with pytest.raises(ValueError, match="scenes must be different names among shapes, landscape"):
            SyntheticImages(1, 32, scenes=scenes)


def test_read_gives_an_independent_image():
    dataset = SyntheticImages(1, 32)
    before = np.array(dataset[0].image)
    dataset[0].image.paste(0, (0, 0, 32, 32))
    np.testing.assert_array_equal(np.asarray(dataset[0].image), before)
    assert isinstance(dataset.read(0).image, Image.Image)
