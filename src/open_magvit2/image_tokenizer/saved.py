"""A tokenizer as a folder that the Hugging Face Hub shows well: config.json, model.safetensors and a model card.

The folder holds what a checkpoint of ours holds, without the training: the description of the tokenizer by class paths
and arguments, and one set of weights. `load_tokenizer` reads both in the same way. huggingface_hub's
`PyTorchModelHubMixin` would store the constructor's arguments, which here are modules; its functions do the rest.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch

from open_magvit2.common import construction, hub
from open_magvit2.common.checkpoints import LIBRARY
from open_magvit2.common.files import write_atomically

if TYPE_CHECKING:
    from open_magvit2.image_tokenizer.model import ImageTokenizer

# keys of our checkpoints and of config.json
TOKENIZER_KEY = "open_magvit2_tokenizer"  # `describe(tokenizer)`
IMAGE_SIZE_KEY = "open_magvit2_image_size"  # the size of the images it was trained on, or None
WEIGHTS_KEY = "open_magvit2_weights"  # which weights a folder holds, for it has one set of them
PREFIX = "tokenizer."  # of the tokenizer's tensors, as within the LightningModule

_CARD = """---
{front_matter}
---

# {title}

An image tokenizer for the package `open_magvit2` (Open-MAGVIT2): images to discrete tokens and back.

| | |
| --- | --- |
| encoder, quantizer, decoder | {parts} |
| parameters | {parameters:,} |
| codes | {codes:,} |
| image sizes (H x W) | {sizes} |
| trained on images of | {image_size} |
| weights | {weights} |

## Figures

{figures}

## How to load

```python
from open_magvit2 import load_tokenizer

tokenizer = load_tokenizer("{name}"{arguments})
indices = tokenizer.tokenize(images)  # uint8 [B, 3, H, W], or float in [-1, 1]
reconstruction = tokenizer.detokenize(indices)  # about [-1, 1]
```

## Licence

{licence}
"""


def save_pretrained(
    tokenizer: "ImageTokenizer",
    folder: str | Path,
    figures: Mapping[str, float] | None = None,
    licence: str | None = None,
    name: str | None = None,
) -> Path:
    """Write config.json, model.safetensors and README.md (a model card), which `load_tokenizer(folder)` opens.

    Args:
        tokenizer: its weights are written as they were loaded, EMA weights by default.
        folder: made at need; its files of these names are replaced.
        figures: for the card, e.g. `metrics` of an evaluation's results.json.
        licence: for the card, by the Hub's identifier: "apache-2.0".
        name: the tokenizer's in the card; the folder by default.

    Raises:
        ValueError: if a part cannot be described, see `construction.describe`.
        OSError: if the folder cannot be written.
    """
    folder = Path(folder)
    facts = tokenizer.checkpoint_facts
    config = {
        "library_name": LIBRARY,
        TOKENIZER_KEY: construction.describe(tokenizer),
        WEIGHTS_KEY: facts.get("weights", "raw"),
        IMAGE_SIZE_KEY: facts.get("train_image_size"),
        "global_step": facts.get("global_step"),
    }
    # copies, for safetensors refuses tensors that share memory, such as weights that two layers have in common
    tensors = {
        PREFIX + key: value.cpu().clone(memory_format=torch.contiguous_format)
        for key, value in tokenizer.state_dict().items()
    }
    write_atomically(folder / "model.safetensors", safetensors.torch.save(tensors, {"format": "pt"}))
    write_atomically(folder / "README.md", _card(tokenizer, name or str(folder), figures or {}, licence))
    write_atomically(folder / hub.CONFIG_FILE, json.dumps(config, indent=2) + "\n")
    return folder


def push_to_hub(
    tokenizer: "ImageTokenizer",
    repository: str,
    figures: Mapping[str, float] | None = None,
    licence: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
) -> str:
    """Upload what `save_pretrained` writes to the Hugging Face Hub, as one commit; the commit's address.

    Args:
        tokenizer, figures, licence: see `save_pretrained`.
        repository: "org/name"; made at need.
        private: of a new repository; None: as the organization's default is.
        revision: branch to write to, made at need; None: the main one.
        message: of the commit.
        token: of an account; None: the one that `hf auth login` stored, or HF_TOKEN.

    Raises:
        OSError: if the Hub refuses or cannot be reached; nothing is changed there then.
    """
    from huggingface_hub import HfApi, errors  # here: it is needed for nothing else

    api = HfApi(token=token)
    message = message or "Tokenizer of Open-MAGVIT2"
    with tempfile.TemporaryDirectory() as made:
        save_pretrained(tokenizer, made, figures, licence, repository)
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repository, branch=revision, exist_ok=True)
            options = {"folder_path": made, "revision": revision, "commit_message": message}
            return api.upload_folder(repo_id=repository, **options).commit_url
        except errors.HTTPError as error:  # without a network it is no OSError
            raise OSError(f"nothing was pushed to {repository}: {error}") from error


def _card(tokenizer: "ImageTokenizer", name: str, figures: Mapping[str, float], licence: str | None) -> str:
    """The README.md: what the Hub reads in front, and what a person reads."""
    facts = tokenizer.checkpoint_facts
    weights = facts.get("weights", "raw")
    front_matter = [f"license: {licence}"] if licence else []
    front_matter += [f"library_name: {LIBRARY}", "tags: [image-tokenizer, magvit2]"]
    parts = (tokenizer.encoder, tokenizer.quantizer, tokenizer.decoder)
    rows = [f"| {key} | {value:.4g} |" for key, value in figures.items()]
    return _CARD.format(
        front_matter="\n".join(front_matter),
        title=name.rstrip("/").rpartition("/")[2],
        parts=", ".join(f"`{construction.class_path(type(part))}`" for part in parts),
        parameters=sum(parameter.numel() for parameter in tokenizer.parameters()),
        codes=tokenizer.codebook_size,
        sizes=str(tokenizer.size_rule),
        image_size=facts.get("train_image_size") or "not known",
        weights={"ema": "moving averages (EMA)", "raw": "raw"}[weights],
        figures="\n".join(["| metric | value |", "| --- | --- |", *rows]) if rows else "None given.",
        name=name,
        arguments="" if weights == "ema" else ', weights="raw"',
        licence=f"`{licence}`" if licence else "Not stated by who saved it.",
    )
