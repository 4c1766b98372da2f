"""Nobody waits for imports: CPU seconds of fresh processes, on a core that nobody else slows down (undisturbed.py).

(How long `--help` takes is in test_scripts.py.)
"""

import sys

from test_scripts import DEBUG
from undisturbed import IMPORT_TORCH, Yardstick, undisturbed

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
    found = undisturbed([sys.executable, "-c", code], limit=4.0)
    assert found.output.strip() == "[]"
    assert found.cpu_seconds < 4.0


def test_first_training_step(repository, tmp_path):
    command = [sys.executable, repository / "scripts/train.py", "fit", *DEBUG, "--trainer.max_steps", "1"]
    found = undisturbed(command, limit=20.0, folder=tmp_path)
    assert (tmp_path / "outputs/debug/version_0/checkpoints/last.ckpt").is_file()
    assert found.cpu_seconds < 20.0


def compute(amount: int) -> list[str]:
    """A command that computes so much."""
    return [sys.executable, "-c", f"sum(range({amount} * 10_000_000))"]


def test_a_slow_command_is_told_from_a_slowed_core():
    """As if this core were three times slower than the one the limit was set on, for twice the yardstick's work."""
    slowed = Yardstick(compute(1), process_time(compute(1)).cpu_seconds / 3)
    limit = 2 * slowed.quiet_cpu_seconds
    assert undisturbed(compute(1), limit, yardstick=slowed).cpu_seconds < limit
    assert undisturbed(compute(4), limit, yardstick=slowed).cpu_seconds > limit


def test_a_faster_core_makes_nothing_slower_and_within_the_limit_nothing_is_compared():
    faster = Yardstick(compute(1), quiet_cpu_seconds=1000.0)
    assert undisturbed(compute(1), limit=0.0, yardstick=faster).cpu_seconds < 100.0
    fails = Yardstick([sys.executable, "-c", "raise SystemExit(1)"], quiet_cpu_seconds=1.0)
    assert undisturbed(compute(1), limit=1000.0, yardstick=fails).cpu_seconds > 0.0


def test_the_yardstick_is_the_one_of_the_documentation(repository):
    row = f"| `import torch`, the floor | {IMPORT_TORCH.quiet_cpu_seconds:.2f} |"
    assert row in (repository / "docs/performance.md").read_text()
