"""PSNR, SSIM, L1, clamp fraction and bits per pixel against scikit-image, numpy and closed forms."""

import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from small_tokenizers import make_batch, make_pair

from open_magvit2.common.images import to_float
from open_magvit2.evaluation import pixels
from open_magvit2.evaluation.metrics import MetricContext, available, create
from open_magvit2.evaluation.metrics.bits_per_pixel import BitsPerPixel
from open_magvit2.evaluation.metrics.clamp_fraction import ClampFraction
from open_magvit2.evaluation.metrics.l1 import L1
from open_magvit2.evaluation.metrics.psnr import PSNR
from open_magvit2.evaluation.metrics.ssim import SSIM
from open_magvit2.evaluation.metrics.ssim import structural_similarity as ours
from open_magvit2.evaluation.originals import make_transform

NUMBER = 10
ROUNDING = 3e-7  # of the one float32 quotient in a window's SSIM; everything before it is exact


@pytest.fixture(scope="module")
def pair():
    return make_pair(NUMBER, size=40)


def run(metric, image, reconstruction, batch_size=3):
    for start in range(0, len(image), batch_size):
        part = slice(start, start + batch_size)
        indices = torch.zeros(len(image[part]), 5, 5, dtype=torch.int64)
        metric.update(make_batch(image[part], reconstruction[part], indices, torch.arange(len(image))[part]))
    return metric.compute()


def as_numpy(image, how):
    """The reference's arithmetic: uint8 [H, W, 3] by rounding or truncation, then float64 in [0, 1]."""
    unit = (image.double().clamp(-1, 1).permute(0, 2, 3, 1).numpy() + 1) / 2
    return (np.rint(unit * 255) if how == "rounded" else np.floor((unit * 255).astype(np.float32))) / 255


def test_truncation_is_the_references():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    image = to_float(levels)
    cut, _ = pixels.truncated(image, image)
    upstream = torch.from_numpy((np.arange(256) / 127.5 - 1.0).astype(np.float32))
    assert torch.equal(cut.flatten(), ((upstream + 1) / 2 * 255).to(torch.uint8))
    assert (cut != levels).sum() == 95
    whole, _ = pixels.rounded(image, image)
    assert torch.equal(whole, levels)


def test_psnr_equals_scikit_image(pair):
    image, reconstruction = pair
    figures = run(PSNR(), image, reconstruction)
    for how, name in (("rounded", "psnr_image"), ("truncated", "psnr_image_trunc")):
        cut = pixels.rounded if how == "rounded" else pixels.truncated
        first, second = (x.permute(0, 2, 3, 1).numpy() for x in cut(image, reconstruction))
        expected = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(first, second, strict=True)]
        assert figures[name] == pytest.approx(np.mean(expected), abs=1e-9)


@pytest.mark.parametrize("size", [4, 8])
def test_psnr_of_groups_is_the_papers_definition(pair, size):
    image, reconstruction = pair
    figures = run(PSNR(), image, reconstruction)
    first, second = (x.double().numpy() / 255 for x in pixels.truncated(image, reconstruction))
    groups = []
    for start in range(0, NUMBER, size):  # the last group is smaller and has the same weight
        error = ((first[start : start + size] - second[start : start + size]) ** 2).mean()
        groups.append(10 * np.log10(1 / error))
    assert figures[f"psnr_batch{size}"] == pytest.approx(np.mean(groups), abs=1e-9)
    assert figures[f"psnr_batch{size}"] < figures["psnr_image_trunc"]


def test_psnr_global(pair):
    image, reconstruction = pair
    first, second = (x.double().numpy() for x in pixels.rounded(image, reconstruction))
    expected = 10 * np.log10(255**2 / ((first - second) ** 2).mean())
    assert run(PSNR(), image, reconstruction)["psnr_global"] == pytest.approx(expected, abs=1e-9)


def test_ssim_equals_scikit_image(pair):
    image, reconstruction = pair
    metric = SSIM()
    figures = run(metric, image, reconstruction)
    for name, cut in (("ssim_image", pixels.rounded), ("ssim_paper", pixels.truncated)):
        expected = [
            structural_similarity(a, b, channel_axis=2, data_range=1.0)
            for a, b in zip(
                *(x.permute(0, 2, 3, 1).double().numpy() / 255 for x in cut(image, reconstruction)), strict=True
            )
        ]
        assert metric.rows[name].tolist() == pytest.approx(expected, abs=ROUNDING)
        batches = [expected] if name == "ssim_image" else [expected[i : i + 4] for i in range(0, len(expected), 4)]
        assert figures[name] == pytest.approx(np.mean([np.mean(batch) for batch in batches]), abs=ROUNDING)


