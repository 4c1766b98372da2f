"""Open-MAGVIT2's image tokenizers: our own checkpoints and the published ones."""

from pathlib import Path
from typing import Any

from open_magvit2.image_tokenizer.pretrained import load_tokenizer
from open_magvit2.protocols import Tokenizer


def load(checkpoint: str | Path, **options: Any) -> Tokenizer:
    """The tokenizer in a checkpoint; options as `load_tokenizer` takes them, e.g. weights="raw"."""
    return load_tokenizer(checkpoint, **options)
