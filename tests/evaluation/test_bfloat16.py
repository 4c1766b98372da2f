"""Evaluation under bfloat16: the tokenizer's networks, and nothing but them."""

import pytest
import torch
from small_tokenizers import make_images, make_loader

from open_magvit2.common.images import to_float
from open_magvit2.evaluation import gallery, provenance, results
from open_magvit2.evaluation.metrics import MetricContext, create
from open_magvit2.evaluation.protocol import Protocol
from open_magvit2.evaluation.reconstruction import evaluate
from open_magvit2.image_tokenizer.model import ImageTokenizer
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
        self.codebook_size, self.downsampling = tokenizer.codebook_size, tokenizer.downsampling
        self.outputs = {image.numpy().tobytes(): output for image, output in zip(images, outputs, strict=True)}

    def reconstruct(self, image):
        return self.outputs[image[0].numpy().tobytes()]


def test_the_tokenizer_runs_in_bfloat16_and_metrics_do_not(tokenizer, random_networks):
    loader = make_loader(IMAGES, 4)
    samples = [{**{k: v[0] for k, v in batch.items()}, "label": -1} for batch in make_loader(IMAGES, 1)]
    protocol = Protocol("x", metrics=METRICS).changed(precision="bf16")
    facts = (provenance.drawn("nine", 9), {"codebook_size": 1024, "checkpoint_path": "x"})
    run = results.run(tokenizer, samples, protocol, torch.device("cpu"), *facts, 64, check="record", progress=False)

    images = to_float(IMAGES)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        outputs = [tokenizer.reconstruct(image[None]) for image in images]
    assert outputs[0][0].dtype == torch.bfloat16
    recorded = Recorded(tokenizer, images, [(reconstruction.float(), indices) for reconstruction, indices in outputs])
    chosen, absent = create(list(METRICS), MetricContext(tokenizer.codebook_size))
    assert not absent
    expected = evaluate(recorded, loader, chosen, progress=False, check="off").metrics
    assert run.results["metrics"] == expected
    in_float32 = evaluate(tokenizer, loader, chosen, progress=False, check="off").metrics
    assert in_float32["psnr_image"] == pytest.approx(expected["psnr_image"], abs=0.05)
    assert in_float32["psnr_image"] != expected["psnr_image"]

    sanity = run.results["sanity"]
    assert sanity["indices_roundtrip"]  # decoded twice in the same precision, the L model's norms by their codes too
    assert "not the protocol x: precision fp32 -> bf16" in sanity["warnings"]
    assert run.results["runtime"]["precision"] == "bfloat16 autocast"
    again, _ = run.tokenizer.reconstruct(images[:1])
    assert again.dtype == run.tokenizer.detokenize(outputs[0][1]).dtype == torch.float32
    assert torch.equal(run.tokenizer.tokenize(images[:1]), outputs[0][1])
    shown = gallery.pictures(run.tokenizer, run.dataset, run.evaluation.rows, run.device)
    assert shown[0].figures["psnr_image"] == pytest.approx(
        10 * torch.log10(255**2 / (shown[0].original.double() - shown[0].reconstruction).square().mean()).item()
    )
