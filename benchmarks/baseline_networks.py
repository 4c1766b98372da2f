"""The tokenizer's forward pass as one first writes it down: what the benchmark compares ours with.

The same weights, other operations: x sigmoid(x) for SiLU, the entropy penalty from the softmax over all 2^K codes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open_magvit2.image_tokenizer.decoder import Decoder
from open_magvit2.image_tokenizer.encoder import Encoder
from open_magvit2.layers.residual import ResidualBlock


def swish(features: Tensor) -> Tensor:
    """x sigmoid(x): autograd keeps both factors."""
    return features * torch.sigmoid(features)


def encode(encoder: Encoder, image: Tensor) -> Tensor:
    """Latent [B, K, h, w] of an image [B, 3, H, W]."""
    features = encoder.conv_in(image)
    for level in encoder.levels:
        for block in level.blocks:
            features = _residual(block, features)
        features = level.downsample(features)
    for block in encoder.middle:
        features = _residual(block, features)
    return encoder.conv_out(swish(encoder.norm_out(features)))


def decode(decoder: Decoder, codes: Tensor) -> Tensor:
    """Reconstruction [B, 3, H, W] of codes [B, K, h, w]."""
    features = decoder.conv_in(codes)
    for block in decoder.middle:
        features = _residual(block, features)
    for level in reversed(decoder.levels):
        if level.adaptive is not None:
            features = level.adaptive(features, codes)
        for block in level.blocks:
            features = _residual(block, features)
        features = level.upsample(features)
    return decoder.conv_out(swish(decoder.norm_out(features)))


def _residual(block: ResidualBlock, features: Tensor) -> Tensor:
    residual = block.conv1(swish(block.norm1(features)))
    residual = block.conv2(swish(block.norm2(residual)))
    return block.shortcut(features) + residual


def all_codes(num_bits: int, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """The codebook written out: [2^K, K] in {-1, +1}, channel k the bit k of the row's number."""
    numbers = torch.arange(2**num_bits, device=device)
    bits = (numbers[:, None] >> torch.arange(num_bits, device=device)) & 1
    return bits.to(dtype) * 2 - 1


def softmax_entropies(
    tokens: Tensor, codes: Tensor, temperature: float = 0.01, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """Sample entropy and codebook entropy by their definitions, over all codes: several tensors [N, 2^K].

    Args:
        tokens: float [N, K].
        codes: `all_codes(K, ...)`.
        temperature: T in logits 2 <z, c> / T.
        eps: inside the logarithm of the average distribution.

    Returns:
        two scalars in nats with graph.
    """
    logits = 2 * torch.einsum("nk,ck->nc", tokens, codes)
    probabilities = F.softmax(logits / temperature, dim=-1)
    log_probabilities = F.log_softmax(logits / temperature + eps, dim=-1)  # the recipe's eps, which cancels
    sample = -(probabilities * log_probabilities).sum(dim=-1).mean()
    average = probabilities.mean(dim=0)
    codebook = -(average * torch.log(average + eps)).sum()
    return sample, codebook


class PlainQuantizer(nn.Module):
    """LFQ with the entropies of `softmax_entropies`.

    Args:
        num_bits: K; the codebook of 2^K codes is a buffer, as the reference has it.
        temperature, eps: of the entropies.
    """

    codes: Tensor

    def __init__(self, num_bits: int, temperature: float = 0.01, eps: float = 1e-5) -> None:
        super().__init__()
        self.temperature = temperature
        self.eps = eps
        self.register_buffer("codes", all_codes(num_bits, "cpu", torch.float32), persistent=False)

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(codes with straight-through gradient, indices, unweighted losses) of a latent [B, K, h, w]."""
        tokens = latent.movedim(1, -1)
        one = torch.ones_like(tokens)
        signs = torch.where(tokens > 0, one, -one)
        powers = 2 ** torch.arange(tokens.shape[-1], device=tokens.device)
        indices = ((tokens > 0).int() * powers.int()).sum(dim=-1)
        sample, codebook = softmax_entropies(tokens.flatten(0, -2), self.codes, self.temperature, self.eps)
        commitment = F.mse_loss(tokens, signs.detach())
        quantized = (tokens + (signs - tokens).detach()).movedim(-1, 1).contiguous()
        return quantized, indices, {"sample_entropy": sample, "codebook_entropy": codebook, "commitment": commitment}
