"""Measured steps in half precision: those of a Trainer, alike in both variants; what does not fit ends no section."""

import resource
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision as Plugin
from torch.utils.data import DataLoader

from open_magvit2.benchmark import at_largest_batch, failures, largest_batch, models, peaks, precisions
from open_magvit2.benchmark.mixed_precision import MixedPrecision, training_kernels
from open_magvit2.benchmark.our_step import OurTraining
from open_magvit2.benchmark.plain_step import PlainTraining
from open_magvit2.benchmark.settings import Settings
from open_magvit2.benchmark.training_step import StepPeak
from open_magvit2.benchmark.variants import BASELINE, OURS, Steps
from open_magvit2.image_tokenizer.discriminator import PatchDiscriminator
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.image_tokenizer.training import ImageTokenizerTraining
from open_magvit2.losses.adversarial import Adversary
from open_magvit2.losses.objective import GeneratorObjective
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer
from open_magvit2.training.cli import TrainingCLI

CPU = torch.device("cpu")
SETTINGS = Settings(CPU, full=False, repeats=1)
TOY = models.Case("toy", (1, 2), image_size=32, channels=32, num_bits=8)


def weights(steps: Steps) -> torch.Tensor:
    groups = [group for optimizer in steps.training.optimizers for group in optimizer.param_groups]
    return torch.nn.utils.parameters_to_vector([p for group in groups for p in group["params"]]).detach().clone()


def scaler(scale: float, interval: int = 2000) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=interval)


def tiny_training() -> ImageTokenizerTraining:
    """Without LPIPS, whose VGG a CPU computes slowly in float16; the same weights at every call."""
    torch.manual_seed(0)
    tokenizer = ImageTokenizer(LookupFreeQuantizer(6), 8, (1, 2, 2), 1, norm_groups=4)
    return ImageTokenizerTraining(
        tokenizer, GeneratorObjective(perceptual_weight=0.0), Adversary(PatchDiscriminator(4, 2))
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_measured_step_is_a_trainers_step(precision, tmp_path):
    trained, measured = tiny_training(), tiny_training()
    pixels = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8)
    scalers = [scaler(2.0**10, interval=2) if precision == "fp16" else None for _ in range(2)]
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        default_root_dir=tmp_path,
        plugins=[Plugin({"bf16": "bf16-mixed", "fp16": "16-mixed"}[precision], "cpu", scalers[0])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(trained, DataLoader([{"image": image} for image in pixels], batch_size=4))

    steps, surroundings = OurTraining(measured), MixedPrecision(precision, "cpu", scalers[1])
    for batch in pixels.split(4):
        steps.step(batch, surroundings)
    assert trainer.global_step == 3
    for (name, expected), got in zip(trained.named_parameters(), measured.named_parameters(), strict=True):
        assert torch.equal(expected, got[1]), name
    if precision == "fp16":
        assert scalers[0].get_scale() == scalers[1].get_scale() == 2.0**11  # grown once, after two steps


@pytest.mark.parametrize("variant", [BASELINE, OURS])
def test_fp16_scales_unscales_and_steps_only_where_gradients_are_finite(variant, monkeypatch):
    monkeypatch.setattr(models, "make_ours", lambda case, device, **options: OurTraining(tiny_training()))
    monkeypatch.setattr(models, "make_plain", lambda case, device: plain(tiny_training()))

    def plain(training):
        return PlainTraining(training.tokenizer, training.adversary.discriminator, None)

    steps = Steps(variant, TOY, "fp16", CPU)
    steps.surroundings = MixedPrecision("fp16", "cpu", scaler(2.0**34))
    before, step = weights(steps), steps.on_batch(2)
    step()
    assert torch.equal(weights(steps), before)  # both networks overflowed: none has stepped
    assert steps.loss_scale < 2.0**34
    steps.find_loss_scale(step)
    assert 1 <= steps.loss_scale < 2.0**34
    after = weights(steps)
    assert torch.isfinite(after).all()
    assert not torch.equal(after, before)

    norms = []
    for precision in ("fp32", "fp16"):
        steps = Steps(variant, TOY, precision, CPU)
        steps.surroundings = MixedPrecision(precision, "cpu", scaler(2.0**8) if precision == "fp16" else None)
        steps.on_batch(2)()
        trained = steps.training.optimizers[0].param_groups[0]["params"]
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in trained]).item())
    assert norms[1] == pytest.approx(norms[0], rel=0.1)  # not 2^8 times as large


