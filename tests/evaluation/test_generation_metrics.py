"""FID, sFID, Inception Score, precision, recall, density and coverage against float64 references and torch-fidelity."""

import json

import numpy as np
import pytest
import torch
from processes import process_group, spawn
from small_tokenizers import make_images
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_prc import calculate_precision_recall_full

from open_magvit2.common.images import to_float
from open_magvit2.evaluation.features import inception, neighbours
from open_magvit2.evaluation.features.frechet import gaussian_of
from open_magvit2.evaluation.features.reference import Reference
from open_magvit2.evaluation.metrics import MetricContext, create
from open_magvit2.evaluation.metrics.inception_score import GenerationInceptionScore
from open_magvit2.protocols import EvaluationBatch

TIGHT = 1e-6
NAMES = ["fid", "sfid", "inception_score", "precision_recall"]


class Table:
    """In place of the network: the features of image i are row i of tables of random numbers."""

    def __init__(self, number, size, spatial_size, seed):
        random = torch.Generator().manual_seed(seed)
        self.features = torch.randn(number, size, generator=random) * torch.linspace(0.2, 2.0, size)
        self.spatial = torch.rand(number, spatial_size, generator=random)
        self.logits = 3.0 * torch.randn(number, 1008, generator=random)

    def __call__(self, image, preprocessing):
        assert preprocessing == "tf"
        index = image[:, 0, 0, 0].to(torch.int64)
        return inception.InceptionOutput(self.features[index], self.logits[index], self.spatial[index])


def batches(indices, batch_size=7):
    for start in range(0, len(indices), batch_size):
        index = torch.tensor(indices[start : start + batch_size])
        yield EvaluationBatch(index.float()[:, None, None, None].expand(-1, 3, 1, 1), index)


def measure(table, reference, monkeypatch, indices=None):
    monkeypatch.setattr(inception, "load", lambda: table)
    number = len(table.features)
    metrics, absent = create(NAMES, MetricContext(num_images=number, reference=reference))
    assert absent == {}
    for metric in metrics.values():
        for batch in batches(list(range(number)) if indices is None else indices):
            metric.update(batch)
    return {name: value for metric in metrics.values() for name, value in metric.compute().items()}


def plain_frechet(first, second):
    """Float64, by numpy's general eigenvalues."""
    first, second = (np.asarray(values, np.float64) for values in (first, second))
    one, other = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = np.sqrt(np.linalg.eigvals(one @ other).astype(complex)).real.sum()
    return ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(one) + np.trace(other) - 2 * root


