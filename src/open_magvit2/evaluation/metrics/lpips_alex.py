"""LPIPS with AlexNet alone, the cheap one."""

from open_magvit2.evaluation.metrics import MetricContext
from open_magvit2.evaluation.metrics.lpips import LPIPS


def create(context: MetricContext) -> LPIPS:
    return LPIPS(("alex",))
