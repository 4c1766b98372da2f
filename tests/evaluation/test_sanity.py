"""A suite of mistakes: each gives its error, and the first-batch check names the right cause."""

import pytest
import torch
from small_tokenizers import CoarseTokenizer, IdentityTokenizer, make_images, make_loader

from open_magvit2.common.images import to_float
from open_magvit2.evaluation.loop import evaluate
from open_magvit2.evaluation.metrics import MetricContext, create
from open_magvit2.evaluation.sanity import SanityError, check_first_batch, check_metrics, check_utilization

NUMBER = 8


class Mistaken(CoarseTokenizer):
    """A good tokenizer whose output goes wrong on the way."""

    def __init__(self, mistake):
        self.mistake = mistake

    def detokenize(self, indices):
        return self.mistake(super().detokenize(indices))


def images(number=NUMBER):
    return to_float(make_images(number))


MISTAKES = {
    "negative": lambda x: -x,
    "bgr": lambda x: x.flip(1),
    "mirrored": lambda x: x.flip(3),
    "transposed": lambda x: x.transpose(2, 3),
    "unit_range": lambda x: (x + 1) / 2,
    "pixel_range": lambda x: (x + 1) * 127.5,
    "range": lambda x: x * 3 + 0.5,
}


@pytest.mark.parametrize("cause", MISTAKES)
def test_the_cause_is_named(cause):
    sanity = check_first_batch(Mistaken(MISTAKES[cause]), images())
    assert sanity.likely_cause == cause
    assert len(sanity.errors) == 1
    assert "undoing that raises PSNR" in sanity.errors[0]


def test_shuffled_pairs():
    class Lagging(CoarseTokenizer):
        """Answers every image with the tokens of the one before it, the first with the last one's."""

        def __init__(self):
            self.before = super().tokenize(images()[-1:])

        def tokenize(self, image):
            tokens = torch.cat([self.before, super().tokenize(image)])
            self.before = tokens[-1:]
            return tokens[:-1]

    sanity = check_first_batch(Lagging(), images())
    assert sanity.likely_cause == "shuffled"
    assert sanity.pair_match == 0.0
    assert "paired with the wrong originals" in sanity.errors[0]


def test_a_picture_twice_in_the_dataset_is_no_mistake():
    doubled = images()[[0, 0, 1, 2, 3, 4, 5, 6]]
    assert check_first_batch(CoarseTokenizer(), doubled).errors == []


@pytest.mark.parametrize("tokenizer", [CoarseTokenizer(), IdentityTokenizer()])
@pytest.mark.parametrize("number", [1, NUMBER])
def test_a_good_tokenizer_passes(tokenizer, number):
    sanity = check_first_batch(tokenizer, images(number))
    assert sanity.errors == []
    assert sanity.likely_cause == ""
    assert sanity.pair_match == 1.0
    assert sanity.indices_roundtrip is True
    assert bool(sanity.warnings) == (number == 1)


def test_untrained_weights_resemble_nothing():
    noise = torch.randn(NUMBER, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    sanity = check_first_batch(Mistaken(lambda x: 0.3 * noise[: len(x)]), images())
    assert sanity.likely_cause == ""
    assert "Wrong or untrained weights" in sanity.errors[0]
    assert sanity.psnr_vs_mean_image_db < 3


def test_swapped_bit_order_fails_the_round_trip():
    class Swapped(CoarseTokenizer):
        def tokenize(self, image):
            indices = super().tokenize(image)
            return sum(((indices >> k) & 1) << (8 - k) for k in range(9))

        def reconstruct(self, image):
            good = CoarseTokenizer()
            return good.reconstruct(image)[0], self.tokenize(image)

    sanity = check_first_batch(Swapped(), images())
    assert sanity.indices_roundtrip is False
    assert "bits of an index are written in one order and read in another" in sanity.errors[0]


def test_indices_of_another_codebook():
    tokenizer = CoarseTokenizer()
    tokenizer.codebook_size = 16
    sanity = check_first_batch(tokenizer, images())
    assert not sanity.indices_in_range
    assert "codebook size" in sanity.errors[0]


def test_not_finite_and_clamped():
    sanity = check_first_batch(Mistaken(lambda x: x / 0), images())
    assert not sanity.finite
    assert "not finite" in sanity.errors[0]
    sanity = check_first_batch(Mistaken(lambda x: x * 2), images())
    assert "outside [-1, 1]" in sanity.warnings[0]


def test_evaluation_stops_or_records():
    def run(check):
        metrics, _ = create(["psnr"], MetricContext(512))
        loader = make_loader(make_images(NUMBER), 4)
        return evaluate(Mistaken(lambda x: -x), loader, metrics, progress=False, check=check)

    with pytest.raises(SanityError, match="negative of the image"):
        run("stop")
    recorded = run("record")
    assert recorded.sanity["likely_cause"] == "negative"
    assert recorded.metrics["psnr_image"] < 15
    assert run("off").sanity == {}


def test_metrics_of_identical_images(random_networks):
    metrics, absent = create(["psnr", "ssim", "l1", "lpips_alex", "rfid", "codebook_usage"], MetricContext(512))
    assert absent == {}
    assert check_metrics(metrics, images(3)) == []
    metrics["ssim"].measure = lambda batch: {"ssim_image": torch.tensor([0.5])}
    assert check_metrics(metrics, images(3)) == [
        "ssim_image of identical images is 0.5, not 1: wrong metric weights, or a faulty linear algebra library"
    ]


def test_a_collapsed_codebook_is_said():
    assert "collapsed" in check_utilization(0.001, 2_000_000)[0]
    assert check_utilization(0.001, 1000) == check_utilization(0.5, 2_000_000) == []