def plain_inception_score(logits, size):
    scores = []
    for start in range(0, len(logits), size):
        part = np.asarray(logits[start : start + size], np.float64)
        p = np.exp(part - part.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        scores.append(np.exp((p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean()))
    return np.mean(scores)


def plain_neighbours(samples, real):
    """Distances pair by pair, in float64, as the papers define the four figures."""
    samples, real = (np.asarray(values, np.float64) for values in (samples, real))

    def distances(first, second):
        return np.stack([np.sqrt(((row - second) ** 2).sum(1)) for row in first])

    between, among = distances(samples, real), np.sort(distances(real, real), axis=1)
    own = np.sort(distances(samples, samples), axis=1)
    within = between < among[:, 5]
    return {
        "precision": (between <= among[:, 3]).any(1).mean(),
        "recall": (between <= own[:, 3][:, None]).any(0).mean(),
        "density": within.sum(1).mean() / 5,
        "coverage": within.any(0).mean(),
    }


def reference_of(table):
    return Reference(gaussian_of(table.features), gaussian_of(table.spatial), table.features, {})


@pytest.fixture
def tables():
    """Samples somewhat off the real ones, each with features of full rank."""
    samples, real = Table(403, 6, 40, seed=0), Table(257, 6, 40, seed=1)
    samples.features = 0.9 * samples.features + 0.15
    return samples, real


def test_random_features_against_float64(tables, monkeypatch):
    samples, real = tables
    monkeypatch.setattr(neighbours, "BLOCK", 100)  # several blocks, the last one smaller
    figures = measure(samples, reference_of(real), monkeypatch)
    assert figures["fid"] == pytest.approx(plain_frechet(samples.features, real.features), rel=TIGHT)
    assert figures["sfid"] == pytest.approx(plain_frechet(samples.spatial, real.spatial), rel=TIGHT)
    assert figures["inception_score"] == pytest.approx(plain_inception_score(samples.logits, 5000), rel=TIGHT)
    expected = plain_neighbours(samples.features, real.features)
    assert {name: figures[name] for name in expected} == expected
    assert all(0.1 < value < 1 for name, value in expected.items() if name != "density")


def test_random_features_against_torch_fidelity(tables, monkeypatch):
    samples, real = tables
    figures = measure(samples, reference_of(real), monkeypatch)
    for name, kind in (("fid", "features"), ("sfid", "spatial")):
        one, other = (getattr(table, kind).double().numpy() for table in tables)
        statistics = [{"mu": x.mean(0), "sigma": np.cov(x, rowvar=False)} for x in (one, other)]
        theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
        assert figures[name] == pytest.approx(theirs, rel=TIGHT)
    precision, recall = calculate_precision_recall_full(samples.features.double(), real.features.double(), 3)
    assert round(figures["precision"] * 403) == round(precision * 403)
    assert round(figures["recall"] * 257) == round(recall * 257)


def test_the_inception_score_of_groups_is_torch_fidelitys(monkeypatch):
    table = Table(400, 4, 4, seed=2)
    monkeypatch.setattr(inception, "load", lambda: table)
    metric = GenerationInceptionScore(400, group_size=40)
    for batch in batches(list(range(400))):
        metric.update(batch)
    figures = metric.compute()
    for name, shuffled in (("inception_score", False), ("inception_score_shuffled", True)):
        theirs = isc_features_to_metric(table.logits.double(), 10, shuffled, 2020)
        assert figures[name] == pytest.approx(theirs["inception_score_mean"], rel=TIGHT)
        if not shuffled:
            assert figures["inception_score_std"] == pytest.approx(theirs["inception_score_std"], rel=TIGHT)
    assert figures["inception_score"] == pytest.approx(plain_inception_score(table.logits, 40), rel=TIGHT)


def test_the_last_group_may_be_smaller(monkeypatch):
    table = Table(90, 4, 4, seed=2)
    monkeypatch.setattr(inception, "load", lambda: table)
    metric = GenerationInceptionScore(90, group_size=40)
    for batch in batches(list(range(90))):
        metric.update(batch)
    assert metric.compute()["inception_score"] == pytest.approx(plain_inception_score(table.logits, 40), rel=TIGHT)


def test_the_order_of_the_classes_changes_the_inception_score(monkeypatch):
    """Images in class order: each group of the score sees a tenth of the classes."""
    table = Table(1000, 4, 4, seed=3)
    table.logits[torch.arange(1000), torch.arange(1000) // 10] += 20.0  # 100 classes, 10 images each
    monkeypatch.setattr(inception, "load", lambda: table)
    metric = GenerationInceptionScore(1000, group_size=100)
    for batch in batches(list(range(1000))):
        metric.update(batch)
    figures = metric.compute()
    assert figures["inception_score"] < 12
    assert figures["inception_score_shuffled"] > 50


def _measure_on_rank(rank, world, folder):
    with process_group(rank, world, folder), pytest.MonkeyPatch.context() as patch:
        samples, real = Table(83, 6, 9, seed=0), Table(61, 6, 9, seed=1)
        # The last rank sees nothing.
        shard = [i for i in range(83) if rank < 2 and i % 2 == rank]
        figures = measure(samples, reference_of(real), patch, shard)
        (folder / f"{rank}.json").write_text(json.dumps(figures))


def test_three_processes_one_of_them_empty_give_the_same(tmp_path, monkeypatch):
    spawn(_measure_on_rank, 3, tmp_path)
    expected = measure(Table(83, 6, 9, seed=0), reference_of(Table(61, 6, 9, seed=1)), monkeypatch)
    for rank in range(3):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == pytest.approx(expected, rel=1e-9)
        for name in ("precision", "recall", "density", "coverage"):
            assert found[name] == expected[name]


def test_equal_features_have_distance_zero():
    features = 1e4 + torch.rand(5, 2048, generator=torch.Generator().manual_seed(0))
    assert neighbours.squared_distances(features, features).diagonal().eq(0).all()
    assert neighbours.squared_distances(features, features[[0]])[1:].gt(0).all()


def test_too_few_images_are_refused(monkeypatch):
    samples = Table(3, 4, 4, seed=0)
    with pytest.raises(ValueError, match="at least 4 samples and 6 reference images, got 3 and 20"):
        measure(samples, reference_of(Table(20, 4, 4, seed=1)), monkeypatch)


def test_spatial_features_are_a_branch_of_the_network_in_tensorflows_order(random_networks):
    network = inception.load()
    image = to_float(make_images(2, size=64))
    seen = {}
    hook = network.network.Mixed_6d.register_forward_hook(lambda module, inputs, output: seen.update(block=output))
    output = inception.Inception(random_networks / inception.weights.INCEPTION)(image, "tf")
    assert output.spatial.shape == (2, inception.NUM_SPATIAL_FEATURES)
    network(image, "tf")
    hook.remove()
    block = seen["block"]  # the branch is its first 192 channels
    for row, column, channel in [(0, 0, 0), (0, 0, 6), (0, 16, 3), (16, 5, 2)]:
        place = (row * 17 + column) * 7 + channel
        assert torch.equal(output.spatial[:, place], block[:, channel, row, column])
    assert output.spatial.min() >= 0  # after the ReLU


@pytest.mark.long
def test_the_random_network_against_float64_and_torch_fidelity(random_networks, monkeypatch):
    """All figures over images, through the network in the published form; 1 image a batch, as the expectation."""
    network = inception.load()
    samples, real = make_images(8, seed=0), make_images(7, seed=1)
    outputs = [[network(to_float(image[None]), "tf") for image in images] for images in (samples, real)]
    features, spatial, logits = ([torch.cat([o[i] for o in side]) for side in outputs] for i in (0, 2, 1))
    reference = Reference(gaussian_of(features[1]), gaussian_of(spatial[1]), features[1], {})
    metrics, _ = create(NAMES, MetricContext(num_images=8, reference=reference))
    figures = {}
    for metric in metrics.values():
        for i, image in enumerate(samples):
            metric.update(EvaluationBatch(to_float(image[None]), torch.tensor([i])))
        figures |= metric.compute()
    for name, (one, other) in (("fid", features), ("sfid", spatial)):
        one, other = one.double().numpy(), other.double().numpy()
        first, second = (x - x.mean(0) for x in (one, other))
        root = np.linalg.norm(first @ second.T, "nuc") / np.sqrt((len(one) - 1) * (len(other) - 1))
        expected = ((one.mean(0) - other.mean(0)) ** 2).sum() - 2 * root
        expected += (first**2).sum() / (len(one) - 1) + (second**2).sum() / (len(other) - 1)
        assert figures[name] == pytest.approx(expected, rel=TIGHT)
    assert figures["inception_score"] == pytest.approx(plain_inception_score(logits[0], 5000), rel=TIGHT)
    theirs = isc_features_to_metric(logits[0].double(), 1, False)
    assert figures["inception_score"] == pytest.approx(theirs["inception_score_mean"], rel=TIGHT)
    expected = plain_neighbours(features[0], features[1])
    assert {name: figures[name] for name in expected} == expected
    precision, recall = calculate_precision_recall_full(features[0].double(), features[1].double(), 3)
    assert round(figures["precision"] * 8) == round(precision * 8)
    assert round(figures["recall"] * 7) == round(recall * 7)
