"""Right names with the wrong content: wrapped modules, averages that were never filled, another architecture."""

import pytest
import torch
from small_checkpoint import save_small_checkpoint

from open_magvit2 import load_tokenizer
from open_magvit2.common.construction import describe
from open_magvit2.common.state_dicts import without_wrappers
from open_magvit2.image_tokenizer.decoder import Decoder
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.image_tokenizer.pretrained import TOKENIZER_KEY
from open_magvit2.image_tokenizer.published import published_name
from open_magvit2.image_tokenizer.weight_checks import check_averages
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer

NORM = "tokenizer.encoder.norm_out.weight"


def changed(path, change):
    """Apply a change to the content of a checkpoint file."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


def renamed(content, rename):
    for key in ("state_dict", "current_model_state"):
        content[key] = {rename(name): value for name, value in content[key].items()}


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: "module." + name,
        lambda name: "_orig_mod." + name,
        lambda name: name.replace("tokenizer.", "tokenizer._orig_mod.module."),
        lambda name: name.replace("encoder.", "encoder.module."),
    ],
    ids=["DDP", "compiled", "both inside", "a part"],
)
def test_wrapped_modules_load_as_what_they_wrap(tmp_path, rename, caplog):
    path = save_small_checkpoint(tmp_path / "small.ckpt")
    plain = load_tokenizer(path).state_dict()
    wrapped = load_tokenizer(changed(path, lambda content: renamed(content, rename)))
    assert all(torch.equal(value, plain[name]) for name, value in wrapped.state_dict().items())
    assert any("was removed from" in warning for warning in wrapped.checkpoint_facts["warnings"])
    assert "was removed from" in caplog.text


class Wrapping(Decoder):
    """A user's, which calls a part of it as wrappers do."""

    def __init__(self, latent_channels: int = 6) -> None:
        super().__init__(latent_channels, channels=8, channel_multipliers=(1, 1, 1), norm_groups=4)
        self.module = torch.nn.Conv2d(3, 3, 1)


def test_a_part_of_a_user_may_have_the_name_of_a_wrapper(tmp_path):
    encoder = load_tokenizer(save_small_checkpoint(tmp_path / "small.ckpt")).encoder
    tokenizer = ImageTokenizer(encoder, Wrapping(), LookupFreeQuantizer(6))
    state = {f"tokenizer.{name}": value for name, value in tokenizer.state_dict().items()}
    torch.save({TOKENIZER_KEY: describe(tokenizer), "state_dict": state}, tmp_path / "own.ckpt")
    loaded = load_tokenizer(tmp_path / "own.ckpt", "raw", allowed_modules=[__name__])
    assert torch.equal(loaded.decoder.module.weight, tokenizer.decoder.module.weight)
    assert not any("wrapped" in warning for warning in loaded.checkpoint_facts["warnings"])


def test_only_whole_parts_of_a_name_are_wrappers():
    names = ["submodule.a", "a.module_b", "module", "a.module"]
    assert without_wrappers(dict.fromkeys(names))[0].keys() == set(names)


def in_published_form(tokenizer, averages):
    raw = {published_name(name): value for name, value in tokenizer.state_dict().items()}
    return {**raw, **{"model_ema." + published_name(n).replace(".", ""): v for n, v in averages.items()}}


def trained(tokenizer):
    """Weights as after a step of training: every one has moved."""
    return {name: value + 0.01 for name, value in tokenizer.state_dict().items()}


def test_averages_that_were_never_filled_are_refused(tmp_path):
    """The reference fills them with a fresh initialisation where a file has none, and evaluates that."""
    path = tmp_path / "published.ckpt"
    initial = ImageTokenizer.convolutional(LookupFreeQuantizer(6), 32, (1, 2), num_residual_blocks=1)
    fresh = ImageTokenizer.convolutional(LookupFreeQuantizer(6), 32, (1, 2), num_residual_blocks=1).state_dict()
    initial.load_state_dict(trained(initial))
    torch.save({"state_dict": in_published_form(initial, fresh)}, path)
    with pytest.raises(ValueError, match=r"published.ckpt were never filled.*weights='raw'"):
        load_tokenizer(path)
    assert load_tokenizer(path, "raw").checkpoint_facts["warnings"] == []
    state = in_published_form(initial, trained(initial)) | {"model_ema.num_updates": torch.tensor(0)}
    torch.save({"state_dict": state}, path)
    with pytest.raises(ValueError, match="never filled"):
        load_tokenizer(path)


