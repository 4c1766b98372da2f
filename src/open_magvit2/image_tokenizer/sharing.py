"""Save a tokenizer as the Hugging Face Hub keeps models: config.json, model.safetensors, and a model card.

huggingface_hub's `PyTorchModelHubMixin` keeps constructor arguments that are plain values; our parts are modules, whose
description (`common.construction`) goes into config.json instead. Names of classes in it are read as in any checkpoint:
only those of this package are built.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch

from open_magvit2.common.construction import describe
from open_magvit2.common.files import write_atomically
from open_magvit2.common.hub import CONFIG

if TYPE_CHECKING:
    from open_magvit2.image_tokenizer.model import ImageTokenizer

TOKENIZER_KEY = "open_magvit2_tokenizer"  # `describe(tokenizer)`, in checkpoints and in config.json
IMAGE_SIZE_KEY = "open_magvit2_image_size"  # of the images it was trained on, or None
WEIGHTS_KEY = "open_magvit2_weights"  # which weights the only ones of the folder are
WEIGHTS_FILE = "model.safetensors"
_FIGURES = ("rfid", "psnr", "ssim", "lpips", "codebook_utilization", "bits_per_pixel")


def save_pretrained(
    tokenizer: "ImageTokenizer",
    folder: str | Path,
    licence: str | None = None,
    results: str | Path | None = None,
    name: str = "this tokenizer",
) -> None:
    """Write a folder that `load_tokenizer(folder)` opens, ready for the Hub; each file appears whole or not at all.

    Args:
        tokenizer: its weights are written as they are: load with weights="ema" to share the moving averages.
        folder: made if it is missing.
        licence: of the weights, in the Hub's words ("apache-2.0"); None leaves the card without one.
        results: results.json of an evaluation, whose figures go on the card.
        name: what the card calls it: "org/name".

    Raises:
        ValueError: for a part that cannot be described (`construction.describe`).
        OSError: if the folder cannot be written.
    """
    folder = Path(folder)
    facts = tokenizer.checkpoint_facts
    config = {
        TOKENIZER_KEY: describe(tokenizer),
        IMAGE_SIZE_KEY: facts.get("train_image_size"),
        WEIGHTS_KEY: facts.get("weights", "raw"),
    }
    record = json.loads(Path(results).read_text(encoding="utf-8")) if results is not None else None
    card = model_card(tokenizer, name, licence, record)  # before anything is written
    tensors = {name: value.contiguous() for name, value in tokenizer.state_dict().items()}
    write_atomically(folder / WEIGHTS_FILE, safetensors.torch.save(tensors, metadata={"format": "pt"}))
    write_atomically(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    write_atomically(folder / "README.md", card)


def push_to_hub(
    tokenizer: "ImageTokenizer",
    repository: str,
    licence: str | None = None,
    results: str | Path | None = None,
    private: bool = False,
    revision: str | None = None,
    message: str = "Upload a tokenizer",
) -> str:
    """Upload what `save_pretrained` writes; the repository is made if it is missing.

    Args:
        tokenizer, licence, results: of `save_pretrained`.
        repository: "org/name".
        private: of a repository that is made.
        revision: the branch; None for the main one.
        message: of the commit.

    Returns:
        the commit's address.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: if the Hub refuses, e.g. without a login.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(tokenizer, folder, licence, results, repository)
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=folder, revision=revision, commit_message=message)
    return commit.commit_url


def model_card(
    tokenizer: "ImageTokenizer", name: str, licence: str | None = None, record: Mapping[str, Any] | None = None
) -> str:
    """The README.md of a repository: what the tokenizer is, how to load it, its figures and how they were measured."""
    head = ["---", *([f"license: {licence}"] if licence else []), "library_name: open-magvit2", "tags:"]
    head += ["- image-tokenizer", "- pytorch", "---", ""]
    facts = tokenizer.checkpoint_facts
    number = sum(parameter.numel() for parameter in tokenizer.parameters())
    sizes = [
        f"- {tokenizer.codebook_size:,} codes ({type(tokenizer.quantizer).__name__}), {number / 1e6:.1f} M parameters",
        f"- image sizes: {tokenizer.size_rule}",
        f"- weights: {facts.get('weights', 'raw')}",
    ]
    if facts.get("train_image_size"):
        sizes.append(f"- trained on images of {facts['train_image_size']} pixels")
    usage = [
        "```python",
        "from open_magvit2 import load_tokenizer",
        "",
        f'tokenizer = load_tokenizer("{name}")',
        "indices = tokenizer.tokenize(pixels)  # uint8 [B, 3, H, W]",
        "reconstruction = tokenizer.detokenize(indices)  # float, about [-1, 1]",
        "```",
    ]
    return "\n".join([*head, f"# {name}", "", *sizes, "", *usage, "", *_figures(record), ""])


def _figures(record: Mapping[str, Any] | None) -> list[str]:
    if record is None:
        return ["No figures were measured for this card."]
    protocol = record["protocol"]
    lines = [f"| {name} | {value:.5g} |" for name, value in record["metrics"].items() if name.startswith(_FIGURES)]
    images = record["dataset"].get("known_as") or "images"
    said = f"Protocol `{protocol['name']}`, {record['num_images']:,} {images}:"
    return [said, "", "| figure | value |", "| --- | --- |", *lines]
