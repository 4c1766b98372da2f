"""A small training for tests, and for the processes that tests start."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ProgressBar

from open_magvit2.data.loading import ImageDataModule
from open_magvit2.data.sources.synthetic import SyntheticImages
from open_magvit2.image_tokenizer.discriminator import PatchDiscriminator
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.image_tokenizer.training import ImageTokenizerTraining
from open_magvit2.losses.adversarial import Adversary
from open_magvit2.losses.objective import GeneratorObjective
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer

# Weights without the one loss that looks at a batch as a whole: with them a cut batch has the whole batch's gradient.
SEPARABLE = {"sample_entropy": 0.1, "codebook_entropy": 0.0, "commitment": 0.25}


def module(
    discriminator: bool = True,
    objective: dict[str, Any] | None = None,
    adversary: dict[str, Any] | None = None,
    **options: Any,
) -> ImageTokenizerTraining:
    """The whole training module at toy size; the same weights at every call."""
    pl.seed_everything(0, verbose=False)
    tokenizer = ImageTokenizer.convolutional(LookupFreeQuantizer(6), 8, (1, 2, 2), num_residual_blocks=1, norm_groups=4)
    return ImageTokenizerTraining(
        tokenizer,
        GeneratorObjective(**{"perceptual_weight": 0.0, **(objective or {})}),
        Adversary(PatchDiscriminator(channels=4, num_layers=2), **(adversary or {})) if discriminator else None,
        **{"micro_batch_size": 4, "learning_rate": 1e-3, **options},
    )


def data(global_batch_size: int = 8) -> ImageDataModule:
    """32 training and 7 validation images of 32 x 32."""
    return ImageDataModule(
        SyntheticImages(32, 32),
        SyntheticImages(7, 32, split="validation"),
        image_size=32,
        global_batch_size=global_batch_size,
        validation_batch_size=4,
        num_workers=0,
    )


def trainer(folder: Any, **options: Any) -> pl.Trainer:
    """A CPU trainer that writes into a folder."""
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": 3,
        "default_root_dir": folder,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": any(isinstance(c, ProgressBar) for c in options.get("callbacks", ())),
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
        "check_val_every_n_epoch": None,
        "val_check_interval": 3,
    }
    return pl.Trainer(**(defaults | options))


def parameters(network: torch.nn.Module) -> torch.Tensor:
    """All weights of a network in one vector, a copy."""
    return torch.nn.utils.parameters_to_vector(network.parameters()).detach().clone()
