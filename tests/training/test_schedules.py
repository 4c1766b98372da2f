"""Learning-rate schedules at the steps where they change."""

import math

import pytest

from open_magvit2.training.schedules import Constant, StepDrop, WarmupCosine


def test_constant_is_one_after_its_warmup():
    assert [Constant()(step) for step in (0, 10**6)] == [1.0, 1.0]
    assert [Constant(warmup_steps=3)(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_step_drop_multiplies_at_each_step():
    schedule = StepDrop([200, 250], factor=0.1)
    assert [schedule(step) for step in (0, 199, 200, 249, 250, 10**6)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_warmup_cosine_follows_its_formula():
    schedule = WarmupCosine(total_steps=110, warmup_steps=10, final_factor=0.2)
    assert schedule(0) == pytest.approx(1 / 11)
    assert schedule(10) == pytest.approx(1.0)
    assert schedule(60) == pytest.approx(0.6)
    assert schedule(35) == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert schedule(110) == schedule(500) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "build", [lambda: StepDrop([250, 200]), lambda: StepDrop([0]), lambda: WarmupCosine(10, warmup_steps=10)]
)
def test_impossible_schedules_are_refused(build):
    with pytest.raises(ValueError, match="expected|must be"):
        build()
