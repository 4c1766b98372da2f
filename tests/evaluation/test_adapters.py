"""Tokenizers around another one: images of any size, and networks, but nothing else, under bfloat16."""

import pytest
import torch
from small_tokenizers import CoarseTokenizer, IdentityTokenizer, SequenceTokenizer, make_images, make_loader

from open_magvit2.common.images import to_float
from open_magvit2.evaluation import provenance
from open_magvit2.evaluation.adapters import PaddedTokenizer
from open_magvit2.evaluation.loop import evaluate
from open_magvit2.evaluation.metrics import MetricContext, create
from open_magvit2.evaluation.protocol import Protocol
from open_magvit2.evaluation.report import gallery
from open_magvit2.evaluation.run import Setting, evaluate_tokenizer
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.protocols import Tokenizer
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer

IMAGES = make_images(9, size=64)
METRICS = ("psnr", "ssim", "lpips_alex", "codebook_usage", "clamp_fraction")


@pytest.fixture(scope="module", params=[False, True], ids=["B", "L"])
def tokenizer(request):
    """Untrained, of the B and of the L model's kind."""
    torch.manual_seed(0)
    options = {"channels": 8, "channel_multipliers": (1, 2, 2), "num_residual_blocks": 1, "norm_groups": 4}
    return ImageTokenizer.convolutional(LookupFreeQuantizer(10), adaptive_normalization=request.param, **options).eval()


class Recorded:
    """What a tokenizer made of images, played back."""

    def __init__(self, tokenizer, images, outputs):
        self.codebook_size, self.size_rule = tokenizer.codebook_size, tokenizer.size_rule
        self.outputs = {image.numpy().tobytes(): output for image, output in zip(images, outputs, strict=True)}

    def reconstruct(self, image):
        return self.outputs[image[0].numpy().tobytes()]


@pytest.mark.long
def test_the_tokenizer_runs_in_bfloat16_and_metrics_do_not(tokenizer, random_networks):
    loader = make_loader(IMAGES, 4)
    samples = [{**{k: v[0] for k, v in batch.items()}, "label": -1} for batch in make_loader(IMAGES, 1)]
    protocol = Protocol("x", metrics=METRICS).changed(precision="bf16")
    facts = (samples, provenance.drawn("nine", 9))
    setting = Setting(lambda resize, size: facts, torch.device("cpu"), check="record", progress=False)
    run = evaluate_tokenizer(tokenizer, {"codebook_size": 1024, "checkpoint_path": "x"}, protocol, (64, 64), setting)

    images = to_float(IMAGES)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        outputs = [tokenizer.reconstruct(image[None]) for image in images]
    assert outputs[0][0].dtype == torch.bfloat16
    recorded = Recorded(tokenizer, images, [(reconstruction.float(), indices) for reconstruction, indices in outputs])
    chosen, absent = create(list(METRICS), MetricContext(tokenizer.codebook_size))
    assert not absent
    expected = evaluate(recorded, loader, chosen, progress=False, check="off").metrics
    assert run.record["metrics"] == expected
    in_float32 = evaluate(tokenizer, loader, chosen, progress=False, check="off").metrics
    assert in_float32["psnr_image"] == pytest.approx(expected["psnr_image"], abs=0.05)
    assert in_float32["psnr_image"] != expected["psnr_image"]

    sanity = run.record["sanity"]
    assert sanity["indices_roundtrip"]  # decoded twice in the same precision, the L model's norms by their codes too
    assert "not the protocol x: precision fp32 -> bf16" in run.record["warnings"]
    assert run.record["runtime"]["precision"] == "bfloat16 autocast"
    again, _ = run.tokenizer.reconstruct(images[:1])
    assert again.dtype == run.tokenizer.detokenize(outputs[0][1]).dtype == torch.float32
    assert torch.equal(run.tokenizer.tokenize(images[:1]), outputs[0][1])
    shown = gallery.pictures(run.tokenizer, run.dataset, run.evaluation.rows, run.device, {})
    assert shown[0].figures["psnr_image"] == pytest.approx(
        10 * torch.log10(255**2 / (shown[0].original.double() - shown[0].reconstruction).square().mean()).item()
    )


def test_any_size_through_padding():
    tokenizer = PaddedTokenizer(CoarseTokenizer())
    assert isinstance(tokenizer, Tokenizer)
    image = to_float(make_images(2, size=30))
    reconstruction, indices = tokenizer.reconstruct(image)
    assert reconstruction.shape == image.shape
    assert indices.shape == (2, *tokenizer.token_shape((30, 30))) == (2, 8, 8)
    identical, _ = PaddedTokenizer(IdentityTokenizer()).reconstruct(image[..., :27, :])
    assert torch.equal(identical, image[..., :27, :])


def test_a_tokenizer_of_one_size_pads_smaller_images_and_refuses_larger_ones():
    tokenizer = PaddedTokenizer(SequenceTokenizer())
    reconstruction, indices = tokenizer.reconstruct(to_float(make_images(2, size=30)))
    assert reconstruction.shape == (2, 3, 30, 30)
    assert indices.shape == (2, *tokenizer.token_shape((30, 30))) == (2, 64)
    with pytest.raises(ValueError, match="at most 32 x 32, got 40 x 40"):
        tokenizer.reconstruct(to_float(make_images(1, size=40)))
