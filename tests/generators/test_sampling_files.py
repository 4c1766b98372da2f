"""Many images in files: balance, the evaluator's form, resumption after a kill, two processes, mistakes."""

import json
import sys
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

import numpy as np
import pytest
import torch
from commands import ROOT, run, run_here
from PIL import Image
from small_checkpoint import save_small_checkpoint
from test_autoregressive import small

import open_magvit2
from open_magvit2.common.files import sha256_of
from open_magvit2.common.images import to_uint8
from open_magvit2.generators.decoding import image_seed, image_size
from open_magvit2.generators.writing import Plan, write_samples

CPU = torch.device("cpu")
SCRIPT = ROOT / "scripts" / "sample.py"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """64 codes, 4 x 4 pixels a token."""
    return open_magvit2.load_tokenizer(save_small_checkpoint(tmp_path_factory.mktemp("tokenizer") / "small.ckpt"))


@pytest.fixture(scope="module")
def generator():
    return small(bits=(3, 3), grid=(2, 3))


def write(generator, tokenizer, folder, plan=None, made_by=None, batch_size=4):
    plan = Plan(10, (0, 1, 2, 3, 4), seed=3) if plan is None else plan
    made_by = {"generator_sha256": "a"} if made_by is None else made_by
    settings = generator.make_settings(guidance=2.0, top_k=[4, 0])
    return write_samples(generator, tokenizer, settings, plan, made_by, folder, CPU, batch_size, 2, progress=False)


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("samples.json", ".lock")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_files_hold_the_images_of_labels_and_seeds(generator, tokenizer, tmp_path):
    assert write(generator, tokenizer, tmp_path) == 10
    with np.load(tmp_path / "samples.npz") as arrays:
        assert sorted(arrays) == ["arr_0", "arr_1"]
        pixels, labels = arrays["arr_0"], arrays["arr_1"]
    assert (pixels.dtype, pixels.shape) == (np.uint8, (10, 8, 12, 3))
    assert np.bincount(labels).tolist() == [2] * 5
    assert labels.tolist() != sorted(labels)
    settings = generator.make_settings(guidance=2.0, top_k=[4, 0])
    indices = generator.generate(torch.from_numpy(labels), [image_seed(3, number) for number in range(10)], settings)
    expected = to_uint8(tokenizer.detokenize(indices)).permute(0, 2, 3, 1).numpy()
    # another batch size may round a pixel on the edge between two levels to the other side
    assert np.abs(pixels.astype(int) - expected).max() <= 1
    for number, image in enumerate(pixels):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "images" / f"{number:06d}.png")), image)


def test_a_record_says_what_made_them(generator, tokenizer, tmp_path):
    write(generator, tokenizer, tmp_path)
    record = json.loads((tmp_path / "samples.json").read_text())
    assert record["complete"] is True
    assert (record["seed"], record["num_images"], record["classes"]) == (3, 10, [0, 1, 2, 3, 4])
    assert record["generator_sha256"] == "a"
    assert record["sampling"]["kind"] == "Sampling"
    assert [group["guidance"] for group in record["sampling"]["groups"]] == [2.0, 2.0]
    assert [group["top_k"] for group in record["sampling"]["groups"]] == [4, 0]
    assert record["versions"]["torch"] in torch.__version__


