"""Inception features for FID: torch-fidelity's network (the weights of the TensorFlow original), three preprocessings.

The network is Szegedy et al.'s Inception v3 as FID uses it (Heusel et al. 2017). Papers differ in the resize to 299
pixels and the quantisation before it, which moves rFID by more than two good tokenizers differ.
"""

from collections.abc import MutableMapping
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from open_magvit2.common import weights
from open_magvit2.common.images import to_uint8
from open_magvit2.common.precision import float32

Preprocessing = Literal["paper", "u8", "tf"]
NUM_FEATURES = 2048
NUM_SPATIAL_FEATURES = 2023  # 7 x 17 x 17
_SPATIAL_CHANNELS = 7
_INPUT_SIZE = 299


class InceptionOutput(NamedTuple):
    """Outputs of the network for a batch."""

    features: Tensor  # float32 [B, 2048], the last pooling layer
    logits: Tensor  # float32 [B, 1008], without the bias, as the Inception score uses them
    spatial: Tensor  # float32 [B, 2023], 7 channels of a 17 x 17 grid, in TensorFlow's order: row, column, channel


class Inception:
    """The network, frozen, from its verified weight file.

    It keeps the outputs of a batch as long as the batch, since rFID, its variants and rIS look at the same images. A
    batch must therefore not be changed in place.
    """

    def __init__(self, path: Path) -> None:
        # Imported here: it takes seconds, and most commands do not need it.
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        self.network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
        )
        # What TensorFlow calls mixed_6/conv, after its ReLU.
        self.network.Mixed_6d.branch1x1.register_forward_hook(self._keep_spatial)
        self._kept: MutableMapping[Tensor, dict[Preprocessing, InceptionOutput]] = WeakIdKeyDictionary()

    def __call__(self, image: Tensor, preprocessing: Preprocessing = "paper") -> InceptionOutput:
        """Features of images float [B, 3, H, W] in [-1, 1] (clamped if beyond), in float32.

        preprocessing:
            paper: Open-MAGVIT2's (pytorch-fid's): floats in [0, 1], half-pixel bilinear resize without antialiasing,
                2 x - 1.
            u8: the same after rounding to 8-bit pixels, as if images had been saved.
            tf: 8-bit pixels, TensorFlow 1's corner-aligned resize, (x - 128) / 128: torch-fidelity and the ADM
                evaluator, for comparison with LlamaGen, TiTok and VQGAN.
        """
        kept = self._kept.setdefault(image, {})
        if preprocessing not in kept:
            with torch.no_grad(), float32(image.device.type):
                kept[preprocessing] = self._run(image, preprocessing)
        return kept[preprocessing]

    def _run(self, image: Tensor, preprocessing: Preprocessing) -> InceptionOutput:
        self.network.to(image.device)
        if preprocessing == "tf":
            return InceptionOutput(*self.network(to_uint8(image)), self._spatial)
        if preprocessing == "paper":
            unit = (image.to(torch.float32).clamp(-1.0, 1.0) + 1.0) / 2.0
        elif preprocessing == "u8":
            unit = to_uint8(image).to(torch.float32) / 255.0
        else:
            raise ValueError(f"preprocessing must be paper, u8 or tf, got {preprocessing!r}")
        x = F.interpolate(unit, size=(_INPUT_SIZE, _INPUT_SIZE), mode="bilinear", align_corners=False)
        x = 2.0 * x - 1.0
        *layers, classifier = self.network.children()  # in the order they are applied
        for layer in layers:
            x = layer(x)
        features = x.flatten(1)
        return InceptionOutput(features, features @ classifier.weight.T, self._spatial)

    def _keep_spatial(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._spatial = output[:, :_SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)


def load() -> Inception:
    """The network with its published weights, one object per process.

    Raises:
        WeightsUnavailable: naming the file, its address, its checksum and the folder to put it into.
    """
    return _load(weights.find(weights.INCEPTION))


@lru_cache(maxsize=1)
def _load(path: Path) -> Inception:
    return Inception(path)
