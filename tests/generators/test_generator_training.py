"""Training of both generators: losses, optimizer, draws, figures, checkpoints; 32 images are learned by heart."""

import math

import pytest
import torch
from generator_goldens import GOLDENS
from small_generator_training import CLASSES, GRID, data, module, parameters, tokens, trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from open_magvit2.common import checkpoints
from open_magvit2.generators.autoregressive import AutoregressiveGenerator
from open_magvit2.generators.autoregressive_training import AutoregressiveTraining
from open_magvit2.generators.masking import MaskedSampling, sample_masked
from open_magvit2.generators.pretrained import GENERATOR_KEY, MADE_BY_KEY, load_generator
from open_magvit2.generators.sampling import Sampling, sample
from open_magvit2.generators.schedules import WarmupLinear
from open_magvit2.training.ema import ExponentialMovingAverage
from open_magvit2.training.progress import TrainingProgress
from open_magvit2.training.schedules import WarmupCosine

KINDS = ["autoregressive", "masked"]


def batch(number: int = 8) -> dict[str, torch.Tensor]:
    return {"tokens": tokens(number), "label": torch.arange(number) % CLASSES, "index": torch.arange(number)}


@pytest.mark.parametrize("size", ["B", "XL"])
def test_the_schedule_is_the_published_one(size):
    golden = GOLDENS["learning_rate"][size]
    steps = golden["steps_per_epoch"]
    schedule = WarmupLinear(golden["epochs"] * steps, golden["warmup_epochs"] * steps)
    for step, expected in golden["values"].items():
        assert golden["peak"] * schedule(int(step)) == pytest.approx(expected, rel=1e-12)


def test_a_warm_up_without_end_is_refused():
    with pytest.raises(ValueError, match=r"total_steps must be at least 11, got 10"):
        WarmupLinear(10, 9)


def test_matrices_decay_and_vectors_do_not():
    training = module(weight_decay=0.05)
    decayed, kept = training.configure_optimizers().param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.05, 0.0)
    assert {p.ndim for p in decayed["params"]} == {2}
    assert {p.ndim for p in kept["params"]} == {1}
    assert len(decayed["params"]) + len(kept["params"]) == len(list(training.generator.parameters()))
    optimizer = training.configure_optimizers()
    before = {name: p.detach().clone() for name, p in training.generator.named_parameters()}
    for parameter in training.generator.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in training.generator.named_parameters():
        factor = 1 - 1e-3 * 0.05 if parameter.ndim == 2 else 1.0
        assert torch.allclose(parameter, before[name] * factor, rtol=1e-6, atol=0), name


@pytest.mark.parametrize("classes", [[-1, 3], [50, 3], [CLASSES], [1.5]])
def test_pictured_classes_outside_the_table_are_refused(classes):
    with pytest.raises(ValueError, match=r"pictured_classes must be (in \[0, 31\]|an integer), got \["):
        module(pictured_classes=classes)


def test_the_first_eight_classes_are_pictured_where_none_are_named():
    assert module().pictured_classes == list(range(8))
    assert module(sizes={"num_classes": 3}).pictured_classes == [0, 1, 2]
    assert module(pictured_classes=[]).pictured_classes == []


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_autoregressive_loss_is_the_sum_of_mean_cross_entropies(label_smoothing):
    training = module(sizes={"dropout": 0.0}, label_smoothing=label_smoothing, class_dropout=0.0).double()
    for head in training.generator.heads:
        torch.nn.init.normal_(head.weight)
    drawn = training.with_draws(batch(), 0)
    total, terms = training.losses(drawn)
    sub_tokens = training.generator.factorization.split(tokens(8).flatten(1))
    logits = training.generator(sub_tokens, drawn["label"])
    expected = [
        torch.nn.functional.cross_entropy(v.flatten(0, 1), sub_tokens[..., g].flatten(), label_smoothing=s)
        for s in (label_smoothing, 0.0)
        for g, v in enumerate(logits)
    ]
    assert total.item() == pytest.approx(sum(expected[:2]).item(), rel=1e-12)
    assert [terms[f"loss_{g}"].item() for g in range(2)] == pytest.approx([v.item() for v in expected[2:]], rel=1e-12)
    right = (logits[1].argmax(-1) == sub_tokens[..., 1]).double().mean()
    assert terms["accuracy_1"].item() == pytest.approx(right.item(), rel=1e-6)


