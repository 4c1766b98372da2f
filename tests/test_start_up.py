"""Importing the package loads no library that takes seconds and that only some metrics and losses use."""

import sys

from commands import run

HEAVY = [
    "torchvision",
    "torchmetrics",
    "torch_fidelity",
    "lpips",
    "scipy",
    "matplotlib",
    "tensorboard",
    "pytorch_lightning",
]


def test_import_and_evaluation_without_what_they_may_never_need():
    code = f"import sys, open_magvit2.evaluation.report.write, open_magvit2.evaluation.command_line, open_magvit2.evaluation.table; print([name for name in {HEAVY} if name in sys.modules])"
    assert run(sys.executable, "-c", code).stdout.strip() == "[]"
