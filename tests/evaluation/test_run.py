"""From a file to figures: the size of the images is never a silent default, and a small folder is said to be one."""

import json
import sys

import pytest
import torch
from commands import ROOT
from PIL import Image
from small_checkpoint import save_small_checkpoint
from small_tokenizers import CoarseTokenizer, SequenceTokenizer, make_batch, make_images

from open_magvit2.common.errors import short_errors
from open_magvit2.evaluation import command_line, provenance
from open_magvit2.evaluation import protocol as protocols
from open_magvit2.evaluation.metrics import MetricContext, create
from open_magvit2.evaluation.report import markdown, page, record, write
from open_magvit2.evaluation.run import Setting, check_image_size, evaluate_checkpoint

PAPER = protocols.Protocol("paper", metrics=("psnr",))


def run(path, image_size=None, number=5, protocol=PAPER, check="off", **options):
    asked = []

    def images(resize, size):
        asked.append(size)
        pixels = make_images(number, max(size or (28,)))
        pixels = pixels if size is None else pixels[..., : size[0], : size[1]]
        samples = [{"image": image, "index": i, "path": f"{i}.png", "label": -1} for i, image in enumerate(pixels)]
        return samples, provenance.drawn(f"drawn {size}", number)

    setting = Setting(images, torch.device("cpu"), check=check, progress=False, **options)
    return evaluate_checkpoint(path, "open_magvit2", protocol, image_size, setting), asked


def test_the_size_of_training_is_the_default(tmp_path):
    path = save_small_checkpoint(tmp_path / "small.ckpt", image_size=32)
    found, asked = run(path)
    assert asked == [(32, 32)]
    assert found.record["model"]["train_image_size"] == 32
    assert found.record["protocol"]["cross_resolution"] is False
    assert not any("cross" in text for text in found.record["warnings"])
    assert run(path, (32, 32))[0].record["metrics"] == found.record["metrics"]


def test_another_size_is_refused_or_named(tmp_path):
    path = save_small_checkpoint(tmp_path / "small.ckpt", image_size=32)
    with pytest.raises(ValueError, match=r"trained at 32 x 32 .* at 64 x 64, with 16 x 16 tokens .* instead of 8 x 8"):
        run(path, (64, 64))
    found, asked = run(path, (64, 64), allow_cross_resolution=True)
    assert asked == [(64, 64)]
    results = record.write_json(tmp_path / "results.json", found.record)
    assert results["protocol"]["cross_resolution"] is True
    text = "cross-resolution: trained at 32 x 32, evaluated at 64 x 64, 16 x 16 tokens an image"
    assert text in results["warnings"]
    assert "small.ckpt (trained at 32)" in markdown.row(results)
    assert text in page.render(results)


def test_an_unknown_size_must_be_given(tmp_path):
    path = save_small_checkpoint(tmp_path / "small.ckpt")
    with pytest.raises(ValueError, match="--image-size"):
        run(path)
    found, _ = run(path, (64, 64))
    assert found.record["protocol"]["cross_resolution"] is None
    assert check_image_size(CoarseTokenizer(), (96, 96), allow_cross_resolution=False) == (
        96,
        96,
    )  # a family that knows nothing of it


def test_images_need_not_be_square(tmp_path):
    path = save_small_checkpoint(tmp_path / "small.ckpt", image_size=[32, 64])
    found, asked = run(path)
    assert asked == [(32, 64)]
    results = record.write_json(tmp_path / "results.json", found.record)
    assert results["tokens_per_image"] == [8, 16]
    assert results["protocol"]["image_size"] == [32, 64]
    assert results["protocol"]["cross_resolution"] is False
    assert "| 2D | 8x16 |" in markdown.row(results)
    with pytest.raises(ValueError, match="trained at 32 x 64 .* at 64 x 64, with 16 x 16 tokens .* instead of 8 x 16"):
        run(path, (64, 64))
    with pytest.raises(ValueError, match="multiples of 4 x 4, got 30 x 64"):
        run(path, (30, 64))


def test_a_tokenizer_of_one_size_needs_no_other(tmp_path):
    assert check_image_size(SequenceTokenizer(), None, allow_cross_resolution=False) == (32, 32)
    with pytest.raises(ValueError, match="at most 32 x 32, got 64 x 64"):
        check_image_size(SequenceTokenizer(), (64, 64), allow_cross_resolution=True)


def test_own_sizes_need_none(tmp_path):
    path = save_small_checkpoint(tmp_path / "small.ckpt", image_size=32)
    found, asked = run(path, protocol=protocols.Protocol("native", resize="none", metrics=("psnr",)))
    assert asked == [None]
    assert any("cross-resolution: trained at 32 x 32" in text for text in found.record["warnings"])
    assert found.record["protocol"]["cross_resolution"] is True
    path = save_small_checkpoint(tmp_path / "small.ckpt", image_size=28)  # the images' own
    found, _ = run(path, protocol=protocols.Protocol("native", resize="none", metrics=("psnr",)))
    assert found.record["protocol"]["cross_resolution"] is False


def test_what_the_loader_noticed_stands_beside_the_figures(tmp_path):
    path = save_small_checkpoint(tmp_path / "small.ckpt", image_size=32)
    found, _ = run(path)
    assert "checkpoint: untrained weights: every normalisation is as it was initialised" in (found.record["warnings"])


def test_a_folder_of_three_images(tmp_path):
    """It is evaluated, and everything that names a figure says that it is of three images."""
    for i, pixels in enumerate(make_images(3, 40)):
        (tmp_path / "three").mkdir(exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "three" / f"{i}.png")
    flags = ["--checkpoint", "x", "--images", str(tmp_path / "three"), "--output", str(tmp_path / "out")]
    given = command_line.parse_evaluate("", ROOT / "configs" / "evaluation", flags)
    facts = provenance.folder(given.images, ["0.png", "1.png", "2.png"])
    assert (facts["num_files"], facts["num_classes"], facts["known_as"]) == (3, 0, None)
    path = save_small_checkpoint(tmp_path / "small.ckpt", image_size=32)
    found, _ = run(path, number=3, check="record")
    write.run_files(tmp_path / "out", found)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    text = "3 images, not the 50,000 of the protocol"
    assert any(text in warning for warning in results["warnings"])
    assert text in (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "out" / "row.md").read_text().count("(per image, 3 images)") == 1


def test_one_image_has_no_rfid(random_networks):
    metric = create(["rfid"], MetricContext(64, 1))[0]["rfid"]
    image = torch.zeros(1, 3, 32, 32)
    metric.update(make_batch(image, image))
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        metric.compute()


def test_errors_of_the_command_are_short(capsys):
    with pytest.raises(SystemExit) as stopped, short_errors():
        raise ValueError("no such thing; available: others")
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "error: no such thing; available: others\n"
    assert sys.exc_info() == (None, None, None)
    with pytest.raises(ZeroDivisionError), short_errors():
        raise ZeroDivisionError
