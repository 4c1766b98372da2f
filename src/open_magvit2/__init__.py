"""Open-MAGVIT2: the MAGVIT-v2 image tokenizer with lookup-free quantization, in PyTorch Lightning."""

from open_magvit2.common.published_files import published
from open_magvit2.generators.pretrained import load_generator
from open_magvit2.image_tokenizer.pretrained import load_tokenizer

__version__ = "0.1.0"
__all__ = ["__version__", "load_generator", "load_tokenizer", "published"]
