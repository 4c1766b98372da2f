"""One training step of the autoregressive generator as the reference works, written from its published recipe.

(Luo et al., Open-MAGVIT2, arXiv 2409.04410, section 3.2.) It computes what `AutoregressiveTraining` computes, with the
same weights, and a test holds the two to the same losses and gradients. What it does the long way: attention with
materialised scores, an added mask and a softmax of its own; a norm written out; everything kept for the backward pass;
AdamW as PyTorch chooses it by itself (tensor by tensor on a CPU, in groups on a GPU).

What ours does besides, and pays for: it draws what it needs for every sample alone, computes accuracies, and checks
that the gradient is finite.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open_magvit2.generators.autoregressive import AutoregressiveGenerator
from open_magvit2.layers.transformer import EPS, TransformerBlock


class PlainGeneratorTraining:
    """Trains a generator without a Trainer; its modules hold the weights, and are not called.

    Args:
        generator: trained in place.
        learning_rate, betas, weight_decay: of AdamW; matrices decay.
        clip_norm: largest norm of the gradient.
        class_dropout: probability of the null class.
    """

    def __init__(
        self,
        generator: AutoregressiveGenerator,
        learning_rate: float = 3e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.05,
        clip_norm: float = 1.0,
        class_dropout: float = 0.1,
    ) -> None:
        self.generator, self.clip_norm, self.class_dropout = generator, clip_norm, class_dropout
        parameters = list(generator.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizers = [torch.optim.AdamW(groups, lr=learning_rate, betas=betas)]

    def step(self, indices: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One training step on indices int64 [B, N] and classes int64 [B]; the losses. Gradients stay in `.grad`."""
        (optimizer,) = self.optimizers
        optimizer.zero_grad()
        first, second = self.logits(indices, labels)
        sub_tokens = self.generator.factorization.split(indices)
        losses = [
            F.cross_entropy(logits.flatten(0, 1), sub_tokens[..., group].flatten())
            for group, logits in enumerate((first, second))
        ]
        (losses[0] + losses[1]).backward()
        nn.utils.clip_grad_norm_(self.generator.parameters(), self.clip_norm)
        optimizer.step()
        return {"loss_0": losses[0].detach(), "loss_1": losses[1].detach()}

    def logits(self, indices: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, N, 2^bits] of both sub-tokens."""
        model = self.generator
        p = model.input_dropout.p
        is_dropped = torch.rand(len(labels), device=labels.device) < self.class_dropout
        labels = torch.where(is_dropped, model.null_class, labels)
        sub_tokens = model.factorization.split(indices)
        first, second = (table(sub_tokens[..., group]) for group, table in enumerate(model.embeddings))
        inputs = torch.cat([model.class_embedding(labels)[:, None], first[:, :-1] + second[:, :-1]], dim=1)
        features = F.dropout(inputs, p)
        table = model.rotary(features)
        for block in model.spatial_blocks:
            features = self.block(block, features, table[: features.shape[1]], p)
        batch, number, width = features.shape
        slots = torch.stack([features, model.embeddings[0](sub_tokens[..., 0])], dim=2)
        slots = slots.view(batch * number, 2, width)
        for block in model.factorized_blocks:
            slots = self.block(block, slots, table[:2], p)
        slots = self.norm(slots, model.norm.weight).view(batch, number, 2, width)
        return model.heads[0](slots[:, :, 0]), model.heads[1](slots[:, :, 1])

    def block(self, block: TransformerBlock, features: Tensor, table: Tensor, p: float) -> Tensor:
        """A transformer block: attention, then SwiGLU."""
        attended = self.attention(block, self.norm(features, block.attention_norm.weight), table)
        features = features + F.dropout(attended, p)
        normalized = self.norm(features, block.feed_forward_norm.weight)
        inner = F.silu(block.feed_forward.gate(normalized)) * block.feed_forward.up(normalized)
        return features + F.dropout(block.feed_forward.down(inner), p)

    def attention(self, block: TransformerBlock, features: Tensor, table: Tensor) -> Tensor:
        """Causal attention, its scores [B, heads, N, N] written to memory."""
        batch, number, width = features.shape
        heads = block.attention.num_heads
        query, key, value = block.attention.qkv(features).split(width, dim=-1)
        query, key, value = (part.view(batch, number, heads, -1) for part in (query, key, value))
        query, key = self.rotate(query, table), self.rotate(key, table)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        scores = query @ key.transpose(2, 3) / math.sqrt(width // heads)
        mask = torch.full((number, number), -math.inf, device=features.device, dtype=features.dtype).triu(1)
        shares = F.softmax(scores + mask, dim=-1)
        return block.attention.out((shares @ value).transpose(1, 2).contiguous().view(batch, number, width))

    @staticmethod
    def rotate(features: Tensor, table: Tensor) -> Tensor:
        """Neighbouring pairs of channels [B, N, heads, head width] by a table [N, pairs, 2]."""
        pairs = features.reshape(*features.shape[:-1], -1, 2)
        table = table.to(features.dtype)[None, :, None]
        turned = [
            pairs[..., 0] * table[..., 0] - pairs[..., 1] * table[..., 1],
            pairs[..., 1] * table[..., 0] + pairs[..., 0] * table[..., 1],
        ]
        return torch.stack(turned, dim=-1).flatten(3)

    @staticmethod
    def norm(features: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm."""
        return features * torch.rsqrt(features.pow(2).mean(-1, keepdim=True) + EPS) * weight