def test_the_first_loss_is_that_of_guessing():
    _, terms = (training := module()).losses(training.with_draws(batch(), 0))
    assert terms["loss"].item() == pytest.approx(2 * math.log(8), rel=1e-6)


@pytest.mark.parametrize("unmasked_weight", [1.0, 0.1, 0.0])
def test_the_masked_loss_weighs_what_is_not_masked(unmasked_weight):
    options = {"label_smoothing": 0.0, "class_dropout": 0.0, "unmasked_weight": unmasked_weight}
    training = module("masked", {"dropout": 0.0}, **options).double()
    drawn = training.with_draws(batch(), 0)
    total, terms = training.losses(drawn)
    sub_tokens, mask = training.generator.factorization.split(tokens(8).flatten(1)), drawn["is_masked"]
    assert 0.2 < mask.double().mean() < 0.8
    logits = training.generator(sub_tokens, mask, drawn["label"])
    expected = 0.0
    for group, values in enumerate(logits):
        nats = torch.nn.functional.cross_entropy(values.movedim(-1, 1), sub_tokens[..., group], reduction="none")
        weight = torch.where(mask[..., group], 1.0, unmasked_weight).double()
        expected += ((nats * weight).sum() / weight.sum()).item()
        assert terms[f"loss_{group}"].item() == pytest.approx(nats[mask[..., group]].mean().item(), rel=1e-12)
    assert total.item() == pytest.approx(expected, rel=1e-6)


def test_draws_depend_on_seed_step_and_sample_alone():
    training = module("masked", class_dropout=0.5)
    first, again = training.with_draws(batch(), 3), training.with_draws(batch(), 3)
    assert all(torch.equal(first[name], again[name]) for name in first)
    half = {name: values[4:] for name, values in batch().items()}  # the second of two ranks
    assert torch.equal(training.with_draws(half, 3)["is_masked"], first["is_masked"][4:])
    assert not torch.equal(training.with_draws(batch(), 4)["is_masked"], first["is_masked"])
    assert not torch.equal(module("masked", seed=1).with_draws(batch(), 3)["is_masked"], first["is_masked"])
    assert not training.with_draws(batch(), None)["is_dropped"].any()  # validation drops no class
    many = {name: values.repeat(50, *[1] * (values.ndim - 1)) for name, values in batch().items()}
    many["index"] = torch.arange(400)
    assert 0.4 < training.with_draws(many, 0)["is_dropped"].double().mean() < 0.6


def test_dropped_classes_become_the_null_class():
    training = module(class_dropout=0.0)
    training.generator.embed = lambda _, labels: pytest.fail(f"labels {labels.tolist()}")
    drawn = {**training.with_draws(batch(2), 0), "is_dropped": torch.tensor([True, False])}
    with pytest.raises(pytest.fail.Exception, match=rf"labels \[{CLASSES}, 1\]"):
        training.losses(drawn)


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_make_the_step_of_the_whole_batch(kind):
    results = []
    for size in (8, 2):
        options = {"micro_batch_size": size, "class_dropout": 0.3}
        training = module(kind, {"dropout": 0.0}, **options).double()
        terms = training_step(training)
        results.append((parameters(training.generator), float(terms["gradient_norm"])))
    assert torch.allclose(results[0][0], results[1][0], rtol=1e-7, atol=1e-10)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-9)


def training_step(training, step: int = 0):
    return training.train_on(training.with_draws(batch(), step), training.configure_optimizers())


