"""rFID, rIS and LPIPS with random networks against torch-fidelity, the lpips package and their own conventions."""

import json
import warnings
import weakref

import lpips
import numpy as np
import pytest
import torch
import torch_fidelity
from PIL import Image
from processes import process_group, spawn
from small_tokenizers import CoarseTokenizer, make_batch, make_images, make_loader, make_pair
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_isc import isc_features_to_metric

from open_magvit2.common import weights
from open_magvit2.common.images import to_uint8
from open_magvit2.evaluation.features import inception
from open_magvit2.evaluation.loop import evaluate
from open_magvit2.evaluation.metrics import MetricContext, create
from open_magvit2.evaluation.metrics.lpips import LPIPS

NUMBER = 10
FLOAT32 = 1e-4  # relative: other batch sizes take other kernels, and features have their float32 rounding


def run(names, batch_size=5, indices=None, dataset_key="", images=None):
    images = make_images(NUMBER) if images is None else images
    metrics, absent = create(names, MetricContext(CoarseTokenizer.codebook_size, len(images), dataset_key))
    assert absent == {}
    loader = make_loader(images, batch_size, indices)
    return evaluate(CoarseTokenizer(), loader, metrics, progress=False, check="off").metrics


def test_features_are_bit_for_bit_torch_fidelitys(random_networks):
    """The same layers on the same 299 x 299 input, after any preprocessing."""
    path = weights.find(weights.INCEPTION)
    network = FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path))
    pixels = make_images(2, size=299)  # at this size no resize changes anything
    expected, logits = network(pixels)
    ours = inception.load()
    image = pixels.float() / 127.5 - 1
    assert torch.equal(ours(image, "tf").features, expected)
    # (x - 128) / 128 = 2 u - 1 for u = x / 256: feed that through our own pass over the layers.
    shifted = ((pixels.float() - 128) / 128 + 1) / 2
    through_layers = ours(shifted * 2 - 1, "paper")
    assert torch.equal(through_layers.features, expected)
    assert torch.equal(through_layers.logits, logits)


def test_answers_are_reused_for_the_same_tensor_only(random_networks):
    network = inception.load()
    image, other = make_pair(1, size=64)
    first = network(image)
    assert network(image) is first
    assert network(image, "u8") is not first
    assert not torch.equal(network(other).features, first.features)
    kept = [weakref.ref(image), weakref.ref(first.features)]
    del image, first
    assert [reference() for reference in kept] == [None, None]  # the memory of a batch is free after it


@pytest.mark.long
def test_rfid_tf_equals_the_torch_fidelity_command(random_networks, tmp_path):
    images = make_images(5)
    ours = run(["rfid_tf"], images=images)
    reconstructions = to_uint8(CoarseTokenizer().reconstruct(images.float() / 127.5 - 1)[0])
    for folder, pictures in (("originals", images), ("reconstructions", reconstructions)):
        (tmp_path / folder).mkdir()
        for i, picture in enumerate(pictures):
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / folder / f"{i:03d}.png")
    theirs = torch_fidelity.calculate_metrics(
        input1=str(tmp_path / "reconstructions"),
        input2=str(tmp_path / "originals"),
        fid=True,
        cuda=False,
        cache=False,
        verbose=False,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights.find(weights.INCEPTION)),
    )
    # 5 images span 4 of 2048 dimensions: their matrix root is good to 1e-4 there.
    assert ours["rfid_tf"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)


@pytest.mark.long
def test_rfid_and_ris_are_their_definitions(random_networks):
    before = set(weights.cache_folder().rglob("*"))
    network = inception.load()
    images = make_images(NUMBER)
    originals = images.float() / 127.5 - 1
    reconstructions, _ = CoarseTokenizer().reconstruct(originals)
    figures = run(["rfid", "ris"], batch_size=3, images=images)
    score = isc_features_to_metric(network.network(to_uint8(reconstructions))[1])
    assert figures["ris"] == pytest.approx(score["inception_score_mean"], rel=FLOAT32)
    assert figures["ris_std"] == pytest.approx(score["inception_score_std"], rel=1e-3, abs=1e-9)
    a, b = (network(x).features.double().numpy() for x in (originals, reconstructions))
    centred_a, centred_b = a - a.mean(axis=0), b - b.mean(axis=0)
    distance = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    nuclear = np.linalg.norm(centred_a @ centred_b.T, "nuc")
    distance += ((centred_a**2).sum() + (centred_b**2).sum() - 2 * nuclear) / (NUMBER - 1)
    assert figures["rfid"] == pytest.approx(distance, rel=FLOAT32)
    assert set(weights.cache_folder().rglob("*")) == before  # without a name of the dataset no moments are kept


def _rfid_on_rank(rank, world, folder, networks, sha256):
    import dataclasses
    import os

    os.environ[weights.CACHE_VARIABLE] = str(networks)
    weights.KNOWN[weights.INCEPTION] = dataclasses.replace(weights.KNOWN[weights.INCEPTION], sha256=sha256)
    with process_group(rank, world, folder):
        shard = list(range(rank, 5, world))
        figures = run(["rfid", "ris"], batch_size=2, indices=shard, images=make_images(5))
        (folder / f"{rank}.json").write_text(json.dumps(figures))