@pytest.mark.parametrize("shape", [(1, 1, 7, 7), (2, 3, 7, 30), (1, 3, 64, 9)])
def test_ssim_of_extreme_images_and_shapes(shape):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
    for first, second in (
        (torch.full(shape, 255).to(torch.uint8), torch.full(shape, 255).to(torch.uint8)),
        (torch.zeros(shape, dtype=torch.uint8), torch.full(shape, 255).to(torch.uint8)),
        (noise, 255 - noise),
    ):
        expected = [
            structural_similarity(a.permute(1, 2, 0).numpy(), b.permute(1, 2, 0).numpy(), channel_axis=2)
            for a, b in zip(first, second, strict=True)
        ]
        assert ours(first, second).tolist() == pytest.approx(expected, abs=ROUNDING)
    with pytest.raises(ValueError, match="at least 7"):
        ours(noise[..., :6, :], noise[..., :6, :])


def test_ssim_of_real_photos(shared):
    """Flat skies and clipped highlights are where rounding would show: far below the tolerance of 1e-6."""
    paths = sorted((shared / "data" / "imagenet_mini" / "val").rglob("*.JPEG"))[::20]
    first = torch.stack([make_transform("bilinear", 128)(Image.open(path).convert("RGB"), None) for path in paths])
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(-1, 2, first.shape, generator=generator)
    coarse = first // 16 * 16
    for second in (coarse, (first + noise).clamp(0, 255).to(torch.uint8), torch.zeros_like(first), first.flip(0)):
        expected = [
            structural_similarity(a.permute(1, 2, 0).numpy(), b.permute(1, 2, 0).numpy(), channel_axis=2)
            for a, b in zip(first, second, strict=True)
        ]
        assert ours(first, second).tolist() == pytest.approx(expected, abs=ROUNDING)


def test_the_pixels_of_a_batch_are_shared_while_it_lives(pair):
    image, reconstruction = pair
    cut = pixels.truncated(image, reconstruction)
    assert pixels.truncated(image, reconstruction) is cut
    other = reconstruction.clone()
    assert pixels.truncated(image, other) is not cut
    assert torch.equal(pixels.truncated(image, other)[1], cut[1])
    assert not torch.equal(pixels.truncated(image, -other)[1], cut[1])
    metric = PSNR()
    run(metric, image, reconstruction)
    kept = weakref.ref(pixels.rounded(image, other)[1])
    assert kept() is not None
    metric.reset()
    assert kept() is None


def test_l1_mse_clamp_and_bits(pair):
    image, reconstruction = pair
    difference = image.double().numpy() - reconstruction.double().clamp(-1, 1).numpy()
    figures = run(L1(), image, reconstruction)
    assert figures["l1"] == pytest.approx(np.abs(difference).mean(), rel=1e-6)
    assert figures["mse"] == pytest.approx((difference**2).mean(), rel=1e-6)
    outside = (np.abs(reconstruction.numpy()) > 1).mean()
    assert run(ClampFraction(), image, reconstruction)["clamp_fraction"] == pytest.approx(outside, abs=1e-12)
    assert run(BitsPerPixel(2**18), image, reconstruction)["bits_per_pixel"] == 25 * 18 / 40**2


def test_identical_images_have_infinite_psnr_and_ssim_one(pair):
    image, _ = pair
    assert run(PSNR(), image, image)["psnr_image"] == np.inf
    assert run(SSIM(), image, image)["ssim_image"] == 1.0


def test_standard_errors(pair):
    metric = PSNR()
    run(metric, *pair)
    rows = metric.rows["psnr_image"].numpy()
    assert metric.standard_errors().keys() == {"psnr_image", "psnr_image_trunc"}
    assert metric.standard_errors()["psnr_image"] == pytest.approx(rows.std(ddof=1) / np.sqrt(NUMBER), rel=1e-12)


@pytest.mark.parametrize("wrong", [[0, 1, 1], [0, 1, 3], [1, 2, 3]])
def test_every_image_exactly_once(pair, wrong):
    metric = L1()
    metric.update(make_batch(pair[0][:3], pair[1][:3], index=torch.tensor(wrong)))
    with pytest.raises(ValueError, match="exactly once"):
        metric.compute()
    metric.reset()
    with pytest.raises(ValueError, match="no images"):
        metric.compute()


def test_metrics_are_found_by_module_name():
    names = ["psnr", "ssim", "l1", "clamp_fraction", "bits_per_pixel", "codebook_usage"]
    metrics, absent = create(names, MetricContext(codebook_size=512))
    assert list(metrics) == names
    assert absent == {}
    with pytest.raises(ValueError, match=r"pnsr; available: .*psnr"):
        create(["pnsr"], MetricContext(codebook_size=512))
    assert set(names) <= set(available())


def test_class_paths_are_names_too():
    path = "open_magvit2.evaluation.metrics.bits_per_pixel.BitsPerPixel"
    metrics, _ = create([path], MetricContext(codebook_size=512))
    assert isinstance(metrics[path], BitsPerPixel)
    with pytest.raises(ValueError, match="bits_per_pixel needs codebook_size"):
        create(["bits_per_pixel"], MetricContext())
    for wrong in ("open_magvit2.evaluation.metrics.psnr.PNSR", "open_magvit2.nothing.PSNR"):
        with pytest.raises(ValueError, match=wrong):
            create([wrong], MetricContext())