def test_bf16_losses_of_both_variants_are_close():
    terms = [Steps(variant, TOY, "bf16", CPU).on_batch(2)() for variant in (BASELINE, OURS)]
    # 8 bits of mantissa; the baseline sums entropies and LPIPS in them as well, ours does not
    assert len(terms[0]) == 10
    for name, baseline in terms[0].items():
        assert terms[1][name].item() == pytest.approx(baseline.item(), rel=0.12), name
    for name in ("generator/total", "generator/reconstruction", "generator/codebook_entropy"):
        assert terms[1][name].item() == pytest.approx(terms[0][name].item(), rel=0.02), name


def test_what_does_not_fit_says_so_and_the_others_are_measured():
    status = Path("/proc/self/status").read_text().splitlines()
    virtual = 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmSize"))
    limits = resource.getrlimit(resource.RLIMIT_AS)
    # the baseline's first tensor [512, 2^18] has 512 MiB and fits, the second one does not; ours has none
    resource.setrlimit(resource.RLIMIT_AS, (virtual + 900 * 2**20, limits[1]))
    try:
        found = precisions.side_by_side((BASELINE, OURS), TOY._replace(num_bits=18), "fp32", 2, SETTINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert found[BASELINE] == failures.OUT_OF_MEMORY
    assert found[OURS].timed == "alone"
    assert found[OURS].seconds > 0
    table = precisions.Table("t", TOY, "fp32", 1, SETTINGS)
    assert table.row("baseline", found[BASELINE])["batch"] == "out of memory"
    assert table.row("ours", found[OURS], found[BASELINE])["speed ratio"] is None


def test_other_failures_are_rows_as_well_and_an_error_at_the_end():
    def broken():
        raise TypeError("no compiler\nlong trace")

    reason = failures.or_reason(broken)
    assert reason == "failed: TypeError: no compiler"
    rows = failures.then_raise([{"batch": reason}, {"batch": 8}])
    assert [next(rows)["batch"], next(rows)["batch"]] == [reason, 8]
    with pytest.raises(RuntimeError, match="1 variants: failed: TypeError: no compiler"):
        next(rows)
    with pytest.raises(TypeError):
        failures.unless_out_of_memory(broken)


@pytest.mark.parametrize(
    "message",
    [
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "FIND was unable to find an engine to execute this computation",
    ],
)
def test_libraries_without_memory_are_out_of_memory(message):
    assert failures.is_out_of_memory(RuntimeError(message))
    assert not failures.is_out_of_memory(ValueError(message))


@pytest.mark.parametrize(
    "message",
    [
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm`",
    ],
)
def test_other_errors_of_libraries_are_not(message):
    assert not failures.is_out_of_memory(RuntimeError(message))


def test_measured_kernels_are_those_that_a_training_chooses():
    before = torch.get_float32_matmul_precision()
    try:
        TrainingCLI.before_fit(None)  # it sets what this process's products may be, and needs no configuration for it
        expected = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        with training_kernels():
            assert torch.get_float32_matmul_precision() == expected
            assert torch.backends.cudnn.benchmark
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.fixture
def limited(monkeypatch):
    """A stand-in for a device that holds so many images a step, for the number that it is told; tiny networks."""
    real, most = Steps.on_batch, [0]

    def on_batch(self, number, image_size=None):
        step = real(self, min(number, 2))

        def limited_step():
            if number > most[0]:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return step()

        return limited_step

    monkeypatch.setattr(Steps, "on_batch", on_batch)
    monkeypatch.setattr(models, "make_ours", lambda case, device, **options: OurTraining(tiny_training()))
    return lambda number: most.__setitem__(0, number)


@pytest.mark.parametrize("most", [0, 40])
def test_the_largest_batch_is_found_to_one_part_in_32(most, limited):
    limited(most)
    found = largest_batch.largest(Steps(OURS, TOY, "fp32", CPU))
    assert found <= most
    assert most - found <= most / 32


def test_the_share_of_memory_is_cut_to_every_smaller_card_and_given_back(limited, monkeypatch):
    shares = []

    def set_share(share, device):
        shares.append(share)
        limited(round(10 * share))

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=int(40e9)))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", set_share)
    row = largest_batch._tried(TOY, OURS, SETTINGS)
    assert (row["in 16 GB"], row["in 32 GB"]) == (4, 8)
    assert row["in 80 GB"] == "not measured: this card is smaller"
    assert shares == [0.4, 1.0, 0.8, 1.0]


def test_a_step_at_the_largest_batch_gives_way_where_timing_needs_more(limited, monkeypatch):
    limited(5)
    assert at_largest_batch.at_largest(OURS, TOY, "fp32", SETTINGS).batch == 5
    limited(4)
    assert at_largest_batch.at_largest(OURS, TOY, "fp32", SETTINGS, known=5).batch == 4
    limited(0)
    assert at_largest_batch.at_largest(OURS, TOY, "fp32", SETTINGS) == failures.OUT_OF_MEMORY
    assert at_largest_batch.at_largest(OURS, TOY, "fp32", SETTINGS, known=2) == failures.OUT_OF_MEMORY
    reason = at_largest_batch.at_largest(OURS, TOY, "fp32", SETTINGS, known=40)  # 40, 36, 32
    assert reason == "out of memory down to batch 32; fewer images were not tried"


def test_rows_in_float32_and_bfloat16(monkeypatch):
    monkeypatch.setattr(models, "TINY", TOY)
    rows = list(precisions.measure(SETTINGS))
    by_precision = {
        precision: [row for row in rows if row["precision"] == precision] for precision in precisions.PRECISIONS
    }
    baseline, ours, compiled = by_precision["fp32"]
    assert (baseline["speed ratio"], baseline["memory ratio beyond gradients"]) == (1, 1)
    assert ours["memory ratio beyond gradients"] > 1.2
    assert ours["peak with gradients [MiB]"] > ours["peak beyond gradients [MiB]"]
    assert ours["MFU [%]"] == "unknown"
    assert compiled["batch"].startswith("not measured: ")
    assert [row["batch"].split(":")[0] for row in by_precision["fp16"]] == ["not measured"]
    assert len(by_precision["bf16"]) in (1, 3)  # by what the processor can do


@pytest.mark.parametrize(
    ("name", "fp16"),
    [
        ("Tesla V100-SXM2-32GB", 125.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H200", 989.5),
        *((name, None) for name in ("NVIDIA RTX A1000", "NVIDIA GH200 480GB", "NVIDIA A100-SXM4-40GB MIG 1g.5gb")),
    ],
)
def test_peaks_are_those_of_data_sheets_or_unknown(name, fp16):
    assert peaks.rates(name).get("fp16") == fp16


def test_ratios_are_of_images_a_second_and_of_memory_an_image():
    baseline = precisions.Found(2, 6.0, StepPeak(9 * 2**20, 6 * 2**20, {}), None, "alone")
    ours = precisions.Found(8, 4.0, StepPeak(8 * 2**20, 4 * 2**20, {}), None, "alone")
    row = precisions.Table("t", TOY, "fp32", 1, SETTINGS).row("ours", ours, baseline)
    assert (row["step [CPU s]"], row["images / CPU s"], row["speed ratio"]) == (4, 2, pytest.approx(6))
    assert (row["peak with gradients [MiB]"], row["memory ratio with gradients"]) == (8, 4.5)
    assert (row["peak beyond gradients [MiB]"], row["memory ratio beyond gradients"]) == (4, 6)


def test_a_gpus_memory_is_compared_with_gradients_alone():
    found = [precisions.Found(2, 1.0, StepPeak(peak, None, {}), None, "alone") for peak in (3 * 2**20, 2**20)]
    row = precisions.Table("t", TOY, "fp32", 1, SETTINGS).row("ours", found[1], found[0])
    assert (row["peak with gradients [MiB]"], row["memory ratio with gradients"]) == (1.0, 3.0)
    assert not any("beyond" in column for column in row)


def test_a_peak_belongs_to_a_precision(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100-SXM2-16GB")
    gpu = torch.device("cuda", 0)
    assert peaks.peak(gpu, "fp32") == (15.7e12, "data sheet, fp32")  # no TF32 in a V100
    assert peaks.peak(gpu, "bf16")[0] is None
    assert peaks.peak(CPU, "fp32")[0] is None