@pytest.mark.long
def test_two_processes_and_another_batch_size_give_the_same(random_networks, tmp_path):
    sha256 = weights.KNOWN[weights.INCEPTION].sha256
    spawn(_rfid_on_rank, 2, tmp_path, random_networks, sha256)
    expected = run(["rfid", "ris"], batch_size=5, images=make_images(5))
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == pytest.approx(expected, rel=FLOAT32)


@pytest.mark.long
def test_moments_of_the_originals_are_kept(random_networks, tmp_path, monkeypatch):
    images = make_images(2)
    expected = run(["rfid"], images=images, dataset_key="two images")
    folder = weights.cache_folder() / "moments"
    (kept,) = folder.iterdir()
    content = torch.load(kept, weights_only=True)
    assert (content["root"].T @ content["root"] - content["covariance"]).abs().max() < 1e-12
    seen = []
    original = inception.Inception.__call__
    monkeypatch.setattr(
        inception.Inception, "__call__", lambda self, image, how: seen.append(len(image)) or original(self, image, how)
    )
    assert run(["rfid"], images=images, dataset_key="two images") == pytest.approx(expected, rel=1e-9)
    assert seen == [2]  # only the reconstructions went through the network
    with pytest.raises(ValueError, match="delete that file"):
        run(["rfid"], images=make_images(3), dataset_key="two images")
    kept.write_bytes(b"damaged")
    assert run(["rfid"], images=images, dataset_key="two images") == pytest.approx(expected, rel=1e-9)


def test_lpips_is_the_packages(random_networks, random_network_files):
    image, reconstruction = make_pair(4, size=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)  # its own heads
    state = torch.load(random_network_files / weights.ALEXNET, weights_only=True)
    for name, parameter in package.net.named_parameters():
        parameter.data = state["features." + name.split(".", 1)[1]]
    expected = package(image, reconstruction.clamp(-1, 1)).flatten().tolist()
    metric = LPIPS(("alex",))
    for i in range(4):
        metric.update(make_batch(image[i : i + 1], reconstruction[i : i + 1], index=torch.tensor([i])))
    figures = metric.compute()
    assert metric.rows["lpips_alex"].tolist() == pytest.approx(expected, rel=FLOAT32)
    assert figures.keys() == metric.standard_errors().keys() == {"lpips_alex"}
    metric.reset()
    metric.update(make_batch(image[..., :31, :31], image[..., :31, :31]))
    assert metric.compute()["lpips_alex"] == 0.0
    with pytest.raises(ValueError, match=r"lpips_alex needs images of at least 31 x 31, got \(64, 30\)"):
        metric.update(make_batch(image[..., :30], image[..., :30]))


def test_without_weights_the_others_work_and_the_reason_is_recorded(no_networks):
    metrics, absent = create(["psnr", "rfid", "lpips_alex"], MetricContext(512, 10))
    assert list(metrics) == ["psnr"]
    assert absent.keys() == {"rfid", "lpips_alex"}
    for name, part in (("rfid", weights.INCEPTION), ("lpips_alex", weights.ALEXNET)):
        assert part in absent[name]
        assert weights.KNOWN[part].sha256 in absent[name]


def test_a_wrong_network_under_the_right_name_is_refused(random_network_files, monkeypatch):
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(random_network_files))
    metrics, absent = create(["rfid"], MetricContext(512, 10))
    assert metrics == {}
    assert "is not the published" in absent["rfid"]


def test_lpips_vgg_is_the_packages(random_vgg, random_vgg_file):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5)) * 2 - 1
    reconstructions = images.flip(0) * 0.8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)  # its own heads
    state = torch.load(random_vgg_file, weights_only=True)
    names = {name: "features." + name.split(".", 1)[1] for name in package.net.state_dict()}
    package.net.load_state_dict({name: state[file_name] for name, file_name in names.items()})
    with torch.no_grad():
        expected = [package(x[None], y[None]).item() for x, y in zip(images, reconstructions, strict=True)]
    metric = LPIPS(("vgg",))
    metric.update(make_batch(images, reconstructions))
    metric.compute()
    assert metric.rows["lpips_vgg"].tolist() == pytest.approx(expected, rel=FLOAT32)


def test_two_metrics_of_the_same_figure_are_refused_before_any_image(
    random_networks, random_vgg, tmp_path, monkeypatch
):
    for path in (random_networks / weights.ALEXNET, random_vgg):
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(ValueError, match="^lpips_alex would come from lpips and from lpips_alex: leave one out"):
        create(["psnr", "lpips", "lpips_alex"], MetricContext(512, 10))
    with pytest.raises(ValueError, match="given more than once: psnr"):
        create(["psnr", "ssim", "psnr"], MetricContext(512, 10))
