"""The image tokenizer: encoder, quantizer, decoder; image -> indices -> image. A plain nn.Module, without training."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from open_magvit2 import protocols
from open_magvit2.common.construction import check_fulfils
from open_magvit2.common.images import rescaled
from open_magvit2.common.inputs import Images, as_batch, for_each_size
from open_magvit2.image_tokenizer import saved
from open_magvit2.image_tokenizer.decoder import Decoder
from open_magvit2.image_tokenizer.encoder import Encoder
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer


class TokenizerOutput(NamedTuple):
    """Output of one training pass."""

    reconstruction: Tensor  # [B, 3, H, W], not clamped
    indices: Tensor  # int64 [B, h, w]
    losses: dict[str, Tensor]  # the quantizer's, unweighted


class ImageTokenizer(nn.Module):
    """An image tokenizer made of three parts; `convolutional` builds Open-MAGVIT2's (arXiv 2310.05737, 2409.04410).

    Args:
        encoder: any module that fulfils `protocols.Encoder`.
        decoder: any that fulfils `protocols.Decoder`.
        quantizer: any that fulfils `protocols.Quantizer`.
        image_range: lowest and highest value of the encoder's and the decoder's images. The tokenizer's own are in
            [-1, 1] always, and are mapped.

    Raises:
        ValueError: for a part that lacks a member of its protocol, or parts with different numbers of latent channels.
    """

    modality: protocols.Modality = "image"

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        quantizer: nn.Module,
        image_range: Sequence[float] = (-1.0, 1.0),
    ) -> None:
        super().__init__()
        if len(image_range) != 2 or not image_range[0] < image_range[1]:
            raise ValueError(f"image_range must be (lowest, highest), got {image_range}")
        check_fulfils(encoder, protocols.Encoder)
        check_fulfils(decoder, protocols.Decoder)
        check_fulfils(quantizer, protocols.Quantizer)
        channels = {"encoder": encoder, "quantizer": quantizer, "decoder": decoder}
        channels = {name: part.latent_channels for name, part in channels.items()}
        if len(set(channels.values())) > 1:
            raise ValueError(f"the parts must have the same latent_channels, got {channels}")
        self.checkpoint_facts = protocols.CheckpointFacts()  # `load_tokenizer` fills them in
        self.encoder = encoder
        self.quantizer = quantizer
        self.decoder = decoder
        self.image_range = tuple(image_range)

    @classmethod
    def convolutional(
        cls,
        quantizer: nn.Module | None = None,
        channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 2, 2, 4),
        num_residual_blocks: int = 2,
        norm_groups: int = 32,
        adaptive_normalization: bool = False,
    ) -> "ImageTokenizer":
        """The published architecture: `Encoder` and `Decoder` of the same sizes around a quantizer.

        The defaults are the B model for 128 x 128 images: 8x downsampling, LFQ of 18 bits. See `Encoder` and `Decoder`
        for the arguments.
        """
        quantizer = LookupFreeQuantizer() if quantizer is None else quantizer
        sizes = {
            "latent_channels": quantizer.latent_channels,
            "channels": channels,
            "channel_multipliers": channel_multipliers,
            "num_residual_blocks": num_residual_blocks,
            "norm_groups": norm_groups,
        }
        return cls(Encoder(**sizes), Decoder(**sizes, adaptive_normalization=adaptive_normalization), quantizer)

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return self.quantizer.codebook_size

    @property
    def size_rule(self) -> protocols.SizeRule:
        """Which image sizes (H, W) are valid, whatever size the model was trained at."""
        return self.encoder.size_rule

    def token_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        """Shape of the indices of one image of a size (H, W): the latent's grid, and the indices a position if several.

        Raises:
            ValueError: for a size that `size_rule` refuses.
        """
        self.size_rule.check(size)
        number = getattr(self.quantizer, "indices_per_position", 1)
        return (*self.encoder.latent_shape(size), *((number,) if number > 1 else ()))

    def forward(self, image: Tensor) -> TokenizerOutput:
        """One training pass over images float [B, 3, H, W] in [-1, 1]."""
        codes, indices, losses = self.quantizer(self.encode(image))
        return TokenizerOutput(self.decode(codes), indices, losses)

    def encode(self, image: Tensor) -> Tensor:
        """Latent [B, C, h, w], before quantization, of images float [B, 3, H, W] in [-1, 1].

        Raises:
            ValueError: for a tensor of another shape, or sides that `size_rule` refuses.
        """
        self._check_image(image)
        return self.encoder(rescaled(image, (-1.0, 1.0), self.image_range))

    def decode(self, codes: Tensor) -> Tensor:
        """Reconstruction [B, 3, H, W], about [-1, 1] and not clamped, of codes [B, C, h, w]."""
        return rescaled(self.decoder(codes), self.image_range, (-1.0, 1.0))

    @torch.no_grad()
    def tokenize(self, image: Images, value_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor | list[Tensor]:
        """Indices int64 [B, *token_shape] in [0, codebook_size).

        Args:
            image: uint8 [B, 3, H, W], float [B, 3, H, W] in `value_range`, or a PIL image, which is a batch of one. A
                list of PIL images and tensors [3, H, W] of any sizes gives a list of indices [*token_shape].
            value_range: lowest and highest value of float images.

        Raises:
            ValueError: for other tensors, values outside the range, or sides that `size_rule` refuses.
        """
        return self._call(lambda batch: self.quantizer.quantize(self.encode(batch))[1], image, value_range)

    @torch.no_grad()
    def detokenize(self, indices: Tensor) -> Tensor:
        """Reconstruction [B, 3, H, W], not clamped, of indices int64 [B, *token_shape].

        Raises:
            ValueError: for another number of axes, or indices outside the codebook.
        """
        smallest = self.token_shape(self.size_rule.padded((1,) * len(self.size_rule.multiple)))
        if indices.ndim != 1 + len(smallest):
            raise ValueError(f"expected indices of {1 + len(smallest)} axes [B, ...], got {tuple(indices.shape)}")
        codes = self.quantizer.indices_to_codes(indices)
        return self.decode(codes.to(self.decoder.last_layer.dtype))

    @torch.no_grad()
    def reconstruct(
        self, image: Images, value_range: tuple[float, float] = (-1.0, 1.0)
    ) -> tuple[Tensor, Tensor] | list[tuple[Tensor, Tensor]]:
        """(reconstruction [B, 3, H, W], about [-1, 1] and not clamped, indices) in one pass without losses.

        Arguments and errors are those of `tokenize`; a list gives a list of (reconstruction [3, H, W], indices).
        """

        def reconstruct(batch: Tensor) -> tuple[Tensor, Tensor]:
            codes, indices = self.quantizer.quantize(self.encode(batch))
            return self.decode(codes), indices

        return self._call(reconstruct, image, value_range)

    save_pretrained = saved.save_pretrained
    push_to_hub = saved.push_to_hub

    def _call(self, function: Callable[[Tensor], Any], image: Images, value_range: tuple[float, float]) -> Any:
        """A function of float batches in [-1, 1] on images of any kind, on the weights' device and in their dtype."""
        weight = self.decoder.last_layer
        if isinstance(image, (list, tuple)):
            return for_each_size(image, lambda batch: function(batch.to(weight)), value_range=value_range)
        return function(as_batch(image, value_range).to(weight))

    def _check_image(self, image: Tensor) -> None:
        channels = getattr(self.encoder, "image_channels", 3)
        if image.ndim != 4 or image.shape[1] != channels or not image.is_floating_point():
            raise ValueError(
                f"expected images float [B, {channels}, H, W] in [-1, 1], got {image.dtype} {tuple(image.shape)} "
                "(open_magvit2.common.images.to_float converts uint8 pixels)"
            )
        self.size_rule.check(image.shape[2:])
