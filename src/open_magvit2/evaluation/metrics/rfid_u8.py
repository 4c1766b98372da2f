"""rFID after rounding originals and reconstructions to 8-bit pixels, as if they had been saved as PNG."""

from open_magvit2.evaluation.metrics import MetricContext
from open_magvit2.evaluation.metrics.rfid import ReconstructionFID


def create(context: MetricContext) -> ReconstructionFID:
    return ReconstructionFID("rfid_u8", "u8", context.dataset_key)
