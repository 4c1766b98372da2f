"""To add a generator: a class that fulfils the protocol; scripts/sample.py opens it, beside a quantizer of a user."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from commands import ROOT, run_here
from PIL import Image
from small_checkpoint import save_small_checkpoint
from torch import Tensor, nn

from open_magvit2.common.construction import describe
from open_magvit2.generators.pretrained import GENERATOR_KEY
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer


class OwnQuantizer(LookupFreeQuantizer):
    """A user's."""

    def __init__(self, num_bits: int = 6) -> None:
        super().__init__(num_bits)


@dataclass
class Settings:
    """Options of `Uniform`."""

    lowest: int = 0


class Uniform(nn.Module):
    """Draws every token uniformly; a weight keeps it from being empty."""

    def __init__(self, codebook_size: int = 64, num_classes: int = 3, grid: Sequence[int] = (4, 4)) -> None:
        super().__init__()
        self.codebook_size, self.num_classes, self.grid = codebook_size, num_classes, grid
        self.weight = nn.Parameter(torch.zeros(()))

    def make_settings(self, **options) -> Settings:
        return Settings(**options)

    def generate(self, labels: Tensor, seeds: Sequence[int], settings: Settings | None = None) -> Tensor:
        rows = [torch.Generator().manual_seed(seed) for seed in seeds]
        return torch.stack([torch.randint(self.codebook_size, tuple(self.grid), generator=row) for row in rows])


def test_pictures_by_class_of_a_user_s_generator_and_quantizer(tmp_path: Path):
    tokenizer = save_small_checkpoint(tmp_path / "tokenizer.ckpt", quantizer=OwnQuantizer())
    generator = Uniform()
    state = {f"generator.{name}": value for name, value in generator.state_dict().items()}
    torch.save({GENERATOR_KEY: describe(generator), "state_dict": state}, tmp_path / "generator.ckpt")
    words = ("--generator", tmp_path / "generator.ckpt", "--tokenizer", tokenizer, "--device", "cpu", "--classes", "0")
    words += ("--per-class", "1", "--output", tmp_path / "made")
    refused = run_here(ROOT / "scripts/sample.py", *words)
    assert refused.returncode
    assert f"--allow-modules {__name__}" in refused.stderr
    done = run_here(ROOT / "scripts/sample.py", *words, "--allow-modules", __name__)
    assert done.returncode == 0, done.stderr
    (made,) = (tmp_path / "made").glob("0_*.png")
    assert Image.open(made).size == (16, 16)
