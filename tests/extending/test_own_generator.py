"""To add a generator: a class that fulfils the protocol; commands open it, beside a quantizer of a user."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from commands import ROOT, run_here
from PIL import Image
from small_checkpoint import save_small_checkpoint
from torch import Tensor, nn

from open_magvit2 import load_tokenizer
from open_magvit2.common.construction import describe
from open_magvit2.evaluation import generation_command_line
from open_magvit2.generators.autoregressive import AutoregressiveGenerator
from open_magvit2.generators.on_the_fly import Maker
from open_magvit2.generators.pretrained import GENERATOR_KEY
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer
from open_magvit2.training.cli import main


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


class Small(AutoregressiveGenerator):
    """A subclass of ours, with fewer arguments."""

    def __init__(self, bits: Sequence[int] = (3, 3), grid: Sequence[int] = (4, 4), num_classes: int = 3) -> None:
        super().__init__(bits, grid, num_classes, 16, 2, num_spatial_blocks=1, num_factorized_blocks=1)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Flags that name the files of a generator and a tokenizer of a user."""
    tokenizer = save_small_checkpoint(tmp_path / "tokenizer.ckpt", quantizer=OwnQuantizer())
    generator = Uniform()
    state = {f"generator.{name}": value for name, value in generator.state_dict().items()}
    torch.save({GENERATOR_KEY: describe(generator), "state_dict": state}, tmp_path / "generator.ckpt")
    return ["--generator", str(tmp_path / "generator.ckpt"), "--tokenizer", str(tokenizer), "--device", "cpu"]


def test_pictures_by_class_of_a_user_s_generator_and_quantizer(tmp_path, files):
    words = (*files, "--classes", "0", "--per-class", "1", "--output", tmp_path / "made")
    refused = run_here(ROOT / "scripts/sample.py", *words)
    assert refused.returncode
    assert f"--allow-modules {__name__}" in refused.stderr
    done = run_here(ROOT / "scripts/sample.py", *words, "--allow-modules", __name__)
    assert done.returncode == 0, done.stderr
    (made,) = (tmp_path / "made").glob("0_*.png")
    assert Image.open(made).size == (16, 16)


def test_an_evaluation_makes_their_images(tmp_path, files):
    words = [*files, "--num-images", "3", "--reference", str(tmp_path), "--output", str(tmp_path / "evaluated")]
    args = generation_command_line.parse("", ROOT / "configs/evaluation", [*words, "--allow-modules", __name__])
    making = Maker(args, load_tokenizer, torch.device("cpu")).making({})
    assert making.make(making.labels, making.seeds).shape == (3, 3, 16, 16)
    refused = generation_command_line.parse("", ROOT / "configs/evaluation", words)
    with pytest.raises(ValueError, match=f"--allow-modules {__name__}"):
        Maker(refused, load_tokenizer, torch.device("cpu"))


@pytest.mark.long
def test_a_subclass_of_ours_is_trained_continued_and_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    tokenizer = save_small_checkpoint(tmp_path / "tokenizer.ckpt", quantizer=OwnQuantizer())
    configs = (ROOT / "configs/generators" / name for name in ("base.yaml", "debug.yaml"))
    words = ["fit", *(word for file in configs for word in ("--config", file))]
    words += ["--model.init_args.generator", f"{__name__}.Small", "--model.init_args.generator.bits", "[3, 3]"]
    words += ["--model.init_args.generator.grid", "[4, 4]", "--model.init_args.generator.num_classes", 10]
    words += ["--model.init_args.tokenizer.init_args.path", tokenizer, "--data.init_args.image_size", 16]
    words += ["--model.init_args.tokenizer.init_args.allowed_modules", f"[{__name__}]"]
    words += ["--trainer.logger.init_args.save_dir", tmp_path]
    for more in (("--trainer.max_steps", 4), ("--trainer.max_steps", 5, "--ckpt_path", "last")):
        trained = main(list(map(str, (*words, *more))))
    assert trained.trainer.global_step == 5
    generator = Path(trained.trainer.log_dir) / "checkpoints" / "last.ckpt"
    flags = ("--generator", generator, "--classes", "0", "--per-class", "1", "--allow-modules", __name__)
    done = run_here(ROOT / "scripts/sample.py", *flags, "--device", "cpu", "--output", tmp_path / "made")
    assert done.returncode == 0, done.stderr
