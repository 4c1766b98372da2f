"""Open-MAGVIT2's image tokenizers: our own checkpoints and the published ones."""

from open_magvit2.image_tokenizer.pretrained import load_tokenizer as load

__all__ = ["load"]
