"""rFID with torch-fidelity's and the ADM evaluator's resize, for comparison with LlamaGen, TiTok and VQGAN."""

from open_magvit2.evaluation.metrics import MetricContext
from open_magvit2.evaluation.metrics.rfid import ReconstructionFID


def create(context: MetricContext) -> ReconstructionFID:
    return ReconstructionFID("rfid_tf", "tf", context.dataset_key)