def test_gradients_are_clipped_and_a_step_that_is_not_finite_is_skipped():
    training = module(gradient_clip_norm=1e-3)
    norm = training_step(training)["gradient_norm"]
    clipped = torch.nn.utils.get_total_norm([p.grad for p in training.generator.parameters()])
    assert clipped.item() == pytest.approx(1e-3, rel=1e-3)
    assert norm.item() > 2e-3
    training.generator.norm.weight.data[0] = math.nan
    before = parameters(training.generator)
    assert not training_step(training)["gradient_norm"].isfinite()
    assert torch.equal(parameters(training.generator).nan_to_num(), before.nan_to_num())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recompute", ["activations", "blocks"])
def test_recomputation_changes_no_number(kind, recompute):
    """Blocks not one bit; activations are other sums of the same terms. Dropout draws the same."""
    results = []
    for level in ("none", recompute):
        training = module(kind, recompute=level).double()
        torch.manual_seed(1)
        training_step(training)
        results.append(torch.cat([p.grad.flatten() for p in training.generator.parameters() if p.grad is not None]))
    if recompute == "blocks":
        assert torch.equal(*results)
    assert torch.allclose(*results, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="recompute must be one of"):
        module(kind, recompute="everything")


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_trains(tmp_path, kind, precision):
    from pytorch_lightning.plugins import MixedPrecision

    options = {"precision": precision}
    if precision == "16-mixed":  # Lightning makes a scaler for GPUs alone
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        options = {"plugins": [MixedPrecision(precision, "cpu", scaler)]}
    training = module(kind)
    before = parameters(training.generator)
    trainer(tmp_path, **options).fit(training, data(tmp_path))
    after = parameters(training.generator)
    assert after.dtype == torch.float32
    assert after.isfinite().all()
    assert not torch.equal(after, before)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_logged(tmp_path, kind):
    from pytorch_lightning.loggers import TensorBoardLogger

    logger = TensorBoardLogger(tmp_path)
    options = {"max_steps": 4, "val_check_interval": 4, "log_every_n_steps": 2, "callbacks": [TrainingProgress()]}
    run = trainer(tmp_path, logger=logger, enable_progress_bar=True, **options)
    training = module(kind, schedule=WarmupCosine(4, 2))
    run.fit(training, data(tmp_path))
    events = EventAccumulator(logger.log_dir).Reload()
    scalars = set(events.Tags()["scalars"])
    both = {"loss", "loss_0", "loss_1", "accuracy_0", "accuracy_1"}
    both |= {"bits_per_dimension"} if kind == "autoregressive" else set()
    expected = {f"train/{name}" for name in (*both, "gradient_norm", "learning_rate", "tokens_per_second")}
    assert expected | {f"validation/{name}" for name in both} <= scalars
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4]
    assert events.Scalars("validation/loss")[0].step == 4
    assert events.Scalars("train/learning_rate")[0].value == pytest.approx(1e-3 * WarmupCosine(4, 2)(1), rel=1e-6)
    if kind == "autoregressive":
        loss = run.callback_metrics["validation/loss"].item()
        bits = loss * 16 / math.log(2) / (3 * 16 * 16)
        assert run.callback_metrics["validation/bits_per_dimension"].item() == pytest.approx(bits, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_validation_is_exact_over_batches_of_any_size(tmp_path, kind):
    figures = []
    for size in (2, 7):
        source = data(tmp_path)
        source.validation_batch_size = size
        (found,) = trainer(tmp_path, precision="64-true").validate(module(kind), source, verbose=False)
        figures.append(found)
    assert figures[0] == pytest.approx(figures[1], rel=1e-9)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_images_are_learned_by_heart_and_sampled_back(kind):
    """32 images, each with a class of its own."""
    steps = {"autoregressive": 300, "masked": 500}[kind]
    options = {"micro_batch_size": 32, "learning_rate": 3e-3, "class_dropout": 0.0, "schedule": WarmupLinear(steps, 10)}
    options |= {"mask_schedule": "cosine", "unmasked_weight": 0.0, "label_smoothing": 0.0} if kind == "masked" else {}
    training = module(kind, {"width": 64, "num_heads": 4, "hidden": 128, "dropout": 0.0}, **options)
    optimizer = training.configure_optimizers()
    losses = [
        float(training.train_on(training.with_draws(batch(32), step), optimizer, step=step)["loss"])
        for step in range(steps)
    ]
    assert losses[0] == pytest.approx(2 * math.log(8), rel=0.05)
    assert max(losses[-10:]) < 0.01
    generator = training.generator.eval()
    labels, seeds = torch.arange(32), list(range(32))
    if kind == "autoregressive":
        found = sample(generator, labels, seeds, Sampling(greedy=True))
    else:
        found = sample_masked(generator, labels, seeds, MaskedSampling(num_steps=32, guidance=0.0, temperature=0.0))
    assert torch.equal(found, tokens(32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("averaged", [False, True])
def test_a_checkpoint_opens_as_the_generator_that_was_trained(tmp_path, kind, averaged):
    training = module(kind)
    callbacks = [ExponentialMovingAverage(0.5)] if averaged else []
    run = trainer(tmp_path, callbacks=callbacks)
    run.fit(training, data(tmp_path))
    run.save_checkpoint(path := tmp_path / "last.ckpt")
    content = checkpoints.read(path)
    assert content[GENERATOR_KEY]["init_args"]["grid"] == list(GRID)
    assert content[MADE_BY_KEY]["sha256"] == "a" * 64
    with pytest.raises(ValueError, match="says its grid and head width itself"):
        load_generator(path, grid=(4, 4))
    raw = load_generator(path, "raw")
    assert type(raw) is type(training.generator)
    assert not raw.training
    assert torch.equal(parameters(raw), parameters(training.generator))
    assert raw.made_by["weights"] == "ema"
    assert raw.made_by["image_size"] == [16, 16] or raw.made_by["image_size"] == (16, 16)
    default = parameters(load_generator(path))
    if averaged:
        assert torch.equal(default, parameters(load_generator(path, "ema")))
        assert torch.equal(default, parameters(callbacks[0].average_module.generator))
        assert not torch.equal(default, parameters(raw))
    else:
        assert torch.equal(default, parameters(raw))
        with pytest.raises(ValueError, match="holds no EMA weights; load it with weights='raw'"):
            load_generator(path, "ema")


class TwiceAsWide(AutoregressiveGenerator):
    """A user's, which keeps an argument changed."""

    def __init__(self, width: int = 8) -> None:
        super().__init__((3, 3), GRID, CLASSES, 2 * width, 2, num_spatial_blocks=1, num_factorized_blocks=0)


def test_a_generator_that_its_checkpoint_could_not_rebuild_is_refused():
    with pytest.raises(ValueError, match=r"TwiceAsWide keeps width = 16, and built from that it has 32"):
        AutoregressiveTraining(TwiceAsWide())


def test_another_generator_does_not_continue(tmp_path):
    run = trainer(tmp_path)
    run.fit(module(), data(tmp_path))
    run.save_checkpoint(path := tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"another generator:\n  width: 32 in the file, 64 in the configuration"):
        trainer(tmp_path).fit(module(sizes={"width": 64}), data(tmp_path), ckpt_path=path)
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="no checkpoint of such a training"):
        module().on_load_checkpoint(checkpoints.read(tmp_path / "other.ckpt"))


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="micro_batch_size must be at least 1"):
        module(micro_batch_size=0)
    with pytest.raises(ValueError, match=r"class_dropout must be in \[0, 1\), got 1.0"):
        module(class_dropout=1.0)
    with pytest.raises(ValueError, match=r"unmasked_weight must be in \[0, 1\]"):
        module("masked", unmasked_weight=2.0)
