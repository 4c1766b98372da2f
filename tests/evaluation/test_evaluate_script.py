"""scripts/evaluate.py as a user runs it: folders, file lists, subsets, one process and two, and its refusals."""

import json
import os
import re
import shutil
import sys

import pytest
import torch
from commands import ROOT, run, run_here
from PIL import Image
from small_tokenizers import make_images

from open_magvit2.common.construction import describe
from open_magvit2.data.dataset import TransformedDataset
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.transforms import ResizeCenterCrop
from open_magvit2.evaluation.provenance import pixel_fingerprint
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer

SCRIPT = ROOT / "scripts" / "evaluate.py"
METRICS = ["--metrics", "psnr,ssim,l1,codebook_usage,bits_per_pixel", "--device", "cpu"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An untrained tokenizer in our checkpoint format, without averages."""
    torch.manual_seed(0)
    tokenizer = ImageTokenizer.convolutional(
        LookupFreeQuantizer(8), channels=8, channel_multipliers=(1, 2, 2), num_residual_blocks=1, norm_groups=4
    )
    state = {f"tokenizer.{name}": value for name, value in tokenizer.state_dict().items()}
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.ckpt"
    torch.save({"state_dict": state, "open_magvit2_tokenizer": describe(tokenizer)}, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven pictures of different sizes in two class folders."""
    root = tmp_path_factory.mktemp("pictures")
    for i, pixels in enumerate(make_images(7, size=60)):
        path = root / ("a" if i < 4 else "b") / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels[:, : 40 + 2 * i].permute(1, 2, 0).numpy()).save(path)
    return root


def evaluate(checkpoint, output, *flags, launcher=(), check=True):
    words = (SCRIPT, "--checkpoint", checkpoint, "--output", output, *METRICS, "--set", "weights=raw", *flags)
    result = run(*launcher, *words, OMP_NUM_THREADS="1") if launcher else run_here(*words)
    assert not check or result.returncode == 0, result.stderr
    return json.loads((output / "results.json").read_text()) if check else result


@pytest.mark.long
def test_two_processes_and_any_batch_size_give_the_same(checkpoint, folder, tmp_path):
    flags = ["--images", folder, "--image-size", "32", "--check", "record"]
    one = evaluate(checkpoint, tmp_path / "one", *flags, "--batch-size", "1")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone")
    two = evaluate(checkpoint, tmp_path / "two", *flags, "--batch-size", "16", launcher=torchrun)
    assert two["runtime"]["world_size"] == 2
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-9)
    assert two["num_images"] == one["num_images"] == 7
    assert one["dataset"]["per_class"] == [3, 4]
    assert one["protocol"]["changes"]["weights"] == ["ema", "raw"]
    assert one["model"]["num_params"] > 1000
    assert {p.name for p in (tmp_path / "two").iterdir()} == {
        *("results.json", "row.md", "report.html", "per_image.npz", "per_image.csv", "per_class.csv", "pictures.npz")
    }


def test_own_sizes_a_file_list_and_a_subset(checkpoint, folder, tmp_path):
    (tmp_path / "list.txt").write_text("b/6.png\na/0.png\na/1.png\n")
    flags = ["--images", folder, "--file-list", tmp_path / "list.txt", "--check", "off", "--limit", "2"]
    found = evaluate(checkpoint, tmp_path / "out", *flags, "--protocol", "native", "--precision", "bf16")
    assert found["protocol"]["changes"] == {
        **{"name": ["native", "custom"], "weights": ["ema", "raw"], "precision": ["fp32", "bf16"]}
    }
    assert found["runtime"]["precision"] == "bfloat16 autocast"
    assert found["num_images"] == 2
    assert "psnr_image_2" in found["metrics"]
    assert found["dataset"]["num_files"] == 3


