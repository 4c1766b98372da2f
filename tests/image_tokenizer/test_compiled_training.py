"""A whole training with compiled networks: as the Trainer runs it, interrupted and continued, in half precision.

On `aot_eager`, which makes the graphs and not the kernels; a slow test trains on inductor's.
"""

import copy
import functools
import sys
from pathlib import Path

import pytest
import torch
from commands import run
from small_training import data, module, trainer
from torch._dynamo.utils import counters

from open_magvit2 import load_tokenizer
from open_magvit2.common import checkpoints
from open_magvit2.evaluation.metrics.psnr import PSNR
from open_magvit2.image_tokenizer import training
from open_magvit2.image_tokenizer.discriminator import PatchDiscriminator
from open_magvit2.image_tokenizer.encoder import Encoder
from open_magvit2.training.cli import main
from open_magvit2.training.compilation import compile_networks
from open_magvit2.training.ema import ExponentialMovingAverage
from open_magvit2.training.image_grid import ImageGrid
from open_magvit2.training.recomputation import set_recomputation

ROOT = Path(__file__).resolve().parents[2]
DEBUG = ["--config", *(str(ROOT / "configs/image_tokenizer" / name) for name in ("base.yaml", "debug.yaml"))]
DEBUG.insert(2, "--config")


@pytest.fixture(autouse=True)
def fresh_compiler():
    """No test sees another's graphs or settings."""
    torch._dynamo.reset()
    counters.clear()
    dynamo = torch._dynamo.config.patch(optimize_ddp=True, recompile_limit=8)
    with dynamo, torch._functorch.config.patch(donated_buffer=True):
        yield
    torch._dynamo.reset()
    counters.clear()


def num_graphs() -> int:
    return counters["stats"]["unique_graphs"]


@pytest.mark.long
def test_a_compiled_training_ends_where_the_other_does_and_validates_without_compiling(tmp_path):
    """In float64, with micro-batches and channels last; on averages, 7 images in batches of 4 and 3, and pictures."""
    ends = []
    for compiled in (False, True):
        made = module(metrics=[PSNR()], channels_last=compiled).double()
        if compiled:
            compile_networks(*made.networks(), backend="aot_eager")
        callbacks = [ExponentialMovingAverage(), ImageGrid(num_images=2)]
        fitting = trainer(tmp_path, max_steps=4, val_check_interval=2, precision="64-true", callbacks=callbacks)
        fitting.fit(made, data())
        ends.append((made.state_dict(), {name: float(value) for name, value in fitting.callback_metrics.items()}))
    assert num_graphs() == 4  # encoder, decoder, discriminator with frozen weights or not: of training alone
    assert list(ends[1][0]) == list(ends[0][0])
    for name, expected in ends[0][0].items():
        assert torch.allclose(ends[1][0][name], expected, rtol=1e-8, atol=1e-10), name
    assert ends[1][1] == pytest.approx(ends[0][1], rel=1e-5)  # Lightning keeps figures in float32


def fit(folder: Path, max_steps: int, *flags: str) -> Path:
    """`train.py fit --ckpt_path last` with the debug config; the newest checkpoint."""
    words = ["fit", *DEBUG, "--trainer.max_steps", str(max_steps), "--trainer.val_check_interval", "2"]
    words += ["--trainer.logger.init_args.save_dir", str(folder), "--trainer.enable_model_summary", "false"]
    made = main([*words, "--ckpt_path", "last", *flags])
    return Path(made.trainer.log_dir) / "checkpoints" / "last.ckpt"


@pytest.mark.long
def test_an_interrupted_compiled_training_continues_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    on_graphs = functools.partial(compile_networks, backend="aot_eager")
    monkeypatch.setattr(training, "compile_networks", on_graphs)
    compiled = ("--model.init_args.compiled", "true")
    undisturbed = checkpoints.read(fit(tmp_path / "undisturbed", 4, *compiled))
    fit(tmp_path / "continued", 2, *compiled)
    torch._dynamo.reset()  # as a new process
    before = num_graphs()
    path = fit(tmp_path / "continued", 4, *compiled)
    assert num_graphs() == before + 4
    continued = checkpoints.read(path)
    for weights in ("state_dict", "current_model_state", "optimizer_states"):
        assert checkpoints.differences(continued[weights], undisturbed[weights]) == []
    # other programs, and the same one without the option, take the file as any other
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert load_tokenizer(path).reconstruct(image)[0].isfinite().all()
    before = num_graphs()
    uncompiled = checkpoints.read(fit(tmp_path / "continued", 6))
    assert num_graphs() == before
    assert list(uncompiled["state_dict"]) == list(continued["state_dict"])


