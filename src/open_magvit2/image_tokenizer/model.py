"""The image tokenizer: encoder, quantizer, decoder; image -> indices -> image. A plain nn.Module, without training."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from open_magvit2.image_tokenizer.decoder import Decoder
from open_magvit2.image_tokenizer.encoder import Encoder
from open_magvit2.protocols import CheckpointFacts, Modality, Quantizer, SizeRule
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer


class TokenizerOutput(NamedTuple):
    """What one training pass yields."""

    reconstruction: Tensor  # [B, 3, H, W], not clamped
    indices: Tensor  # int64 [B, h, w]
    losses: dict[str, Tensor]  # the quantizer's, unweighted


class ImageTokenizer(nn.Module):
    """The MAGVIT-v2 image tokenizer as Open-MAGVIT2 publishes it (arXiv 2310.05737, 2409.04410).

    The defaults are the B model for 128 x 128 images: 8x downsampling, 18 bits; `channel_multipliers`
    (1, 1, 2, 2, 4) makes the 16x model for 256. The networks are fully convolutional: any image whose sides are
    multiples of `downsampling` works, whatever size the model was trained at.

    Args:
        quantizer: any module that fulfils `protocols.Quantizer`; LFQ with 2^18 codes by default.
        channels: C, the width at full resolution.
        channel_multipliers: width of level i is C * channel_multipliers[i]; one level fewer than it has entries
            halves the resolution.
        num_residual_blocks: at each level, and in the middle; 2 in the B models, 4 in L.
        norm_groups: of every group norm.
        adaptive_normalization: condition the decoder's levels on the codes, as the L models do.
    """

    def __init__(
        self,
        quantizer: Quantizer | None = None,
        channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 2, 2, 4),
        num_residual_blocks: int = 2,
        norm_groups: int = 32,
        adaptive_normalization: bool = False,
    ) -> None:
        super().__init__()
        self.checkpoint_facts = CheckpointFacts()  # filled in by whoever loads weights
        self.quantizer = LookupFreeQuantizer() if quantizer is None else quantizer
        self._architecture = {
            "channels": channels,
            "channel_multipliers": list(channel_multipliers),
            "num_residual_blocks": num_residual_blocks,
            "norm_groups": norm_groups,
        }
        latent_channels = self.quantizer.latent_channels
        self.encoder = Encoder(latent_channels, **self._architecture)
        self.decoder = Decoder(latent_channels, adaptive_normalization=adaptive_normalization, **self._architecture)
        self._architecture["adaptive_normalization"] = adaptive_normalization

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return self.quantizer.codebook_size

    @property
    def downsampling(self) -> int:
        """Pixels per token along each side."""
        return 2 ** (len(self._architecture["channel_multipliers"]) - 1)

    modality: Modality = "image"

    @property
    def size_rule(self) -> SizeRule:
        """Sides must be multiples of the downsampling."""
        return SizeRule((self.downsampling, self.downsampling))

    def token_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        """(h, w) of the indices of an image of a size (H, W)."""
        self.size_rule.check(size)
        return tuple(side // self.downsampling for side in size)

    def config(self) -> dict[str, Any]:
        """What rebuilds this tokenizer, as plain values: a checkpoint carries it (`pretrained.from_config`)."""
        kind = type(self.quantizer)
        quantizer = {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": self.quantizer.config()}
        return {**self._architecture, "quantizer": quantizer}

    def forward(self, image: Tensor) -> TokenizerOutput:
        """One training pass over images float [B, 3, H, W] in [-1, 1]."""
        codes, indices, losses = self.quantizer(self.encode(image))
        return TokenizerOutput(self.decode(codes), indices, losses)

    def encode(self, image: Tensor) -> Tensor:
        """Latent [B, C, h, w], before quantization, of images float [B, 3, H, W] in [-1, 1].

        Raises:
            ValueError: for a tensor of another shape, or sides that are no multiples of `downsampling`.
        """
        self._check_image(image)
        return self.encoder(image)

    def decode(self, codes: Tensor) -> Tensor:
        """Reconstruction [B, 3, H, W], about [-1, 1] and not clamped, of codes [B, C, h, w]."""
        return self.decoder(codes)

    @torch.no_grad()
    def tokenize(self, image: Tensor) -> Tensor:
        """Indices int64 [B, h, w] in [0, codebook_size) of images float [B, 3, H, W] in [-1, 1]."""
        return self.quantizer.quantize(self.encode(image))[1]

    @torch.no_grad()
    def detokenize(self, indices: Tensor) -> Tensor:
        """Reconstruction [B, 3, H, W], not clamped, of indices int64 [B, h, w]."""
        if indices.ndim != 3:
            raise ValueError(f"expected indices [B, h, w], got {tuple(indices.shape)}")
        codes = self.quantizer.indices_to_codes(indices)
        return self.decode(codes.to(self.decoder.last_layer.dtype))

    @torch.no_grad()
    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(reconstruction [B, 3, H, W] not clamped, indices [B, h, w]) of an image, in one pass without losses."""
        codes, indices = self.quantizer.quantize(self.encode(image))
        return self.decode(codes), indices

    def _check_image(self, image: Tensor) -> None:
        if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
            raise ValueError(
                f"expected images float [B, 3, H, W] in [-1, 1], got {image.dtype} {tuple(image.shape)} "
                "(open_magvit2.common.images.to_float turns uint8 pixels into such)"
            )
        height, width = image.shape[2:]
        if height % self.downsampling or width % self.downsampling:
            raise ValueError(
                f"image sides must be multiples of {self.downsampling}, got {height} x {width}: resize, crop or pad"
            )
