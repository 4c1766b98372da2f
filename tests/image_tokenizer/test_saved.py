"""Tokenizers as folders and on the Hub: saved, pushed, loaded again, and used by every command."""

import json
import sys

import pytest
import torch
import yaml
from commands import run, run_here
from huggingface_hub import constants
from PIL import Image
from small_checkpoint import save_small_checkpoint, save_small_generator

from open_magvit2 import load_tokenizer
from open_magvit2.common import checkpoints
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer
from open_magvit2.quantizers.residual import ResidualLookupFreeQuantizer

SIZES = {"channels": 8, "channel_multipliers": (1, 2), "num_residual_blocks": 1, "norm_groups": 4}


def trained(quantizer) -> ImageTokenizer:
    """A tokenizer whose normalisations have moved, as by training."""
    torch.manual_seed(0)
    tokenizer = ImageTokenizer.convolutional(quantizer, **SIZES)
    for parameter in tokenizer.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return tokenizer.eval()


@pytest.fixture
def checkpoint(tmp_path):
    return save_small_checkpoint(tmp_path / "last.ckpt", 32)


def same(first, second) -> bool:
    return not checkpoints.differences(dict(first.state_dict()), dict(second.state_dict()))


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_a_saved_checkpoint_comes_back_bit_for_bit(checkpoint, tmp_path, weights):
    tokenizer = load_tokenizer(checkpoint, weights)
    folder = tokenizer.save_pretrained(tmp_path / "saved")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    again = load_tokenizer(folder, weights)
    assert same(again, tokenizer)
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.equal(again.tokenize(image), tokenizer.tokenize(image))
    facts = again.checkpoint_facts
    assert (facts["weights"], facts["train_image_size"]) == (weights, 32)
    other = {"ema": "raw", "raw": "ema"}[weights]
    with pytest.raises(ValueError, match=f"holds {weights} weights only") as error:
        load_tokenizer(folder, other)
    assert f"weights={weights!r}" in str(error.value)


def test_a_tokenizer_of_other_parts_comes_back(tmp_path):
    tokenizer = trained(ResidualLookupFreeQuantizer(4, 3))
    again = load_tokenizer(tokenizer.save_pretrained(tmp_path / "saved"), "raw")
    assert same(again, tokenizer)
    assert again.token_shape((16, 16)) == (8, 8, 3)


def test_weights_that_two_layers_share_are_saved(tmp_path):
    tokenizer = trained(LookupFreeQuantizer(4))
    block = tokenizer.decoder.middle[0]
    block.norm1.weight = block.norm2.weight
    assert same(load_tokenizer(tokenizer.save_pretrained(tmp_path / "saved"), "raw"), tokenizer)


def test_a_folder_does_not_choose_which_code_runs(tmp_path):
    folder = trained(LookupFreeQuantizer(4)).save_pretrained(tmp_path / "saved")
    config = json.loads((folder / "config.json").read_text())
    config["open_magvit2_tokenizer"]["init_args"]["quantizer"]["class_path"] = "my_project.fsq.FiniteScalar"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="allowed_modules") as error:
        load_tokenizer(folder, "raw")
    assert "my_project.fsq.FiniteScalar" in str(error.value)


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"{", "config.json"), (b"[]", "open_magvit2_tokenizer"), (b'{"a": 1}', "open_magvit2_tokenizer")],
)
def test_a_damaged_or_foreign_config_is_refused(tmp_path, content, word):
    folder = trained(LookupFreeQuantizer(4)).save_pretrained(tmp_path / "saved")
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=word):
        load_tokenizer(folder, "raw")


def test_the_card_says_what_a_reader_needs(tmp_path):
    folder = trained(LookupFreeQuantizer(6)).save_pretrained(
        tmp_path / "saved", {"psnr_image": 21.53, "rfid": 1.5}, "apache-2.0", "org/name"
    )
    card = (folder / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "license": "apache-2.0",
        "library_name": "open_magvit2",
        "tags": ["image-tokenizer", "magvit2"],
    }
    assert 'load_tokenizer("org/name", weights="raw")' in text
    assert "| psnr_image | 21.53 |" in text
    assert "| codes | 64 |" in text
    assert "open_magvit2.quantizers.lookup_free.LookupFreeQuantizer" in text


