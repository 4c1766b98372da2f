"""To add a source of data: a class with a length and `read`, or an iterable; for training, evaluation, tokenization."""

import json

import pytest
import torch
from as_a_user import PROJECT, User
from commands import ROOT
from my_project.stripes import Stripes
from small_checkpoint import save_small_checkpoint

from open_magvit2 import load_tokenizer
from open_magvit2.common.images import to_float, to_uint8
from open_magvit2.data.dataset import TransformedDataset
from open_magvit2.data.sources.token_shards import TokenShards
from open_magvit2.data.transforms import ResizeCenterCrop

CONFIGS = (ROOT / "configs/image_tokenizer/base.yaml", ROOT / "configs/image_tokenizer/debug.yaml")
KINDS = ("Stripes", "StripeStream")
NUMBER, SIZE = 5, 32


def named(kind: str) -> tuple[str, ...]:
    """As a command line names the source."""
    return "--source", f"my_project.stripes.{kind}", "--source-args", f"num_images={NUMBER}"


@pytest.fixture(scope="module")
def user(tmp_path_factory) -> User:
    return User(tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="module")
def checkpoint(user):
    return save_small_checkpoint(user.folder / "small.ckpt", SIZE)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """What a tokenizer sees of the source."""
    dataset = TransformedDataset(Stripes(NUMBER), ResizeCenterCrop(SIZE))
    return torch.stack([to_float(dataset[index]["image"]) for index in range(NUMBER)])


@pytest.mark.long
def test_training_on_a_stream_with_images_to_validate_on_and_resumed(user):
    configs = [word for config in (*CONFIGS, PROJECT / "sources.yaml") for word in ("--config", config)]
    for steps in ("2", "4"):
        flags = ("--trainer.max_steps", steps, "--trainer.val_check_interval", "2", "--ckpt_path", "last")
        result = user.run("train.py", "fit", *configs, *flags)
        assert f"validation at step {steps}" in result.stderr
    assert "continuing from" in result.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_tokenization(user, checkpoint, images, tmp_path, kind):
    common = ("--checkpoint", checkpoint, "--device", "cpu", "--batch-size", "1", "--num-workers", "0")
    user.run("tokenize_images.py", *common, *named(kind), "--image-size", SIZE, "--output", tmp_path)
    shards, tokenizer = TokenShards(tmp_path), load_tokenizer(checkpoint)
    assert shards.paths == [f"{kind}[{number}]" for number in range(NUMBER)]
    expected = torch.cat([tokenizer.tokenize(image[None]) for image in images])
    assert torch.equal(shards.read(range(NUMBER))[0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation(user, checkpoint, images, tmp_path, kind):
    common = ("--checkpoint", checkpoint, "--device", "cpu", "--check", "record", "--metrics", "psnr")
    user.run("evaluate.py", *common, *named(kind), "--image-size", SIZE, "--output", tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["num_images"] == NUMBER
    assert f"my_project.stripes.{kind} num_images={NUMBER}" in json.dumps(results["dataset"])
    reconstructions = load_tokenizer(checkpoint).reconstruct(images)[0]
    errors = (to_uint8(images).double() - to_uint8(reconstructions)).square().mean(dim=(1, 2, 3))
    expected = (10 * torch.log10(255**2 / errors)).mean().item()
    assert results["metrics"]["psnr_image"] == pytest.approx(expected, abs=1e-3)  # float32 may round a pixel otherwise
