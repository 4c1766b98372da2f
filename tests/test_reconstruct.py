"""scripts/reconstruct.py as a user runs it, with a small random tokenizer."""

import os
import sys

import numpy as np
import pytest
from commands import ROOT, run, run_here
from PIL import Image
from small_checkpoint import save_small_checkpoint

from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.image_tokenizer.vision_transformer import TransformerDecoder, TransformerEncoder
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_small_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small.ckpt")


def reconstruct(checkpoint, output, *arguments, check=True):
    """Run the script; its result."""
    options = ["--checkpoint", checkpoint, "--device", "cpu", "--output", output]
    result = run_here(ROOT / "scripts/reconstruct.py", *options, *arguments)
    assert not check or result.returncode == 0, result.stderr
    return result


def write(path, width, height):
    """A smooth photo of a given size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_every_image_is_written_under_a_name_of_its_own_and_damaged_ones_are_told(checkpoint, tmp_path):
    photos = tmp_path / "photos"
    for name in ("one.png", "one.jpg", "trip/two.png"):
        write(photos / name, 37, 50)
    (photos / "damaged.png").write_bytes(b"not an image")
    result = reconstruct(
        *(checkpoint, tmp_path / "out", photos, write(tmp_path / "one.png", 20, 20)),
        *("--reconstructions", tmp_path / "alone"),
        check=False,
    )
    assert result.returncode == 1
    assert "damaged.png" in result.stderr
    assert "Traceback" not in result.stderr
    assert ": 4, files left out: 1" in result.stdout
    for folder in ("out", "alone"):
        found = {path.relative_to(tmp_path / folder).as_posix() for path in (tmp_path / folder).rglob("*.*")}
        assert found == {"one.png", "one_2.png", "one_3.png", "trip/two.png"}
    side_by_side = Image.open(tmp_path / "out/trip/two.png")
    assert side_by_side.size == (2 * 37 + 6, 50 + 4)
    alone = Image.open(tmp_path / "alone/trip/two.png")
    assert np.array_equal(np.array(side_by_side)[2:52, 41:78], np.array(alone))


def test_a_photo_of_a_size_that_the_tokenizer_does_not_take_is_left_out_by_name(tmp_path):
    sizes = {"latent_channels": 6, "patch": 4, "width": 16, "num_heads": 1, "num_blocks": 1}
    row = {**sizes, "num_latents": 5, "image_size": [16, 24]}
    tokenizer = ImageTokenizer(TransformerEncoder(**row), TransformerDecoder(**row), LookupFreeQuantizer(6))
    tokenizer.save_pretrained(tmp_path / "row")
    write(tmp_path / "photos/fits.png", 24, 16)
    large = write(tmp_path / "photos/large.png", 50, 40)
    where = tmp_path / "row", tmp_path / "out", tmp_path / "photos"
    result = reconstruct(*where, "--weights", "raw", check=False)
    assert result.returncode == 1
    assert f"{large}: " in result.stderr
    assert "16 x 24" in result.stderr
    assert ": 1, files left out: 1" in result.stdout
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["fits.png"]


def test_the_pixel_limit_is_an_option_also_with_tiles(checkpoint, tmp_path):
    photo = write(tmp_path / "photo.png", 40, 30)
    options = [checkpoint, tmp_path / "out", photo, "--tile", "16", "--max-pixels"]
    refused = reconstruct(*options, "1199", check=False)
    assert refused.returncode == 1
    assert "40 x 30 pixels, more than 1199" in refused.stderr
    reconstruct(*options, "1200")
    assert (tmp_path / "out/photo.png").is_file()


def test_tiles_their_seams_and_baselines(checkpoint, tmp_path):
    photo = write(tmp_path / "wide.png", 230, 90)
    result = reconstruct(
        *(checkpoint, tmp_path / "out", photo, "--baselines", "jpeg,bicubic"),
        *("--tile", "64", "--overlap", "16", "--measure-seams", "--image-size", "80"),
    )
    assert "fits one tile" not in result.stdout
    assert "tiles against whole" in result.stdout
    assert Image.open(tmp_path / "out/wide.png").width > 4 * 192


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.jpg"], "'nowhere.jpg' does not exist"),
        (["PHOTO", "--tile", "30"], "take 32"),
        (["PHOTO", "--overlap", "8"], "need --tile"),
        (["PHOTO", "--baselines", "webp"], "available: jpeg, bicubic"),
        (["--built-in", "2", "--baselines", "jpeg"], "not for --built-in"),
        (["PHOTO", "--image-size", "0"], "image_size must be at least 1, got 0"),
        (["PHOTO", "--output", "PHOTOS"], "photo.png is one of the images"),
        (["PHOTO", "--reconstructions", "PHOTOS"], "photo.png is one of the images"),
        (["PHOTO", "--reconstructions", "OUT"], "give two folders"),
        ([], "give image files or folders"),
    ],
)
def test_mistakes_are_told_in_one_line(checkpoint, tmp_path, arguments, words):
    photo = write(tmp_path / "photo.png", 40, 40)
    before = photo.read_bytes()
    chosen = [{"PHOTO": photo, "PHOTOS": tmp_path, "OUT": tmp_path / "out"}.get(word, word) for word in arguments]
    result = reconstruct(checkpoint, tmp_path / "out", *chosen, check=False)
    assert result.returncode == 2
    assert words in result.stderr
    assert photo.read_bytes() == before
    assert not (tmp_path / "out").exists()


def test_names_of_255_bytes_or_no_utf8_are_written_and_printed(checkpoint, tmp_path):
    photos, output = tmp_path / "photos", tmp_path / os.fsdecode(b"out \xe9")
    for name in ("n" * 255, os.fsdecode(b"\xff.png")):
        photos.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(photos / name, format="PNG")
    options = ["--checkpoint", checkpoint, "--device", "cpu", "--tile", "4", "--measure-seams", "--output", output]
    result = run(sys.executable, ROOT / "scripts/reconstruct.py", *options, photos, PYTHONIOENCODING="utf-8:strict")
    assert r"out \udce9: 2, files left out: 0" in result.stdout
    assert len(list(output.iterdir())) == 2
