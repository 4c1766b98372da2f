"""MaskBit's discriminator: the published names and shapes, the blur against its definition, small images."""

import published_weights as published
import pytest
import torch

from open_magvit2.image_tokenizer.blur_discriminator import BlurDiscriminator, BlurDownsample


def test_names_and_shapes_are_those_of_the_published_file(shared):
    prefix = "loss.discriminator."
    manifest = published.whole_manifest(shared / "spec" / "published", "om2_pretrain_16384")
    expected = {n.removeprefix(prefix): shape for n, (shape, _) in manifest.items() if n.startswith(prefix)}
    with torch.device("meta"):
        ours = {name: tuple(value.shape) for name, value in BlurDiscriminator().state_dict().items()}
    assert ours == expected


def test_the_blur_is_a_weighted_mean_of_four_by_four_pixels():
    image = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = BlurDownsample()(image)
    assert got.shape == (2, 3, 4, 5)
    weights = torch.tensor([1, 3, 3, 1], dtype=torch.float64) / 8
    expected = torch.einsum("bchw,h,w->bc", image[:, :, 1:5, 3:7], weights, weights)  # output (1, 2) sees rows 1 to 4
    assert torch.allclose(got[:, :, 1, 2], expected, rtol=0, atol=1e-7)
    assert torch.allclose(BlurDownsample()(torch.ones(1, 1, 8, 8))[0, 0, 1:-1, 1:-1], torch.ones(2, 2))


def test_logits_have_one_size_and_gradients_reach_the_image():
    discriminator = BlurDiscriminator(channels=8, num_stages=2, norm_groups=4)
    for size in ((16, 24), (64, 64)):
        image = torch.randn(2, 3, *size, requires_grad=True)
        logits = discriminator(image)
        assert logits.shape == (2, 1, 16, 16)
        logits.mean().backward()
        assert bool(image.grad.abs().sum() > 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"channels": 48}, "32 norm_groups do not divide 48"), ({"num_stages": 0}, "num_stages must be at least 1")],
)
def test_sizes_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BlurDiscriminator(**arguments)
    with pytest.raises(ValueError, match=r"at least 8 pixels a side, got \(4, 16\)"):
        BlurDiscriminator(channels=32)(torch.zeros(1, 3, 4, 16))
