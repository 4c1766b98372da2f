"""Tokens in files: round trip, resumption to the same bytes, and every way a folder can be wrong."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from subprocess import DEVNULL, Popen

import numpy as np
import pytest
import torch
from commands import ROOT, run
from PIL import Image
from small_checkpoint import save_small_checkpoint

import open_magvit2
from open_magvit2.common.files import sha256_of
from open_magvit2.common.images import to_float, to_uint8
from open_magvit2.data.dataset import TransformedDataset
from open_magvit2.data.decoding import MAX_PIXELS
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.sources.token_shards import TokenShards
from open_magvit2.data.transforms import ResizeCenterCrop, TenCrop
from open_magvit2.protocols import SizeRule
from open_magvit2.tokens import command_line, detokenizing
from open_magvit2.tokens.detokenizing import detokenize
from open_magvit2.tokens.writing import make_index, tokenize

CPU = torch.device("cpu")
SCRIPT = ROOT / "scripts" / "tokenize_images.py"
SIZE = 32


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_small_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small.ckpt")


@pytest.fixture(scope="module")
def tokenizer(checkpoint):
    return open_magvit2.load_tokenizer(checkpoint)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eleven pictures in two class folders."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for number in range(11):
        path = root / ("a" if number < 6 else "b b") / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        coarse = generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((40 + number, 36), Image.Resampling.BICUBIC).save(path)
    return root


@pytest.fixture
def write(tokenizer, checkpoint, photos):
    """Tokenize into a folder, four images a shard, three a batch."""
    images = ImageFolder(photos)
    dataset = TransformedDataset(images, ResizeCenterCrop(SIZE))

    def write_into(folder: Path, dataset=dataset, **changes) -> int:
        paths = images.relative_paths()
        index = make_index(
            tokenizer, paths, **{"image_size": SIZE, "checkpoint": checkpoint, "shard_size": 4} | changes
        )
        return tokenize(tokenizer, dataset, paths, index, folder, CPU, batch_size=3, progress=False)

    write_into.dataset = dataset
    return write_into


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_tokens_and_images_are_those_of_reconstruct(write, tokenizer, photos, tmp_path):
    assert write(tmp_path / "tokens") == 11
    shards = TokenShards(tmp_path / "tokens")
    assert shards.paths == [f"a/{n:02d}.png" for n in range(6)] + [f"b b/{n:02d}.png" for n in range(6, 11)]
    assert detokenize(tokenizer, shards, tmp_path / "out", CPU, batch_size=4, progress=False) == 11
    for position, path in enumerate(shards.paths):
        image = to_float(write.dataset[position]["image"])[None]
        reconstruction, indices = tokenizer.reconstruct(image)
        assert torch.equal(shards[position]["tokens"], indices[0])
        assert shards[position]["label"] == (0 if position < 6 else 1)
        pixels = torch.from_numpy(np.array(Image.open(tmp_path / "out" / f"{path}.png"))).permute(2, 0, 1)
        # another batch size may round a pixel on the edge between two levels to the other side
        assert (pixels.int() - to_uint8(reconstruction)[0].int()).abs().max() <= 1


def test_what_was_there_is_kept_and_what_was_cut_off_is_made_again_to_the_same_bytes(write, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    write(whole)

    class Fails:
        """The dataset, until the disk fails."""

        def __len__(self):
            return len(write.dataset)

        def __getitem__(self, position):
            if position == 6:
                raise OSError("disk gone")
            return write.dataset[position]

    with pytest.raises(OSError, match="disk gone"):
        write(resumed, dataset=Fails())
    assert sorted(contents(resumed)) == ["index.json", "labels-00000.npy", "paths.txt", "tokens-00000.npy"]
    with pytest.raises(ValueError, match="not complete: run the same command again"):
        TokenShards(resumed)
    (resumed / ".tokens-00001.npy.123.partial").write_bytes(b"half a shard of a process that was killed")
    assert write(resumed) == 7
    assert contents(resumed) == contents(whole)
    assert write(resumed) == 0
    assert contents(resumed) == contents(whole)


def test_a_folder_into_which_another_process_writes_is_refused(write, tmp_path):
    code = (
        f"from pathlib import Path; from open_magvit2.common.files import claim; c = claim(Path({str(tmp_path)!r}), '')"
    )
    waiting = [sys.executable, "-c", f"{code}; print('claimed', flush=True); input()"]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "claimed\n"
        with pytest.raises(ValueError, match=rf"belongs to process {other.pid} on .*wait for it or end it"):
            write(tmp_path)
        other.communicate("\n")
    assert write(tmp_path) == 11


def test_tokens_made_otherwise_are_not_mixed(write, tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match=r"precision: fp32 here, bf16 requested.*another folder"):
        write(tmp_path, precision="bf16")
    with pytest.raises(ValueError, match=r"shard_size: 4 here, 5 requested"):
        write(tmp_path, shard_size=5)
    with pytest.raises(ValueError, match="multiples of 4 x 4, got 30 x 30"):
        write(tmp_path, image_size=30)


def swap(first: Path, second: Path) -> None:
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])


def edit(folder: Path, **changes) -> None:
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(index | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "tokens-00001.npy").unlink(), "tokens-00001.npy is missing"),
        (lambda f: (f / "tokens-00001.npy").write_bytes(b"\x93NUMPY"), "tokens-00001.npy is damaged"),
        (lambda f: np.save(f / "tokens-00002.npy", np.zeros((3, 8, 7), np.int32)), r"holds int32 \(3, 8, 7\)"),
        (lambda f: np.save(f / "tokens-00002.npy", np.zeros((3, 8, 8), np.int64)), r"holds int64"),
        (lambda f: np.save(f / "tokens-00002.npy", np.zeros((3, 8, 8), np.int32)), "its SHA-256 is"),
        (lambda f: (f / "paths.txt").write_text("a/00.png\n"), "paths.txt with 1 paths is not the list of 11"),
        (lambda f: (f / "index.json").write_text("{"), "no index of tokens"),
        (lambda f: (f / "index.json").write_text('{"version": 3}'), "version 3, expected 1 or 2"),
        (lambda f: swap(f / "tokens-00000.npy", f / "tokens-00001.npy"), "tokens-0000[01].npy is damaged: its SHA-256"),
        (lambda f: edit(f, num_images=10), "with 11 paths is not the list of 10"),
        (lambda f: edit(f, num_images=10**13), "num_images|expected at most"),
        (lambda f: edit(f, shard_size=0), "shard_size must be at least 1, got 0"),
        (lambda f: edit(f, shard_size=-5), "shard_size must be at least 1, got -5"),
        (lambda f: edit(f, shard_size=3), "6 checksums for 8 files"),
        (lambda f: edit(f, num_images=10**12, shard_size=1), "6 checksums for 2000000000000 files"),
        (lambda f: edit(f, shard_size=3.5), "shard_size must be an integer, got 3.5"),
        (lambda f: edit(f, codebook_size=10**30), "stored as int32"),
        (lambda f: edit(f, weights="mean"), "weights must be one of ema, raw, got 'mean'"),
        (lambda f: edit(f, image_size=[32]), r"image_size must be \(H, W\)"),
        (lambda f: edit(f, modality=7), "modality must be one of image, video, got 7"),
        (lambda f: edit(f, has_labels="no"), "has_labels must be one of True, False, got 'no'"),
        (lambda f: (f / "index.json").write_text("[" * 100_000), "no index of tokens"),
        (lambda f: ((f / "paths.txt").unlink(), os.mkfifo(f / "paths.txt")), "not a regular file"),
        (lambda f: edit(f, token_shape=[8, 9]), r"expected int32 \(4, 8, 9\)"),
        (lambda f: (f / "index.json").unlink(), "there is no index.json"),
    ],
)
def test_a_damaged_folder_is_refused_by_what_is_wrong(write, tmp_path, damage, message):
    write(tmp_path)
    damage(tmp_path)
    with pytest.raises((ValueError, OSError), match=message):
        TokenShards(tmp_path).verify()


def test_tokens_outside_the_codebook_are_found_when_they_are_read(write, tmp_path):
    write(tmp_path)
    tokens = np.load(tmp_path / "tokens-00002.npy")
    tokens[1, 0, 0] = 64
    np.save(tmp_path / "tokens-00002.npy", tokens)
    checksums = json.loads((tmp_path / "index.json").read_text())["shards"]
    edit(tmp_path, shards=checksums | {"tokens-00002.npy": sha256_of(tmp_path / "tokens-00002.npy")})
    shards = TokenShards(tmp_path)
    assert shards[8]["tokens"].max() < 64
    with pytest.raises(ValueError, match=r"expected \[0, 64\); the shard is damaged"):
        shards[9]
    with pytest.raises(IndexError):
        shards[11]


def test_a_run_on_a_damaged_folder_does_not_record_the_damage_and_makes_lost_files_again(write, tmp_path):
    write(tmp_path)
    whole = contents(tmp_path)
    (tmp_path / "labels-00001.npy").unlink()
    assert write(tmp_path) == 4
    assert contents(tmp_path) == whole
    swap(tmp_path / "tokens-00000.npy", tmp_path / "tokens-00001.npy")
    with pytest.raises(ValueError, match=r"tokens-0000[01].npy is damaged: delete it and run the same command again"):
        write(tmp_path)


def test_a_folder_of_version_1_opens(write, tmp_path):
    write(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    for name in ("token_shape", "views", "modality", "has_labels"):
        index.pop(name)
    shards = {name: value for name, value in index["shards"].items() if name.startswith("tokens")}
    changes = {"version": 1, "grid": [8, 8], "image_size": 32, "weights": "averaged", "shards": shards}
    (tmp_path / "index.json").write_text(json.dumps(index | changes))
    old = TokenShards(tmp_path)
    assert old[10]["label"] == -1
    assert old[10]["tokens"].shape == (8, 8)
    assert (old.index.weights, old.index.image_size) == ("ema", (32, 32))


class OtherTokens:
    """A tokenizer whose tokens are no square grid."""

    codebook_size, modality, size_rule = 256, "image", SizeRule((4, 4))

    def __init__(self, kind):
        self.kind = kind

    def token_shape(self, size):
        grid = (size[0] // 4, size[1] // 4)
        return {"1-D": (5,), "levels": (*grid, 3), "rectangle": grid}[self.kind]

    def tokenize(self, image):
        coarse = torch.nn.functional.avg_pool2d(image.mean(dim=1), 4)
        grid = ((coarse + 1) * 127).to(torch.int64).clamp(0, 255)
        return {"1-D": grid.flatten(1)[:, :5], "levels": torch.stack([grid] * 3, dim=-1), "rectangle": grid}[self.kind]

    def detokenize(self, indices):
        return torch.zeros(len(indices), 3, 32, 48) + indices.flatten(1).float().mean(dim=1)[:, None, None, None] / 255


@pytest.mark.parametrize("kind", ["1-D", "levels", "rectangle"])
def test_any_token_shape_and_several_views(photos, checkpoint, tmp_path, kind):
    tokenizer, images, size = OtherTokens(kind), ImageFolder(photos), (32, 48)
    dataset, paths = TransformedDataset(images, TenCrop(size)), images.relative_paths()
    index = make_index(tokenizer, paths, size, checkpoint, shard_size=25, views=10)
    assert tokenize(tokenizer, dataset, paths, index, tmp_path / "tokens", CPU, batch_size=8, progress=False) == 110
    shards = TokenShards(tmp_path / "tokens")
    assert len(shards) == 110
    for item in (0, 9, 37, 109):
        expected = tokenizer.tokenize(to_float(dataset[item]["image"])[None])[0]
        assert torch.equal(shards[item]["tokens"], expected)
        assert shards[item]["label"] == dataset[item]["label"]
        assert shards[item]["path"] == paths[item // 10]
    assert detokenize(tokenizer, shards, tmp_path / "out", CPU, progress=False) == 110
    assert (tmp_path / "out" / f"{paths[0]}.9.png").is_file()
    with pytest.raises(ValueError, match=r"tokens of shape .* a tokenizer of \(8, 12, 3\)|tokens of shape .*\(5,\)"):
        detokenize(OtherTokens("levels" if kind != "levels" else "1-D"), shards, tmp_path / "x", CPU, progress=False)


def test_any_name_goes_through_paths_and_pictures(tokenizer, checkpoint, tmp_path):
    names = ["a\nb\t.png", "\\n.png", os.fsdecode(b"\xff" * 246 + b".png")]
    for number, name in enumerate(names):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (SIZE, SIZE), (number, 0, 0)).save(tmp_path / "photos" / name)
    images = ImageFolder(tmp_path / "photos")
    index = make_index(tokenizer, images.relative_paths(), SIZE, checkpoint)
    dataset = TransformedDataset(images, ResizeCenterCrop(SIZE))
    tokenize(tokenizer, dataset, images.relative_paths(), index, tmp_path / "tokens", CPU, progress=False)
    shards = TokenShards(tmp_path / "tokens")
    assert set(shards.paths) == set(names)
    assert detokenize(tokenizer, shards, tmp_path / "out", CPU, progress=False) == 3
    assert set(os.listdir(tmp_path / "out")) == {f"{name}.png" for name in names} | {"detokenized.json"}
    views = make_index(tokenizer, images.relative_paths(), SIZE, checkpoint, views=10)
    dataset = TransformedDataset(images, TenCrop(SIZE))
    tokenize(tokenizer, dataset, images.relative_paths(), views, tmp_path / "views", CPU, progress=False)
    shards = TokenShards(tmp_path / "views")
    assert detokenize(tokenizer, shards, tmp_path / "crops", CPU, progress=False) == 30
    assert len(os.listdir(tmp_path / "crops")) == 30 + 1  # also of the name that is too long with a number after it
    assert detokenize(tokenizer, shards, tmp_path / "crops", CPU, progress=False) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found + 10_000, "gives indices from 1.* expected 0 to"),
        (lambda found: found - 1000, "gives indices from -.* expected 0 to"),
        (lambda found: found[:1], r"gives indices \(1, .*, expected \("),
        (lambda found: found + 0.5, "gives indices of torch.float32, expected int64"),
    ],
)
def test_a_tokenizer_s_wrong_indices_are_not_written(write, tokenizer, tmp_path, monkeypatch, change, message):
    right = tokenizer.tokenize
    monkeypatch.setattr(tokenizer, "tokenize", lambda image: change(right(image)))
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "tokens")
    assert not list((tmp_path / "tokens").glob("tokens_*"))


@pytest.mark.parametrize("name", ["batch_size", "num_workers"])
def test_numbers_out_of_range_are_refused_by_name(write, tokenizer, tmp_path, name):
    write(tmp_path / "tokens")
    shards, wrong = TokenShards(tmp_path / "tokens"), {name: -1}
    with pytest.raises(ValueError, match=f"{name} must be at least ., got -1"):
        detokenize(tokenizer, shards, tmp_path / "out", CPU, **wrong)
    with pytest.raises(ValueError, match=f"{name} must be at least ., got -1"):
        tokenize(tokenizer, write.dataset, shards.paths, shards.index, tmp_path / "again", CPU, **wrong)


def test_paths_stay_in_the_folder(write, tokenizer, tmp_path):
    write(tmp_path / "tokens")
    shards = TokenShards(tmp_path / "tokens")
    shards.paths[3] = "../outside"
    with pytest.raises(ValueError, match="1 paths lead out of the folder"):
        detokenize(tokenizer, shards, tmp_path / "out", CPU, progress=False)


def pictures(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "detokenized.json")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("num_workers", [0, 3])
def test_pictures_written_by_threads_cut_off_and_continued_are_the_same_files(
    write, tokenizer, tmp_path, num_workers, monkeypatch
):
    write(tmp_path / "tokens")
    shards, whole, resumed = TokenShards(tmp_path / "tokens"), tmp_path / "whole", tmp_path / "resumed"
    # one at a time, since other batches may round a pixel to the other side
    common = {"device": CPU, "batch_size": 1, "progress": False}
    assert detokenize(tokenizer, shards, whole, **common) == 11
    assert sorted(pictures(whole)) == sorted(f"{path}.png" for path in shards.paths)

    class Fails:
        """The tokenizer, until the device fails."""

        codebook_size, token_shape, calls = tokenizer.codebook_size, tokenizer.token_shape, 0

        def detokenize(self, tokens):
            self.calls += 1
            if self.calls == 8:
                raise RuntimeError("device gone")
            return tokenizer.detokenize(tokens)

    writers, write_one = set(), detokenizing._write
    monkeypatch.setattr(
        detokenizing, "_write", lambda *what: (writers.add(threading.current_thread()), write_one(*what))
    )
    with pytest.raises(RuntimeError, match="device gone"):
        detokenize(Fails(), shards, resumed, num_workers=num_workers, **common)
    assert (threading.main_thread() in writers) == (num_workers == 0)
    there = pictures(resumed)
    assert len(there) >= 4  # of the seven decoded, those that were not still waiting
    assert there.items() <= pictures(whole).items()
    assert detokenize(tokenizer, shards, resumed, num_workers=num_workers, **common) == 11 - len(there)
    assert pictures(resumed) == pictures(whole)


def test_an_image_that_a_list_names_twice_is_written_once(write, tokenizer, tmp_path):
    write(tmp_path / "tokens")
    shards = TokenShards(tmp_path / "tokens")
    shards.paths[1:4] = [shards.paths[0]] * 3
    assert detokenize(tokenizer, shards, tmp_path / "out", CPU, num_workers=4, progress=False) == 8
    assert sorted(pictures(tmp_path / "out")) == sorted(f"{path}.png" for path in set(shards.paths))
    with pytest.raises(ValueError, match="num_workers must be at least 0, got -1"):
        detokenize(tokenizer, shards, tmp_path / "out", CPU, num_workers=-1, progress=False)


def test_pictures_of_other_tokens_or_settings_are_not_kept_as_these(write, tokenizer, tmp_path):
    write(tmp_path / "tokens")
    write(tmp_path / "same")
    write(tmp_path / "raw", weights="raw")
    write(
        tmp_path / "other",
        dataset=TransformedDataset(
            write.dataset.dataset, lambda image, _: torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)
        ),
    )

    def back(name, **options):
        return detokenize(tokenizer, TokenShards(tmp_path / name), tmp_path / "out", CPU, progress=False, **options)

    assert back("tokens") == 11
    assert back("same") == 0
    for name, message in (
        ("raw", "weights: ema here, raw requested"),
        ("other", "tokens_sha256: .* here, .* requested"),
    ):
        with pytest.raises(ValueError, match=f"holds pictures made otherwise .*{message}.*another folder"):
            back(name)
    with pytest.raises(ValueError, match="precision: fp32 here, bf16 requested"):
        back("tokens", precision="bf16")
    (tmp_path / "out" / "detokenized.json").write_text("{}")
    with pytest.raises(ValueError, match=r"detokenized\.json is damaged"):
        back("tokens")
    (tmp_path / "out" / "detokenized.json").unlink()
    with pytest.raises(ValueError, match=r"00\.png\.png is there and no detokenized\.json says"):
        back("tokens")


@pytest.mark.parametrize("num_workers", [0, 3])
def test_a_picture_that_cannot_be_written_is_named(write, tokenizer, tmp_path, num_workers):
    write(tmp_path / "tokens")
    (tmp_path / "out" / "b b").mkdir(parents=True)
    (tmp_path / "out" / "b b" / "07.png.png").mkdir()  # a folder where a picture should be
    with pytest.raises(OSError, match=r"cannot write .*b b/07\.png\.png: .*run the same command again"):
        detokenize(
            tokenizer, TokenShards(tmp_path / "tokens"), tmp_path / "out", CPU, num_workers=num_workers, progress=False
        )


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("--tokens", ("--image-size", "256"), "--image-size is for --images and --source, got --tokens"),
        ("--tokens", ("--ten-crops",), "--ten-crops is for"),
        ("--tokens", ("--file-list", "list.txt"), "--file-list is for --images, got --tokens"),
        ("--tokens", ("--exclude", "list.txt"), "--exclude is for"),
        ("--tokens", ("--max-pixels", "0"), "--max-pixels is for"),
        ("--tokens", ("--shard-size", "10000"), "--shard-size is for"),
        ("--tokens", ("--source-args", "a=1"), "--source-args is for --source, got --tokens"),
        ("--source", ("--image-size", "32", "--file-list", "list.txt"), "--file-list is for --images, got --source"),
        ("--images", ("--image-size", "32", "--source-args", "a=1"), "--source-args is for --source, got --images"),
        ("--images", (), "need --image-size"),
    ],
)
def test_options_of_another_source_or_direction_are_refused_by_name(capsys, given, options, message):
    with pytest.raises(SystemExit) as ended:
        command_line.parse(None, ["--checkpoint", "x.ckpt", "--output", "out", given, "there", *options])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_options_that_are_not_named_have_their_defaults():
    args = command_line.parse(None, ["--checkpoint", "x", "--output", "out", "--images", "there", "--image-size", "8"])
    assert (args.shard_size, args.max_pixels) == (10_000, MAX_PIXELS)


@pytest.mark.long
def test_by_command_line_killed_resumed_with_two_processes_and_back(write, tokenizer, checkpoint, photos, tmp_path):
    reference = tmp_path / "reference"
    write(reference)
    flags = ["--checkpoint", checkpoint, "--images", photos, "--image-size", SIZE, "--device", "cpu"]
    flags += ["--shard-size", "4", "--batch-size", "3", "--num-workers", "0", "--output", tmp_path / "tokens"]
    command = [str(word) for word in (sys.executable, SCRIPT, *flags)]
    killed = Popen(command, stdout=DEVNULL, stderr=DEVNULL)
    while killed.poll() is None and not (tmp_path / "tokens" / "tokens-00000.npy").is_file():
        time.sleep(0.005)
    killed.kill()
    killed.wait()
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone")
    run(*torchrun, SCRIPT, *flags)
    assert contents(tmp_path / "tokens") == contents(reference)
    flags = ["--checkpoint", checkpoint, "--tokens", tmp_path / "tokens", "--output", tmp_path / "pictures"]
    flags += ["--precision", "bf16", "--batch-size", "1"]
    killed = Popen([str(word) for word in (sys.executable, SCRIPT, *flags)], stdout=DEVNULL, stderr=DEVNULL)
    while killed.poll() is None and not (tmp_path / "pictures" / "a" / "00.png.png").is_file():
        time.sleep(0.002)
    killed.kill()
    killed.wait()
    kept = {name for name in pictures(tmp_path / "pictures") if Path(name).name[0] != "."}
    back = run(sys.executable, SCRIPT, *flags)
    assert f" {11 - len(kept)} images written now" in back.stdout
    shards = TokenShards(tmp_path / "tokens")
    detokenize(tokenizer, shards, tmp_path / "expected", CPU, batch_size=1, precision="bf16", progress=False)
    expected = pictures(tmp_path / "expected")
    assert {name: pictures(tmp_path / "pictures")[name] for name in expected} == expected
    other = save_small_checkpoint(tmp_path / "other.ckpt")
    content = torch.load(other, weights_only=True)
    content["state_dict"]["tokenizer.decoder.conv_in.bias"] += 1
    torch.save(content, other)
    refused = run(
        *(sys.executable, SCRIPT, "--checkpoint", other, "--tokens", tmp_path / "tokens"),
        *("--output", tmp_path / "pictures"),
        check=False,
    )
    assert refused.returncode != 0
    assert "were made by the ema weights of a checkpoint of SHA-256" in refused.stderr
    index = json.loads((tmp_path / "tokens" / "index.json").read_text())
    assert index["complete"]
    assert index["token_shape"] == [8, 8]
