"""What the flags of scripts/sample.py mean for a generator: its tokenizer, its settings, its classes."""

import argparse

import torch

from open_magvit2.common.files import sha256
from open_magvit2.generators import command_line


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
