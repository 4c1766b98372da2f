"""Protocols that squash images and compare JPEG files: what metrics see, and what the tokenizer sees."""

import io

import numpy as np
import torch
from PIL import Image
from small_tokenizers import CoarseTokenizer, make_images

from open_magvit2.common.images import to_float, to_uint8
from open_magvit2.evaluation import jpeg_files, originals, provenance
from open_magvit2.evaluation.protocol import Protocol
from open_magvit2.evaluation.run import Setting, evaluate_tokenizer

LEVELS = torch.arange(256, dtype=torch.uint8)


def test_truncation_lowers_63_levels_of_the_originals():
    centred = LEVELS.to(torch.float32) / 255 - 0.5
    change = jpeg_files.truncated(centred).to(torch.int16) - LEVELS.to(torch.int16)
    assert change.unique().tolist() == [-1, 0]
    assert int((change == -1).sum()) == 63


def test_both_sides_are_what_pillow_reads_from_a_file_of_quality_75():
    image = make_images(1)[0]
    original, output = jpeg_files.as_files(to_float(image)[None], 3 * to_float(image)[None], 75)

    def saved(values):
        file = io.BytesIO()
        Image.fromarray(values.permute(1, 2, 0).numpy()).save(file, format="JPEG")  # Pillow's own default is 75
        return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)

    pixels = ((image.to(torch.float32) / 255 - 0.5 + 0.5) * 255).to(torch.uint8)
    assert torch.equal(to_uint8(original)[0], saved(pixels))
    clamped = (((3 * to_float(image)).clamp(-1, 1) / 2 + 0.5) * 255).to(torch.uint8)
    assert torch.equal(to_uint8(output)[0], saved(clamped))
    assert not torch.equal(to_uint8(original)[0], image)


def test_a_squash_keeps_no_aspect_ratio_and_crops_nothing():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8))
    for name, kernel in (("squash_bicubic", Image.BICUBIC), ("squash_bilinear", Image.BILINEAR)):
        made = originals.make_transform(name, (32, 48))(image, None)
        assert np.array_equal(made.permute(1, 2, 0).numpy(), np.array(image.resize((48, 32), kernel)))


def test_an_evaluation_through_files_says_so_and_gives_other_figures():
    tokenizer, images = CoarseTokenizer(), make_images(4)
    samples = [{"image": image, "index": i, "label": -1, "path": f"{i}.png"} for i, image in enumerate(images)]
    facts = provenance.drawn("four images", 4)
    setting = Setting(lambda resize, size: (samples, facts), torch.device("cpu"), check="off", progress=False)
    model = {"method": "coarse"}

    def run(quality):
        protocol = Protocol("own", resize="squash_bicubic", jpeg_quality=quality, metrics=("psnr",))
        return evaluate_tokenizer(tokenizer, model, protocol, (32, 32), setting).record

    plain, files = run(None), run(75)
    assert "JPEG files of quality 75" in files["protocol"]["transform"]
    assert "JPEG" not in plain["protocol"]["transform"]
    batch = to_float(torch.stack(list(images)))
    with torch.inference_mode():
        outputs = tokenizer.reconstruct(batch)[0]
    pair = [to_uint8(x).to(torch.float64) for x in jpeg_files.as_files(batch, outputs, 75)]
    expected = (20 * np.log10(255) - 10 * ((pair[0] - pair[1]) ** 2).mean((1, 2, 3)).log10()).mean().item()
    assert abs(files["metrics"]["psnr_image"] - expected) < 1e-9
    assert files["metrics"]["psnr_image"] != plain["metrics"]["psnr_image"]