def test_what_is_missing_is_made_again_to_the_same_bytes(generator, tokenizer, tmp_path):
    write(generator, tokenizer, tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    write(generator, tokenizer, tmp_path / "other")
    for name in ("images/000003.png", "images/000009.png", "samples.npz"):
        (tmp_path / "other" / name).unlink()
    (tmp_path / "other" / "images" / ".000003.png.123.partial").write_bytes(b"half a picture of a killed process")
    assert write(generator, tokenizer, tmp_path / "other") == 2
    assert contents(tmp_path / "other") == expected
    assert write(generator, tokenizer, tmp_path / "other") == 0


def test_a_subset_of_classes(generator, tokenizer, tmp_path):
    write(generator, tokenizer, tmp_path, Plan(6, (4, 1)))
    with np.load(tmp_path / "samples.npz") as arrays:
        assert sorted(arrays["arr_1"].tolist()) == [1, 1, 1, 4, 4, 4]


def test_the_published_number_is_balanced_and_every_group_of_5000_holds_most_classes():
    plan = Plan(50_000, tuple(range(1000)))
    labels = plan.labels().numpy()
    assert set(np.bincount(labels).tolist()) == {50}
    assert min(len(set(group)) for group in labels.reshape(10, 5000)) > 950
    assert not np.array_equal(labels, Plan(50_000, tuple(range(1000)), seed=1).labels().numpy())


def test_images_made_otherwise_are_not_mixed(generator, tokenizer, tmp_path):
    write(generator, tokenizer, tmp_path)
    with pytest.raises(ValueError, match=r"seed: 3 here, 4 requested.*another folder"):
        write(generator, tokenizer, tmp_path, Plan(10, (0, 1, 2, 3, 4), seed=4))
    with pytest.raises(ValueError, match="generator_sha256: a here, b requested"):
        write(generator, tokenizer, tmp_path, made_by={"generator_sha256": "b"})
    (tmp_path / "samples.json").write_text("{")
    with pytest.raises(ValueError, match=r"samples\.json is damaged"):
        write(generator, tokenizer, tmp_path)
    (tmp_path / "samples.json").unlink()
    with pytest.raises(ValueError, match=r"there is no samples\.json"):
        write(generator, tokenizer, tmp_path)


@pytest.mark.long
def test_two_runs_do_not_write_to_one_folder(generator, tokenizer, tmp_path):
    """Each would make all images, and the second deletes what the first is writing."""
    code = "import sys; from pathlib import Path; from open_magvit2.common.files import claim\n"
    code += "file = claim(Path(sys.argv[1]), ''); print('claimed', flush=True); sys.stdin.read()"
    with Popen([sys.executable, "-c", code, str(tmp_path)], stdin=PIPE, stdout=PIPE) as other:
        assert other.stdout.readline() == b"claimed\n"
        with pytest.raises(ValueError, match=rf"belongs to process {other.pid} .* which still runs: wait for it"):
            write(generator, tokenizer, tmp_path)
        other.stdin.close()
    assert write(generator, tokenizer, tmp_path) == 10


@pytest.mark.parametrize("damage", [0, 8, 60, "other"])
def test_a_damaged_picture_in_a_finished_folder_is_made_again(generator, tokenizer, tmp_path, caplog, damage):
    write(generator, tokenizer, tmp_path)
    expected = contents(tmp_path)
    picture = tmp_path / "images" / "000003.png"
    if damage == "other":
        Image.new("RGB", (30, 30)).save(picture)
    else:
        picture.write_bytes(picture.read_bytes()[:damage])
    assert write(generator, tokenizer, tmp_path) == 1
    assert "1 files are no whole images" in caplog.text
    assert "000003.png" in caplog.text
    assert contents(tmp_path) == expected
    caplog.clear()
    assert write(generator, tokenizer, tmp_path) == 0
    assert caplog.text == ""


@pytest.mark.parametrize("damage", ["cut off", "emptied", "other size", "other labels", "other file"])
def test_a_damaged_npz_file_is_written_again(generator, tokenizer, tmp_path, caplog, damage):
    write(generator, tokenizer, tmp_path)
    expected, file = contents(tmp_path), tmp_path / "samples.npz"
    with np.load(file) as arrays:
        pixels, labels = arrays["arr_0"], arrays["arr_1"]
    if damage == "cut off":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "emptied":
        file.write_bytes(b"")
    elif damage == "other size":
        np.savez(file, pixels[:, :4], labels)
    elif damage == "other labels":
        np.savez(file, pixels, labels[::-1])
    else:
        np.savez(file, labels=labels)
    assert write(generator, tokenizer, tmp_path) == 0
    assert "samples.npz is damaged: written again" in caplog.text
    assert contents(tmp_path) == expected


def test_a_picture_damaged_inside_is_made_again_before_it_is_joined(generator, tokenizer, tmp_path, caplog):
    write(generator, tokenizer, tmp_path)
    expected = contents(tmp_path)
    (tmp_path / "samples.npz").unlink()
    picture = tmp_path / "images" / "000003.png"
    content = picture.read_bytes()
    picture.write_bytes(content[:60] + bytes(len(content) - 72) + content[-12:])
    assert write(generator, tokenizer, tmp_path) == 1
    assert "1 files are no whole images" in caplog.text
    assert contents(tmp_path) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((7, (0, 1)), "7 images cannot hold 2 classes equally often"),
        ((4, (1, 1)), r"expected different classes, got \[1, 1\]"),
        ((0, (1,)), "num_images must be at least 1"),
        ((2, (1,), -1), "seed must be at least 0"),
    ],
)
def test_bad_plans_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Plan(*arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": (3, 2)}, "codebook of 32 codes, the tokenizer has 64"),
        ({"bits": (6,), "grid": (4,)}, r"the generator has a grid \(4,\)"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(tokenizer, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        write_samples(small(**changes), tokenizer, None, Plan(5, (0,)), {}, tmp_path, CPU, progress=False)
    assert not (tmp_path / "images").exists()


def test_sizes_of_images(tokenizer):
    assert image_size(small(bits=(6,), grid=(5, 7)), tokenizer) == (20, 28)


def test_a_published_file_read_as_another_model_does_not_continue_a_folder(shared, tmp_path):
    """The file says neither the grid nor the width of the heads."""
    flags = ["--generator", shared / "fixtures/published_ar_tiny.ckpt", "--num-images", "10", "--device", "cpu"]
    flags += ["--output", tmp_path / "out"]
    first = run_here(SCRIPT, *flags, "--grid", "4", "4", "--head-width", "32")
    assert first.returncode == 0, first.stderr
    for name in ("000003.png", "000007.png"):
        (tmp_path / "out/images" / name).unlink()
    for model, message in (
        (("--grid", "4", "4", "--head-width", "64"), "num_heads: 2 here, 1 requested"),
        (("--grid", "2", "2", "--head-width", "32"), "grid: [4, 4] here, [2, 2] requested"),
    ):
        other = run_here(SCRIPT, *flags, *model)
        assert other.returncode == 1
        assert message in other.stderr


@pytest.mark.long
def test_by_command_line_killed_and_resumed_by_two_processes(shared, tmp_path):
    file = shared / "fixtures/published_ar_tiny.ckpt"
    flags = ["--generator", file, "--grid", "4", "4", "--head-width", "32", "--num-images", "160", "--seed", "5"]
    flags += ["--batch-size", "4", "--guidance", "2", "3", "--device", "cpu", "--output"]
    run(sys.executable, SCRIPT, *flags, tmp_path / "whole")
    killed_folder = tmp_path / "killed"
    command = [str(word) for word in (sys.executable, SCRIPT, *flags, killed_folder)]
    killed = Popen(command, stdout=DEVNULL, stderr=DEVNULL)
    while killed.poll() is None and not (killed_folder / "images" / "000011.png").is_file():
        time.sleep(0.002)
    killed.kill()
    killed.wait()
    assert not (killed_folder / "samples.npz").exists()
    kept = sum(path.name[0] != "." for path in (killed_folder / "images").iterdir())
    assert 0 < kept < 160
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone")
    resumed = run(*torchrun, SCRIPT, *flags, killed_folder)
    assert f" {160 - kept} images made now, 160 there" in resumed.stdout
    assert resumed.stdout.count("images made now") == 1
    assert "image/s" in resumed.stderr
    assert contents(killed_folder) == contents(tmp_path / "whole")
    record = json.loads((killed_folder / "samples.json").read_text())
    assert record["processes"] == 2
    assert record["generator_sha256"] == record["tokenizer_sha256"] == sha256_of(file)
    assert record["tokenizer_weights"] == "raw"
