"""Continuous autoencoders through diffusers: Stable Diffusion 1 to 3, SDXL, FLUX; upper bounds of a comparison.

A folder as `AutoencoderKL.save_pretrained` writes it: config.json and diffusion_pytorch_model.safetensors. The latent
is the mean of the posterior: no noise, no codebook, no tokens. Images in [-1, 1].
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from open_magvit2.common import checkpoints
from open_magvit2.protocols import CheckpointFacts, Modality, SizeRule

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class ContinuousAutoencoder(nn.Module):
    """An `AutoencoderKL` as a tokenizer without tokens (`protocols.Tokenizer`).

    Args:
        model: of diffusers.
    """

    codebook_size = None
    modality: Modality = "image"

    def __init__(self, model: "AutoencoderKL") -> None:
        super().__init__()
        self.model = model
        factor = 2 ** (len(model.config.block_out_channels) - 1)
        self.size_rule = SizeRule((factor, factor))
        self.checkpoint_facts = CheckpointFacts()

    def token_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        """(h, w, C) of the latent of an image of a size (H, W)."""
        self.size_rule.check(size)
        grid = (side // factor for side, factor in zip(size, self.size_rule.multiple, strict=True))
        return (*grid, self.model.config.latent_channels)

    @torch.no_grad()
    def tokenize(self, image: Tensor) -> Tensor:
        """Latent float [B, h, w, C], the mean of the posterior, of images float [B, 3, H, W] in [-1, 1]."""
        self.size_rule.check(image.shape[2:])
        return self.model.encode(image.to(self.model.dtype)).latent_dist.mode().movedim(1, -1)

    @torch.no_grad()
    def detokenize(self, indices: Tensor) -> Tensor:
        """Reconstruction [B, 3, H, W], not clamped, of a latent [B, h, w, C]."""
        return self.model.decode(indices.movedim(-1, 1).contiguous()).sample

    def reconstruct(self, image: Tensor) -> tuple[Tensor, None]:
        """(reconstruction [B, 3, H, W] not clamped, None): there are no indices."""
        return self.detokenize(self.tokenize(image)), None


def load(checkpoint: str | Path, device: str | torch.device = "cpu") -> ContinuousAutoencoder:
    """The autoencoder in a folder.

    Raises:
        ValueError: without diffusers, for a folder without an AutoencoderKL, or weights that do not fit.
    """
    try:
        from diffusers import AutoencoderKL
    except ImportError:
        raise ValueError(
            'Stable Diffusion\'s autoencoders need diffusers: pip install "open-magvit2[compare]"'
        ) from None
    folder = Path(checkpoint)
    config = _config(folder)
    try:
        model = AutoencoderKL.from_config(config)
    except Exception as error:  # diffusers checks no value: what fails is whatever first meets it
        raise ValueError(f"{folder}/config.json describes no AutoencoderKL ({error!r})") from error
    state = checkpoints.read(folder)["state_dict"]
    checkpoints.load_strictly(model, state, folder, share=True)
    tokenizer = ContinuousAutoencoder(model)
    tokenizer.checkpoint_facts = CheckpointFacts(
        family="diffusers_vae", weights="raw", warnings=[], checkpoint_format="diffusers AutoencoderKL"
    )
    return tokenizer.eval().requires_grad_(False).to(device)


def is_folder_of(path: str | Path) -> bool:
    """Whether a path is a folder with the configuration of an AutoencoderKL."""
    try:
        return _config(Path(path))["_class_name"] == "AutoencoderKL"
    except ValueError:
        return False


def _config(folder: Path) -> dict[str, object]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} has no readable config.json of diffusers ({error})") from None
    if not isinstance(config, dict) or config.get("_class_name") != "AutoencoderKL":
        raise ValueError(f"{folder}/config.json is not that of an AutoencoderKL of diffusers")
    return config
