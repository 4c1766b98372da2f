"""Where the tokens of a training come from: images and a frozen tokenizer, or shards; what does not fit is refused."""

import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_generator_training import data, module, trainer, write_shards

from open_magvit2 import load_tokenizer
from open_magvit2.common import checkpoints
from open_magvit2.common.files import sha256_of
from open_magvit2.common.images import to_float
from open_magvit2.data.loading import ImageDataModule
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.sources.synthetic import SyntheticImages
from open_magvit2.data.sources.token_shards import TokenShards
from open_magvit2.data.token_loading import TokenDataModule
from open_magvit2.evaluation.tokenizers import PretrainedTokenizer, which_weights
from open_magvit2.generators.checks import check_class_numbers, check_classes, check_source
from open_magvit2.generators.pretrained import MADE_BY_KEY
from open_magvit2.training.image_grid import ImageGrid

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from small_checkpoint import save_small_checkpoint

TEN = {"num_classes": 10}  # of the built-in images


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A random tokenizer with 64 codes and 4 x 4 tokens of 16 x 16 pixels."""
    return save_small_checkpoint(tmp_path_factory.mktemp("tokenizer") / "tokenizer.ckpt")


@pytest.fixture
def tokenizer(checkpoint) -> PretrainedTokenizer:
    return PretrainedTokenizer(str(checkpoint))


def image_data(size: int = 16) -> ImageDataModule:
    sources = SyntheticImages(16, 16), SyntheticImages(4, 16, split="validation")
    return ImageDataModule(*sources, image_size=size, global_batch_size=8, validation_batch_size=4, num_workers=0)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_images_are_tokenized_in_float32_and_the_tokenizer_is_left_alone(tmp_path, tokenizer, checkpoint, precision):
    training = module(sizes=TEN, tokenizer=tokenizer)
    seen = []
    sub_tokens = training.sub_tokens

    def spy(batch):
        found = sub_tokens(batch)
        seen.append((batch["image"].clone(), found))
        return found

    training.sub_tokens = spy
    run = trainer(tmp_path, precision=precision)
    run.fit(training, image_data())
    reference = load_tokenizer(checkpoint)
    assert len(seen) > 3
    for pixels, found in seen:
        expected = reference.tokenize(to_float(pixels)).flatten(1)
        assert torch.equal(training.generator.factorization.join(found), expected)
    assert not any(name.startswith("tokenizer") for name in training.state_dict())
    for name, value in reference.state_dict().items():
        assert torch.equal(tokenizer.model.state_dict()[name], value)
    run.save_checkpoint(path := tmp_path / "last.ckpt")
    made_by = checkpoints.read(path)[MADE_BY_KEY]
    assert made_by["path"] == str(checkpoint)
    assert (made_by["sha256"], made_by["weights"]) == (sha256_of(checkpoint), "ema")
    assert tuple(made_by["image_size"]) == (16, 16)


@pytest.mark.parametrize("kind", ["autoregressive", "masked"])
def test_samples_of_the_classes_go_to_tensorboard(tmp_path, tokenizer, kind):
    from pytorch_lightning.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    training = module(kind, TEN, tokenizer=tokenizer, pictured_classes=[0, 3, 9])
    trainer(tmp_path, logger=logger, callbacks=[ImageGrid(num_images=8)]).fit(training, image_data())
    events = EventAccumulator(logger.log_dir).Reload()
    (picture,) = events.Images("validation/samples_by_class")
    assert (picture.width, picture.height) == (3 * 18 + 2, 16 + 4)
    first, again = (training.eval().pictures(None, 2)["validation/samples_by_class"] for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (3, 20, 38)
    training.generator.norm.weight.data.fill_(torch.nan)
    with pytest.warns(UserWarning, match="no pictures at step .* not finite"):  # a training does not end of it
        assert training.pictures(None, 2) == {}


def test_shards_and_the_tokenizer_that_made_them_fit(tmp_path, tokenizer, checkpoint):
    for name in ("train", "validation"):
        write_shards(tmp_path / name, 35, checkpoint_sha256=sha256_of(checkpoint))
    trainer(tmp_path).fit(module(tokenizer=tokenizer), data(tmp_path))


def fit(tmp_path, training, source=None):
    trainer(tmp_path).fit(training, data(tmp_path) if source is None else source)


def test_shards_of_another_tokenizer_are_refused(tmp_path, tokenizer, checkpoint):
    mine = sha256_of(checkpoint)
    with pytest.raises(ValueError, match=rf"tokens in .*train: .*SHA-256 {'a' * 64}, ema weights.*SHA-256 {mine}"):
        fit(tmp_path, module(tokenizer=tokenizer))


def test_shards_of_the_other_weights_are_refused(tmp_path, checkpoint):
    for name in ("train", "validation"):
        write_shards(tmp_path / name, 35, checkpoint_sha256=sha256_of(checkpoint))
    with pytest.raises(ValueError, match=r", ema weights\) than .*, raw weights\)"):
        fit(tmp_path, module(tokenizer=PretrainedTokenizer(str(checkpoint), "raw")))


def test_shards_of_two_tokenizers_are_refused(tmp_path):
    write_shards(tmp_path / "train", 9)
    write_shards(tmp_path / "validation", 9, checkpoint_sha256="b" * 64)
    with pytest.raises(ValueError, match=f"different tokenizers: checkpoint_sha256 {'a' * 64} and {'b' * 64}"):
        TokenDataModule(str(tmp_path / "train"), str(tmp_path / "validation"), 4)


def test_other_tokens_under_the_same_names_are_other_data(tmp_path):
    first, same, other = (write_shards(tmp_path / name, 9, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    identities = [TokenShards(folder).identity() for folder in (first, same, other)]
    assert identities[0] == identities[1]
    assert {name for name in identities[0] if identities[0][name] != identities[2][name]} == {"tokens"}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"bits": (3, 4)}, r"has a codebook of 64 codes, the generator one of 128 \(bits \[3, 4\]\).* add up to 6"),
        ({"grid": (4, 8)}, r"gives \(4, 4\) tokens an image, the generator has a grid of \(4, 8\)"),
    ],
)
def test_a_tokenizer_and_tokens_that_do_not_fit_the_generator_are_refused(tmp_path, tokenizer, sizes, message):
    with pytest.raises(ValueError, match=f"the tokenizer in .*ckpt {message}"):
        fit(tmp_path, module(sizes={**TEN, **sizes}, tokenizer=tokenizer), image_data())
    with pytest.raises(ValueError, match=f"the tokens in .*train {message}"):
        fit(tmp_path, module(sizes=sizes))


def test_images_without_a_tokenizer_are_refused(tmp_path):
    with pytest.raises(ValueError, match="images and there is no tokenizer"):
        fit(tmp_path, module(sizes=TEN), image_data())


def test_classes_outside_the_table_are_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match=r"class [3-9] of the data .*: expected 0 to 2; .*num_classes"):
        fit(tmp_path, module(sizes={"num_classes": 3}, tokenizer=tokenizer), image_data())
    with pytest.raises(ValueError, match="class -1 of the data"):  # of a source without classes
        check_classes(torch.tensor([0, -1]), 3)


def test_a_run_is_not_continued_with_another_tokenizer(tmp_path, checkpoint):
    run = trainer(tmp_path)
    run.fit(module(sizes=TEN, tokenizer=PretrainedTokenizer(str(checkpoint))), image_data())
    run.save_checkpoint(path := tmp_path / "last.ckpt")
    other = module(sizes=TEN, tokenizer=PretrainedTokenizer(str(checkpoint), "raw"))
    with pytest.raises(ValueError, match=r"the run that is continued: .*ema weights\) than this one .*raw weights\)"):
        trainer(tmp_path, max_steps=5).fit(other, image_data(), ckpt_path=path)


def test_the_precision_in_a_checkpoint_is_that_of_the_training_tokens(tmp_path):
    write_shards(tmp_path / "train", 35)
    write_shards(tmp_path / "validation", 7, precision="bf16")
    assert check_source(module().generator, None, data(tmp_path))["precision"] == "fp32"


def class_folders(root: Path, names: str) -> ImageFolder:
    for name in names:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(root / name / "0.png")
    return ImageFolder(root)


@pytest.mark.parametrize("kind", ["images", "tokens"])
def test_validation_on_some_of_the_class_folders_is_refused(tmp_path, tokenizer, kind):
    if kind == "images":
        sources = class_folders(tmp_path / "train", "abcd"), class_folders(tmp_path / "validation", "bd")
        source = ImageDataModule(*sources, image_size=16, global_batch_size=4, num_workers=0)
    else:
        write_shards(tmp_path / "train", 35, classes=4, names="abcd")
        write_shards(tmp_path / "validation", 7, classes=2, names="bd")
        source = data(tmp_path)
    training = module(tokenizer=tokenizer if kind == "images" else None)
    with pytest.raises(ValueError, match=r"2 of the 2 class folders .* 'b' is class 0 in validation and class 1 in"):
        fit(tmp_path, training, source)


@pytest.mark.parametrize(
    ("train", "validation", "is_refused"),
    [
        ("abcd", "abcd", False),
        ("abcd", "abc", False),  # the same numbers
        ("abc", "abd", True),  # d would be c
        ("ab", "cd", True),
        ("ab", "abc", False),  # c is a class of its own, which the table may have
    ],
)
def test_class_folders_are_compared_by_name(tmp_path, train, validation, is_refused):
    folders = class_folders(tmp_path / "train", train), class_folders(tmp_path / "validation", validation)
    with pytest.raises(ValueError, match="class folders of validation") if is_refused else nullcontext():
        check_class_numbers(*folders)
    check_class_numbers(folders[0], SyntheticImages(4, 16))  # without names


def test_token_shards_name_classes_only_where_each_has_one_folder(tmp_path):
    named = write_shards(tmp_path / "named", 9, classes=3, names=("x", "y", "z"))
    assert TokenShards(named).class_numbers == {"x": 0, "y": 1, "z": 2}
    for name, inside in (("flat", None), ("mixed", ("x", "x", "z")), ("deeper", ("a/x", "a/y", "a/z"))):
        assert TokenShards(write_shards(tmp_path / name, 9, classes=3, names=inside)).class_numbers == {}


def test_which_weights_of_a_file_a_tokenizer_has(tmp_path, checkpoint):
    assert which_weights(load_tokenizer(checkpoint, "ema"), checkpoint) == ["ema"]
    assert which_weights(load_tokenizer(checkpoint, "raw"), checkpoint) == ["raw"]
    changed = load_tokenizer(checkpoint, "raw")
    next(changed.parameters()).add_(1e-3)
    assert which_weights(changed, checkpoint) == []


def test_which_weights_the_tokenizer_inside_a_published_generator_has(shared, tmp_path):
    """The tokenizer's file is made here, of these tensors: the published form has raw weights and averages."""
    generator_file = shared / "fixtures" / "published_ar_tiny.ckpt"
    inner = checkpoints.with_prefix(torch.load(generator_file, weights_only=True)["state_dict"], "first_stage_model.")
    tokenizer = load_tokenizer(generator_file, "raw")
    averages = {f"model_ema.{name.replace('.', '')}": value * 1.5 for name, value in inner.items()}
    torch.save({"state_dict": inner | averages}, tmp_path / "raw.ckpt")
    assert which_weights(tokenizer, tmp_path / "raw.ckpt") == ["raw"]
    averages = {f"model_ema.{name.replace('.', '')}": value for name, value in inner.items()}
    raw = {name: value * 1.5 for name, value in inner.items()}
    torch.save({"state_dict": raw | averages}, tmp_path / "ema.ckpt")
    assert which_weights(tokenizer, tmp_path / "ema.ckpt") == ["ema"]
    shutil.copyfile(generator_file, tmp_path / "same.ckpt")
    assert which_weights(tokenizer, tmp_path / "same.ckpt") == ["raw"]  # without averages
