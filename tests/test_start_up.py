"""Nobody waits for imports: CPU seconds of fresh processes, which do not grow when others use the cores as well.

(How long `--help` takes is in test_scripts.py.)
"""

import sys

from test_scripts import DEBUG

from open_magvit2.benchmark.start_up import process_time

# take seconds to import, and only some metrics and losses use them
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
    code = f"import sys, open_magvit2.evaluation.report; print([name for name in {HEAVY} if name in sys.modules])"
    command = [sys.executable, "-c", code]
    found = process_time(command)
    assert found.output.strip() == "[]"
    assert found.cpu_seconds < 4.0 or process_time(command).cpu_seconds < 4.0  # the file caches may have been cold


def test_first_training_step(repository, tmp_path):
    command = [sys.executable, repository / "scripts/train.py", "fit", *DEBUG, "--trainer.max_steps", "1"]
    found = process_time(command, tmp_path)
    assert (tmp_path / "outputs/debug/version_0/checkpoints/last.ckpt").is_file()
    assert found.cpu_seconds < 20.0 or process_time(command, tmp_path).cpu_seconds < 20.0
