"""Checkpoints as users have them: other containers, prefixes, types and objects are recognised or refused by name."""

import argparse
import datetime
import fractions
from collections import defaultdict

import pytest
import safetensors.torch
import torch
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from test_pretrained import tiny_state

from open_magvit2 import load_tokenizer
from open_magvit2.common import checkpoints
from open_magvit2.common.stand_ins import StandIn
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer


def renamed(state, change):
    return {change(name): value for name, value in state.items()}


def ema_only(state):
    return {name: value for name, value in state.items() if name.startswith("model_ema.")}


def of_compiled_module(state):
    def wrapped(name):
        prefix = "model_ema." if name.startswith("model_ema.") else ""
        bookkeeping = name in ("model_ema.decay", "model_ema.num_updates")
        return name if bookkeeping else f"{prefix}_orig_mod{'' if prefix else '.'}{name.removeprefix(prefix)}"

    return renamed(state, wrapped)


FORMS = {
    "bare state dict": (lambda s: s, "ema"),
    "DeepSpeed": (lambda s: {"module": renamed(s, lambda name: f"_forward_module.{name}")}, "ema"),
    "model": (lambda s: {"model": s, "epoch": 3}, "ema"),
    "averages alone": (lambda s: {"state_dict": ema_only(s)}, "ema"),
    "averages of a compiled module": (lambda s: {"state_dict": of_compiled_module(s)}, "ema"),
    "persisted quantizer constants": (
        lambda s: {"state_dict": {**s, "quantize.mask": torch.arange(6), "model_ema.quantizemask": torch.arange(6)}},
        "raw",
    ),
    "inside a generator": (
        lambda s: {"state_dict": {**renamed(s, lambda n: f"first_stage_model.{n}"), "transformer.x": torch.ones(1)}},
        "raw",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_known_forms_load_as_the_plain_one(tmp_path, form):
    change, weights = FORMS[form]
    torch.save({"state_dict": tiny_state()}, tmp_path / "plain.ckpt")
    torch.manual_seed(0)
    torch.save(change(tiny_state()), tmp_path / "other.ckpt")
    other = load_tokenizer(tmp_path / "other.ckpt", weights)
    assert other.checkpoint_facts["weights"] == weights
    plain = load_tokenizer(tmp_path / "plain.ckpt", weights)
    assert plain.state_dict().keys() == other.state_dict().keys()
    assert plain.token_shape((8, 8)) == other.token_shape((8, 8)) == (4, 4)


def test_a_folder_with_one_safetensors_file(tmp_path):
    state = tiny_state()
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    loaded = load_tokenizer(tmp_path, "raw").state_dict()
    assert torch.equal(loaded["encoder.conv_in.weight"], state["encoder.conv_in.weight"])
    safetensors.torch.save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"folder with 2 \.safetensors files"):
        load_tokenizer(tmp_path, "raw")


def test_a_folder_with_the_older_file_of_weights(tmp_path):
    """As Hugging Face's libraries wrote it before safetensors; one of the latter wins."""
    with pytest.raises(ValueError, match=r"folder with 0 \.safetensors files"):
        load_tokenizer(tmp_path, "raw")
    state = tiny_state()
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert torch.equal(load_tokenizer(tmp_path, "raw").state_dict()[NAME], state[NAME])
    doubled = {name: 2 * value for name, value in state.items()}
    safetensors.torch.save_file(doubled, tmp_path / "model.safetensors")
    assert torch.equal(load_tokenizer(tmp_path, "raw").state_dict()[NAME], doubled[NAME])


@pytest.mark.parametrize(
    ("value", "name"),
    [(fractions.Fraction(1, 2), "fractions.Fraction"), (datetime.date(2024, 6, 1), "datetime.date")],
    ids=["Fraction", "date"],
)
def test_objects_are_named_and_no_unsafe_advice_is_quoted(tmp_path, value, name):
    torch.save({"state_dict": tiny_state(), "hyper_parameters": value}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=name) as refused:
        load_tokenizer(tmp_path / "x.ckpt")
    assert "weights_only" not in str(refused.value)


NAME = "decoder.conv_out.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update({NAME: torch.full((3,), torch.nan)}), f"1 infinite or NaN:\n.*{NAME}"),
        (lambda s: s.update({NAME: torch.zeros(3, dtype=torch.complex64)}), f"{NAME}: torch.complex64"),
        (lambda s: s.update({NAME: torch.zeros(3, dtype=torch.int64)}), f"{NAME}: torch.int64"),
        (lambda s: s.update({NAME: torch.zeros(3).to(torch.float8_e4m3fn)}), f"{NAME}: torch.float8_e4m3fn"),
        (lambda s: s.update({NAME: torch.zeros(3).to_sparse()}), f"{NAME}: torch.sparse_coo"),
        (lambda s: s.update({NAME: torch.zeros(3, device="meta")}), f"{NAME}: .*meta"),
        (lambda s: s.update({NAME: "three"}), f"'{NAME}' is a str, expected a tensor"),
        (lambda s: s.update({5: torch.zeros(3)}), "tensors need names, got 5"),
    ],
    ids=["NaN", "complex", "integer", "fp8", "sparse", "meta", "str", "a number for a name"],
)
def test_weights_of_a_wrong_type_are_refused(tmp_path, change, message):
    state = tiny_state()
    change(state)
    torch.save({"state_dict": state}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path / "x.ckpt", "raw")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": 7}, "'state_dict' is a int"),
        ({"epoch": 3, "optimizer": {}}, r"it has epoch \(int\), optimizer \(dict\)"),
        ({"state_dict": {"a.weight": torch.ones(2)}, "open_magvit2_tokenizer": 7}, "'open_magvit2_tokenizer' is a int"),
        (
            {"state_dict": {"a.weight": torch.ones(2)}, "open_magvit2_tokenizer": {"class_path": "os.system"}},
            "the class os.system, which is not part of open_magvit2",
        ),
    ],
)
def test_sections_of_a_wrong_type_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path / "x.ckpt", "raw")


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}], ids=["bare", "model"])
def test_our_weights_without_their_architecture_are_refused_by_what_they_are(tmp_path, wrap):
    """They share encoder.conv_in with a published file, but are no damaged one."""
    tokenizer = ImageTokenizer.convolutional(
        LookupFreeQuantizer(6), channels=8, channel_multipliers=(1, 1), num_residual_blocks=1, norm_groups=4
    )
    torch.save(wrap(tokenizer.state_dict()), tmp_path / "ours.ckpt")
    with pytest.raises(ValueError, match=r"ours\.ckpt holds weights under our names, but not their architecture"):
        load_tokenizer(tmp_path / "ours.ckpt")


def test_objects_of_published_files_become_inert(tmp_path):
    """Old Lightning pickles callback classes; hyperparameters are namespaces and OmegaConf nodes."""
    torch.save(
        {
            "state_dict": tiny_state(),
            "hyper_parameters": {
                "args": argparse.Namespace(patch_size=8),
                "config": OmegaConf.create({"model": {"sizes": [1, 2.5, "x", None, True]}}),
            },
            "callbacks": {ModelCheckpoint: {"best": 1.0}},
            "counts": defaultdict(int, {"a": 1}),
            "path": tmp_path,
        },
        tmp_path / "x.ckpt",
    )
    content = checkpoints.read(tmp_path / "x.ckpt")
    assert content["hyper_parameters"]["args"].patch_size == 8
    assert all(isinstance(kind, type) and issubclass(kind, StandIn) for kind in content["callbacks"])
    assert isinstance(content["hyper_parameters"]["config"], StandIn)
    assert load_tokenizer(tmp_path / "x.ckpt").codebook_size == 2**6