def test_any_source_by_its_class_path(checkpoint, folder, tmp_path):
    """The folder's own class, named by its path: the same figures."""
    flags = ["--image-size", "32", "40", "--check", "off"]
    source = ["--source", "open_magvit2.data.sources.image_folder.ImageFolder", "--source-args", f"root={folder}"]
    by_class = evaluate(checkpoint, tmp_path / "class", *source, *flags)
    by_folder = evaluate(checkpoint, tmp_path / "folder", "--images", folder, *flags)
    assert by_class["metrics"] == by_folder["metrics"]
    assert by_class["protocol"]["image_size"] == [32, 40]
    assert by_class["tokens_per_image"] == [8, 10]
    assert by_class["dataset"]["fingerprint_mode"] == "description and names"
    assert by_class["dataset"]["root"].endswith(f"ImageFolder root={folder}")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--image-size", "32"], "Wrong or untrained weights"),
        ([], "--image-size"),
        (["--image-size", "32", "--set", "weights=ema"], "holds no EMA weights"),
        (["--image-size", "32", "--metrics", "fidd"], "available: "),
        (["--image-size", "30"], "multiples of 4 x 4, got 30 x 30"),
        (["--image-size", "32", "--protocol", "papers"], "available: adm, ldm, llamagen"),
    ],
)
def test_refusals_name_the_cause(checkpoint, folder, tmp_path, flags, message):
    result = evaluate(checkpoint, tmp_path, "--images", folder, *flags, check=False)
    assert result.returncode != 0
    assert message in result.stderr
    assert not (tmp_path / "results.json").exists()


def test_what_the_scan_of_a_folder_leaves_out_is_recorded_and_shown(checkpoint, folder, tmp_path):
    more = shutil.copytree(folder, tmp_path / "more")
    for name in ("a/notes.txt", "b/list.txt", "b/.DS_Store"):
        (more / name).touch()
    flags = ["--image-size", "32", "--check", "record"]
    found = evaluate(checkpoint, tmp_path / "found", "--images", more, *flags)
    assert found["dataset"]["left_out"] == {"files .txt": 2, "hidden files and folders": 1}
    assert "left out of the folder: 2 files .txt, 1 hidden files and folders" in found["warnings"]
    for name in ("row.md", "report.html"):
        assert "2 of the folder left out" in (tmp_path / "found" / name).read_text()
    assert evaluate(checkpoint, tmp_path / "whole", "--images", folder, *flags)["dataset"]["left_out"] == {}
    assert "left out" not in (tmp_path / "whole" / "row.md").read_text()


def test_broken_files_are_refused_or_counted_beside_the_figures(checkpoint, folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "a" / "1b.png").touch()
    (broken / "b" / "cut.png").write_bytes((broken / "b" / "5.png").read_bytes()[:300])
    flags = ["--images", broken, "--image-size", "32", "--check", "record"]
    refused = evaluate(checkpoint, tmp_path / "refused", *flags, check=False)
    assert refused.returncode == 1
    assert re.search(r"error: cannot read image 2 at '.*a/1b\.png': empty file .*--skip-broken", refused.stderr)
    assert not (tmp_path / "refused").exists()
    os.mkfifo(broken / "b" / "pipe.png")
    (broken / "b" / "zeros.png").symlink_to("/dev/zero")
    (broken / "b" / "circle.png").symlink_to("circle.png")
    Image.new("1", (14_000, 14_000)).save(broken / "a" / "bomb.png")  # 196 million pixels
    found = evaluate(checkpoint, tmp_path / "found", *flags, "--skip-broken")
    whole = TransformedDataset(ImageFolder(folder), ResizeCenterCrop(32))
    assert found["num_images"] == len(whole) == 7
    assert found["dataset"]["pixel_fingerprint"] == pixel_fingerprint(whole)  # of the same images in the same order
    skipped = found["dataset"]["skipped"]
    assert list(skipped) == ["a/1b.png", "a/bomb.png", "b/circle.png", "b/cut.png", "b/pipe.png", "b/zeros.png"]
    assert skipped["a/1b.png"] == "empty file (0 bytes)"
    assert any("6 files could not be read and were left out" in text for text in found["warnings"])
    assert "6 files could not be read and were left out" in (tmp_path / "found/report.html").read_text()
