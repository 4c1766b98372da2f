"""--originals and --reconstructions: pairs by name, missing partners listed, and the figures of the pixels."""

import json
import math

import pytest
import torch
from commands import ROOT, run_here
from small_tokenizers import make_images

from open_magvit2.common.images import to_image
from open_magvit2.evaluation.made_elsewhere import PairsOfFiles


@pytest.fixture
def folders(tmp_path):
    for i, image in enumerate(make_images(5)):
        for folder, pixels, suffix in (("a", image, "png"), ("b", image // 2, "bmp")):
            (tmp_path / folder).mkdir(exist_ok=True)
            to_image(pixels).save(tmp_path / folder / f"photo{i}.{suffix}")
    return tmp_path


def test_the_figures_are_those_of_the_pairs(folders):
    command = [ROOT / "scripts" / "evaluate.py", "--originals", folders / "a", "--reconstructions", folders / "b"]
    command += ["--metrics", "psnr,ssim", "--device", "cpu", "--output", folders / "out", "--method", "Halved"]
    done = run_here(*command)
    assert done.returncode == 0, done.stderr
    record = json.loads((folders / "out" / "results.json").read_text())
    errors = [((image.double() - (image // 2).double()) ** 2).mean().item() for image in make_images(5)]
    expected = sum(10 * math.log10(255**2 / error) for error in errors) / 5
    assert abs(record["metrics"]["psnr_image"] - expected) < 1e-6
    assert (record["model"]["method"], record["protocol"]["name"]) == ("Halved", "native")
    assert record["dataset"]["fingerprint_mode"] == "full"
    assert "weights" not in " ".join(record["warnings"])
    assert "| Halved | - | - | - | - |" in (folders / "out" / "row.md").read_text()  # nothing is known of tokens
    assert (folders / "out" / "report.html").is_file()
    lines = (folders / "out" / "per_image.csv").read_text().splitlines()
    assert lines[0].startswith("index,path,label,psnr_image")
    assert lines[1].startswith("0,photo0,-1,")
    assert len(lines) == 6
    assert (folders / "out" / "per_class.csv").read_text().splitlines()[1].startswith("-1,5,")


def test_missing_partners_and_other_sizes_are_named(folders):
    (folders / "b" / "photo3.bmp").rename(folders / "b" / "other.bmp")
    with pytest.raises(ValueError, match="without a reconstruction: photo3; without an original: other"):
        PairsOfFiles(folders / "a", folders / "b", 10**6)
    (folders / "b" / "other.bmp").rename(folders / "b" / "photo3.bmp")
    to_image(torch.zeros(3, 8, 9, dtype=torch.uint8)).save(folders / "b" / "photo0.bmp")
    with pytest.raises(ValueError, match="photo0: the original is 32 x 32, the reconstruction 9 x 8"):
        PairsOfFiles(folders / "a", folders / "b", 10**6)[0]
    with pytest.raises(ValueError, match=r"expected a folder of pictures, got the file .*photo1\.png"):
        PairsOfFiles(folders / "a" / "photo1.png", folders / "b", 10**6)
    command = [ROOT / "scripts" / "evaluate.py", "--originals", folders / "a", "--output", folders / "out"]
    assert run_here(*command).returncode == 2
