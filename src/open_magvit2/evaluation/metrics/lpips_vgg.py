"""LPIPS with VGG-16 alone, the network that trains the tokenizers."""

from open_magvit2.evaluation.metrics import MetricContext
from open_magvit2.evaluation.metrics.lpips import LPIPS


def create(context: MetricContext) -> LPIPS:
    return LPIPS(("vgg",))
