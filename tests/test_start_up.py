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
    modules = ", ".join(f"open_magvit2.evaluation.{name}" for name in ("report.write", "command_line", "table"))
    code = f"import sys, {modules}; print([name for name in {HEAVY} if name in sys.modules])"
    assert run(sys.executable, "-c", code).stdout.strip() == "[]"