def test_the_same_in_our_own_form(tmp_path):
    path = save_small_checkpoint(tmp_path / "small.ckpt")
    assert load_tokenizer(path).checkpoint_facts["warnings"] == [
        "untrained weights: every normalisation is as it was initialised"
    ]

    def train_raw_alone(content):
        content["current_model_state"] = {name: v + 0.01 for name, v in content["current_model_state"].items()}

    changed(path, train_raw_alone)
    with pytest.raises(ValueError, match="never filled"):
        load_tokenizer(path)
    changed(path, lambda content: content.update(state_dict=content["current_model_state"]))
    assert "equal the raw ones" in load_tokenizer(path).checkpoint_facts["warnings"][0]


def test_averages_of_a_part_are_compared_where_both_are():
    value = {"a.weight": torch.full((3,), 0.9)}
    assert check_averages(value, {}, None, "x") == check_averages(value, value, 5, "x")
    assert check_averages(value, {"a.weight": torch.full((3,), 0.8)}, 5, "x") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_residual_blocks": 2}, "num_residual_blocks 2, its tensors 1"),
        ({"channels": 16}, "channels 16, its tensors 8"),
        ({"channel_multipliers": [1, 1]}, r"channel_multipliers \[1, 1\], its tensors \[1, 1, 1\]"),
        ({"adaptive_normalization": True}, "adaptive_normalization True, its tensors False"),
        ({"latent_channels": 9}, "latent_channels 9, its tensors 6"),
    ],
)
def test_another_model_size_is_named(tmp_path, change, message):
    path = save_small_checkpoint(tmp_path / "small.ckpt")

    def claim(content):
        parts = content[TOKENIZER_KEY]["init_args"]
        for name, value in change.items():
            for part in ("encoder", "decoder"):
                if name in parts[part]["init_args"]:
                    parts[part]["init_args"][name] = value
        if "latent_channels" in change:
            parts["quantizer"]["init_args"]["num_bits"] = change["latent_channels"]

    with pytest.raises(ValueError, match=rf"does not fit the model[\s\S]*The file's description says .*{message}"):
        load_tokenizer(changed(path, claim))


def test_facts_of_the_file(tmp_path):
    path = save_small_checkpoint(tmp_path / "small.ckpt", image_size=48)
    beside = {f"{part}.{n}": torch.zeros(1) for part in ("discriminator", "teacher") for n in "ab"}
    changed(path, lambda content: content.update(global_step=7, state_dict=content["state_dict"] | beside))
    facts = load_tokenizer(path).checkpoint_facts
    assert facts["train_image_size"] == 48
    assert facts["global_step"] == 7
    assert facts["checkpoint_format"] == "open_magvit2"
    assert facts["ignored_tensors"] == {"discriminator": 2, "teacher": 2}


@pytest.mark.parametrize(("levels", "size"), [(4, 128), (5, 256), (3, None)])
def test_published_files_are_known_by_their_levels(tmp_path, levels, size):
    tokenizer = ImageTokenizer.convolutional(LookupFreeQuantizer(6), 32, (1,) * levels, num_residual_blocks=1)
    path = tmp_path / "published.ckpt"
    state = in_published_form(tokenizer, trained(tokenizer)) | {"loss.discriminator.main.0.bias": torch.zeros(1)}
    torch.save({"state_dict": state}, path)
    facts = load_tokenizer(path).checkpoint_facts
    assert facts["train_image_size"] == size
    assert facts["checkpoint_format"] == "published"
    assert facts["ignored_tensors"]["loss"] == 1