def test_pushed_and_loaded_by_name_and_revision(hub, checkpoint):
    averaged, raw = load_tokenizer(checkpoint), load_tokenizer(checkpoint, "raw")
    url = averaged.push_to_hub("org/mine", {"rfid": 1.5}, "mit", message="The first")
    assert url.startswith(f"{hub.endpoint}/org/mine/commit/")
    raw.push_to_hub("org/mine", revision="dev")
    files = hub.commits["org/mine"][hub.refs["org/mine"]["main"]]
    assert set(files) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert b'load_tokenizer("org/mine")' in files["README.md"]
    assert same(load_tokenizer("org/mine"), averaged)
    assert same(load_tokenizer("org/mine@dev", "raw"), raw)
    commit = hub.refs["org/mine"]["main"]
    assert same(load_tokenizer(f"org/mine@{commit}"), averaged)


def test_a_refused_push_is_an_error_of_the_system(hub, checkpoint):
    with pytest.raises(OSError, match="401"):
        load_tokenizer(checkpoint).push_to_hub("org/mine", token="hf_wrong")


def test_a_push_without_a_network_is_one_too(hub, checkpoint, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(OSError, match=r"nothing was pushed to org/mine: .*refused"):
        load_tokenizer(checkpoint).push_to_hub("org/mine", token="hf_test")
    assert "org/mine" not in hub.commits


def test_short_names_are_files_of_the_hub(hub, shared):
    content = (shared / "fixtures" / "published_B_tiny.ckpt").read_bytes()
    hub.commit("TencentARC/Open-MAGVIT2", {"imagenet_128_B.ckpt": content})
    by_path = load_tokenizer(shared / "fixtures" / "published_B_tiny.ckpt")
    assert same(load_tokenizer("imagenet_128_B"), by_path)
    assert same(load_tokenizer("TencentARC/Open-MAGVIT2/imagenet_128_B.ckpt"), by_path)


def test_every_command_takes_a_name_or_a_folder(hub, checkpoint, repository, tmp_path):
    tokenizer = load_tokenizer(checkpoint)
    folder = tokenizer.save_pretrained(tmp_path / "saved")
    tokenizer.push_to_hub("org/mine")
    hub.commit("org/mine", {"generators/masked.ckpt": save_small_generator(tmp_path / "masked.ckpt").read_bytes()})
    hub.commit("org/mine", {"last.ckpt": checkpoint.read_bytes()})
    digest = checkpoints.digest(folder)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 36), (200, 30, 90)).save(tmp_path / "photos" / "red.png")
    scripts = repository / "scripts"
    for number, name in enumerate(["org/mine", folder]):
        made = tmp_path / f"made{number}"
        words = ["--checkpoint", name, "--images", tmp_path / "photos", "--image-size", 32]
        done = run_here(scripts / "evaluate.py", *words, "--metrics", "psnr", "--device", "cpu", "--output", made)
        assert done.returncode == 0, done.stderr
        model = json.loads((made / "results.json").read_text())["model"]
        assert (model["checkpoint_path"], model["checkpoint_sha256"]) == (str(name), digest)
        done = run_here(scripts / "tokenize_images.py", *words, "--device", "cpu", "--output", made / "tokens")
        assert done.returncode == 0, done.stderr
        done = run_here(
            *(scripts / "tokenize_images.py", "--checkpoint", name, "--tokens", made / "tokens"),
            *("--device", "cpu", "--output", made / "pictures"),
        )
        assert done.returncode == 0, done.stderr
        done = run_here(
            *(scripts / "reconstruct.py", "--checkpoint", name, "--device", "cpu", "--output", made / "pairs"),
            *("--image-size", 32, tmp_path / "photos"),
        )
        assert done.returncode == 0, done.stderr
        assert (made / "pairs" / "red.png").is_file()
    sampled = run_here(
        *(scripts / "sample.py", "--generator", "org/mine/generators/masked.ckpt", "--tokenizer", "org/mine"),
        *("--num-images", 5, "--device", "cpu", "--output", tmp_path / "samples"),
    )
    assert sampled.returncode == 0, sampled.stderr


def test_training_starts_from_a_name(hub, repository, tmp_path):
    torch.manual_seed(0)
    sizes = {"channels": 8, "channel_multipliers": [1, 2, 2], "num_residual_blocks": 1, "norm_groups": 8}
    ImageTokenizer.convolutional(LookupFreeQuantizer(8), **sizes).save_pretrained(tmp_path / "start")
    files = {path.name: path.read_bytes() for path in (tmp_path / "start").iterdir()}
    hub.commit("org/start", files)
    configs = repository / "configs" / "image_tokenizer"
    run(
        *(sys.executable, repository / "scripts" / "train.py", "fit", "--config", configs / "base.yaml"),
        *("--config", configs / "debug.yaml", "--init_from", "org/start@main", "--init_weights", "raw"),
        *("--trainer.max_steps", 1, "--trainer.logger.init_args.save_dir", tmp_path / "runs"),
    )
    assert "GET /org/start/resolve/main/config.json" in hub.requests
