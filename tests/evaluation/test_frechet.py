"""The Frechet distance against scipy's matrix root, closed forms and the exact nuclear norm."""

import numpy as np
import pytest
import scipy.linalg
import torch

from open_magvit2.evaluation.features.frechet import Gaussian, Moments, frechet_distance, gaussian_of


def moments(features, batch_size=100, keeps_root=False):
    """Streamed; those of few features without their root, as those of many are."""
    state = Moments(features.shape[1])
    for part in features.split(batch_size):
        state.update(part)
    gaussian = state.gaussian()
    return gaussian if keeps_root else gaussian._replace(root=None)


def draw(number, size, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=generator, dtype=torch.float64) / size**0.5
    return scale * torch.randn(number, size, generator=generator, dtype=torch.float64) @ mixing + seed / 10


def test_moments_equal_numpys_for_any_batch_size():
    features = draw(2500, 20, seed=1)
    for batch_size in (1, 7, 1024, 2500):
        mean, covariance, number, _ = moments(features, batch_size)
        assert number == 2500
        np.testing.assert_allclose(mean, features.numpy().mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(covariance, np.cov(features.numpy(), rowvar=False), rtol=1e-9, atol=1e-12)


def test_distance_equals_scipys_at_full_rank():
    first, second = draw(1000, 64, seed=1), draw(800, 64, seed=2, scale=1.3)
    ours = frechet_distance(moments(first), moments(second))
    (m1, c1), (m2, c2) = ((x.numpy().mean(axis=0), np.cov(x.numpy(), rowvar=False)) for x in (first, second))
    root = scipy.linalg.sqrtm(c1 @ c2).real
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * root)
    assert ours == pytest.approx(expected, rel=1e-8)


def test_closed_form_of_commuting_covariances():
    eye = torch.eye(5, dtype=torch.float64)
    first = Gaussian(torch.zeros(5, dtype=torch.float64), 4.0 * eye, 10)
    second = Gaussian(torch.ones(5, dtype=torch.float64), 9.0 * eye, 10)
    assert frechet_distance(first, second) == pytest.approx(5 + 5 * (2 - 3) ** 2, rel=1e-12)


@pytest.mark.parametrize(("first_number", "second_number"), [(30, 40), (2, 3), (300, 20)])
def test_deficient_rank_is_exact(first_number, second_number):
    """tr (C1 C2)^(1/2) is the nuclear norm of the product of the centred features, at any rank."""
    first, second = draw(first_number, 128, seed=1), draw(second_number, 128, seed=2)
    a, b = (x.numpy() - x.numpy().mean(axis=0) for x in (first, second))
    nuclear = np.linalg.norm(a @ b.T, "nuc") / np.sqrt((len(a) - 1) * (len(b) - 1))
    difference = (first.mean(dim=0) - second.mean(dim=0)).square().sum().item()
    traces = (a**2).sum() / (len(a) - 1) + (b**2).sum() / (len(b) - 1)
    expected = difference + traces - 2 * nuclear
    assert frechet_distance(moments(first), moments(second)) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(gaussian_of(first), gaussian_of(second)) == pytest.approx(expected, rel=1e-9)
    few = moments(first, keeps_root=True)
    assert few.root is not None
    assert frechet_distance(few, moments(second)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("number", [20, 1000])
def test_distance_to_itself_is_zero(number):
    itself = moments(draw(number, 64, seed=3))
    assert frechet_distance(itself, itself) < 1e-9


def test_constant_features_and_too_few():
    constant = moments(torch.ones(10, 4, dtype=torch.float64))
    assert frechet_distance(constant, constant) == 0.0
    with pytest.raises(ValueError, match="at least 2"):
        moments(torch.ones(1, 4))
    with pytest.raises(ValueError, match=r"expected features \[n, 4\]"):
        Moments(4).update(torch.ones(1, 5))


@pytest.mark.parametrize("dimensions", [3, 512])
def test_features_that_are_not_finite_give_no_score(dimensions):
    good = Gaussian(torch.zeros(dimensions, dtype=torch.float64), torch.eye(dimensions, dtype=torch.float64), 10)
    bad = good._replace(covariance=torch.full((dimensions, dimensions), float("nan"), dtype=torch.float64))
    assert np.isnan(frechet_distance(good, bad))
    assert np.isnan(frechet_distance(bad, good))