@pytest.mark.parametrize("saved", [False, True])
def test_channels_last_may_change_when_a_training_continues(tmp_path, saved):
    """The moments of Adam, and the averages, follow the weights into the other memory format; in float64."""

    def train(channels_last: bool, max_steps: int, path: Path | None = None):
        made, averaging = module(channels_last=channels_last), ExponentialMovingAverage(0.9)
        options = {"precision": "64-true", "limit_val_batches": 0, "callbacks": [averaging]}
        fitting = trainer(tmp_path, max_steps=max_steps, **options)
        fitting.fit(made, data(), ckpt_path=path)
        return fitting, made, averaging.average_module

    fitting, before, _ = train(saved, 3)
    fitting.save_checkpoint(tmp_path / "saved.ckpt", weights_only=False)
    ends = [train(continued, 5, tmp_path / "saved.ckpt")[1:] for continued in (saved, not saved)]
    for same, other in zip(*ends, strict=True):  # the weights; the averages
        for (name, expected), got in zip(same.named_parameters(), other.parameters(), strict=True):
            assert torch.allclose(got, expected, rtol=1e-8, atol=1e-10), name
    old, same, other, average = (made.tokenizer.encoder.conv_in.weight for made in (before, ends[0][0], *ends[1]))
    assert not torch.allclose(same, old, atol=1e-4)
    assert other.stride() == average.stride() != same.stride()


@pytest.mark.long
def test_compiled_bf16_is_closer_to_bf16_than_that_to_float32(tmp_path):
    gradients = {}
    for name, precision in (("float32", "32-true"), ("bf16", "bf16-mixed"), ("compiled", "bf16-mixed")):
        made = module()
        if name == "compiled":
            compile_networks(*made.networks(), backend="aot_eager")
        trainer(tmp_path, max_steps=1, precision=precision, limit_val_batches=0).fit(made, data(global_batch_size=4))
        gradients[name] = {
            network: torch.cat([parameter.grad.flatten() for parameter in made.get_submodule(network).parameters()])
            for network in ("tokenizer", "adversary.discriminator")
        }
    assert num_graphs() == 5  # the discriminator sees real images in float32, reconstructions in bf16
    for network, exact in gradients["float32"].items():
        rounding = float((gradients["bf16"][network] - exact).norm())
        assert rounding > 0.01 * float(exact.norm())
        assert float((gradients["compiled"][network] - gradients["bf16"][network]).norm()) < 0.1 * rounding


@pytest.mark.long
def test_the_level_of_recomputation_and_the_batch_may_change_later():
    image = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plain = Encoder(4, channels=4, channel_multipliers=(1, 1), num_residual_blocks=1, norm_groups=2).double()
    compiled = copy.deepcopy(plain)
    compile_networks(compiled, backend="aot_eager")
    sizes = [(4, "none"), (3, "none"), (5, "none"), (2, "none"), (4, "none"), (4, "blocks"), (4, "none")]
    for size, level in sizes:
        set_recomputation(compiled, level)
        for network in (plain, compiled):
            network.zero_grad()
            network(image[:size]).square().mean().backward()
        for expected, got in zip(plain.parameters(), compiled.parameters(), strict=True):
            assert torch.allclose(got.grad, expected.grad, rtol=1e-9, atol=1e-12)
    assert num_graphs() == 3  # 4 images; any number; blocks recomputed


@pytest.mark.long
def test_many_architectures_are_compiled_in_one_process():
    image = torch.zeros(1, 3, 8, 8)
    for channels in range(1, 11):  # two more than PyTorch's own limit
        network = PatchDiscriminator(channels, num_layers=1)
        compile_networks(network, backend="aot_eager")
        with torch.no_grad():
            assert network(image).shape == (1, 1, 2, 2)


FIRST_PASS = """
import torch
from open_magvit2.image_tokenizer import decoder, encoder, vision_transformer
from open_magvit2.training.compilation import compile_networks

image, codes = torch.zeros(1, 3, 8, 8), torch.zeros(1, 4, 4, 4)
convolutional = dict(latent_channels=4, channels=4, channel_multipliers=(1, 1), num_residual_blocks=1, norm_groups=2)
transformer = dict(latent_channels=4, patch=2, width=8, num_heads=1, num_blocks=1)
for network, inputs in (
    (decoder.Decoder(**convolutional), codes),
    (encoder.Encoder(**convolutional), image),
    (vision_transformer.TransformerDecoder(**transformer), codes),
    (vision_transformer.TransformerEncoder(**transformer), image),
):
    compile_networks(network, backend="aot_eager")
    network(inputs).sum().backward()
"""


@pytest.mark.long
def test_the_first_pass_of_a_process_may_be_a_compiled_one():
    """What a library prepares at its first call in a process is not prepared inside a graph."""
    run(sys.executable, "-c", FIRST_PASS)


@pytest.mark.slow
def test_inductor_trains_by_command_line_validates_and_continues(tmp_path):
    command = [sys.executable, ROOT / "scripts/train.py", "fit", *DEBUG, "--ckpt_path", "last"]
    ends = {}
    variables = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "kernels")}
    for compiled in ("false", "true"):
        folder = tmp_path / compiled
        folder.mkdir()
        for max_steps in ("2", "4"):
            flags = ["--model.init_args.compiled", compiled, "--trainer.max_steps", max_steps]
            flags += ["--trainer.val_check_interval", "2"]
            result = run(*command, *flags, folder=folder, timeout=1800, **variables)
            assert f"validation at step {max_steps}" in result.stderr
        ends[compiled] = checkpoints.read(folder / "outputs/debug/version_0/checkpoints/last.ckpt")["state_dict"]
    assert list(ends["true"]) == list(ends["false"])
    for name, expected in ends["false"].items():
        assert torch.allclose(ends["true"][name], expected, atol=1e-3), name
