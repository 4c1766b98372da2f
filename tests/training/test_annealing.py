"""The temperature of Gumbel-softmax follows a schedule."""

from types import SimpleNamespace

import pytest

from open_magvit2.quantizers.gumbel import GumbelQuantizer
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer
from open_magvit2.training.annealing import TemperatureAnnealing
from open_magvit2.training.schedules import WarmupCosine


def module(quantizer):
    return SimpleNamespace(tokenizer=SimpleNamespace(quantizer=quantizer), global_step=0)


def test_the_temperature_is_the_configured_one_times_the_schedule_and_the_same_in_a_continued_training():
    schedule = WarmupCosine(100, final_factor=0.1)
    for steps in ((0, 50, 100, 200), (100,)):  # the second training continues
        training = module(GumbelQuantizer(4, 2, temperature=2.0))
        annealing = TemperatureAnnealing(schedule)
        annealing.on_fit_start(None, training)
        for training.global_step in steps:
            annealing.on_train_batch_start(None, training, None, 0)
            expected = {0: 2.0, 50: 1.1}.get(training.global_step, 0.2)
            assert training.tokenizer.quantizer.temperature == pytest.approx(expected)


def test_another_quantizer_and_a_temperature_of_zero_are_refused():
    with pytest.raises(ValueError, match="GumbelQuantizer, got .*LookupFreeQuantizer"):
        TemperatureAnnealing(WarmupCosine(2)).on_fit_start(None, module(LookupFreeQuantizer(4)))
    training, annealing = module(GumbelQuantizer(4, 2)), TemperatureAnnealing(WarmupCosine(2))
    annealing.on_fit_start(None, training)
    training.global_step = 2
    with pytest.raises(ValueError, match="above 0, got 0.0 at step 2"):
        annealing.on_train_batch_start(None, training, None, 0)
