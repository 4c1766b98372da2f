"""What the flags of scripts/sample.py mean for a generator: its tokenizer, its settings, its classes."""

import argparse

import pytest
import torch
from test_bitwise import generator as bitwise

from open_magvit2.common.files import sha256
from open_magvit2.generators import command_line
from open_magvit2.generators.bitwise import BitwiseSampling


def test_every_setting_of_bitwise_sampling_has_a_flag(tmp_path):
    flags = [
        "--generator",
        "x",
        "--classes",
        "1",
        "--output",
        str(tmp_path),
        "--num-steps",
        "3",
        "--order",
        "confidence",
    ]
    made = command_line.settings(command_line.parse(None, [*flags, "--guidance", "2", "--greedy"]), bitwise())
    assert made == BitwiseSampling(num_steps=3, order="confidence", guidance=2.0, greedy=True)


def test_a_tokenizer_that_is_no_longer_there_is_asked_for():
    generator = torch.nn.Identity()
    generator.made_by = {"path": "/elsewhere/last.ckpt", "sha256": "1234", "weights": "raw"}
    args = argparse.Namespace(generator="generator.ckpt", tokenizer=None, weights=None)
    with pytest.raises(FileNotFoundError, match=r"/elsewhere/last.ckpt.*1234.*generator.ckpt.*--tokenizer"):
        command_line.tokenizer_file(args, generator)


def test_another_tokenizer_than_the_training_s_is_named_in_the_log(tmp_path, caplog):
    generator = torch.nn.Identity()
    generator.made_by = {"path": "first.ckpt", "sha256": sha256(b"first"), "weights": "raw"}
    for name, content in (("moved", b"first"), ("other", b"other")):
        (tmp_path / name).write_bytes(content)
        args = argparse.Namespace(generator="generator.ckpt", tokenizer=tmp_path / name, weights=None)
        caplog.clear()
        assert command_line.tokenizer_file(args, generator) == (tmp_path / name, "raw")
        words = ("generator.ckpt", "first.ckpt", sha256(b"first"), str(tmp_path / "other"), sha256(b"other"))
        assert [all(word in line for word in words) for line in caplog.messages] == [True] * (name == "other")
