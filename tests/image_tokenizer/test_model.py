"""Architecture: sizes and names of the published models, shapes of what passes through them, errors."""

import pytest
import torch
from PIL import Image

from open_magvit2.common.construction import build, describe
from open_magvit2.common.images import to_float
from open_magvit2.image_tokenizer.decoder import Decoder
from open_magvit2.image_tokenizer.discriminator import PatchDiscriminator
from open_magvit2.image_tokenizer.encoder import Encoder
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.protocols import SizeRule, Tokenizer
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer

MODELS = {  # published parameter counts: encoder, decoder
    "B_128": ({"channel_multipliers": (1, 2, 2, 4)}, 24_226_066, 39_345_027),
    "B_256": ({"channel_multipliers": (1, 1, 2, 2, 4)}, 24_964_498, 40_526_211),
    "L_128": (
        {"channel_multipliers": (1, 2, 2, 4), "num_residual_blocks": 4, "adaptive_normalization": True},
        48_422_162,
        63_599_491,
    ),
    "L_256": (
        {"channel_multipliers": (1, 1, 2, 2, 4), "num_residual_blocks": 4, "adaptive_normalization": True},
        49_751_442,
        65_376_387,
    ),
}


def small(**options) -> ImageTokenizer:
    arguments = {"channels": 8, "channel_multipliers": (1, 2, 2), "num_residual_blocks": 1, "norm_groups": 4}
    return ImageTokenizer.convolutional(LookupFreeQuantizer(6), **(arguments | options))


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_parameter_counts_are_the_published_ones(name):
    arguments, encoder, decoder = MODELS[name]
    with torch.device("meta"):
        tokenizer = ImageTokenizer.convolutional(**arguments)
    assert count(tokenizer.encoder) == encoder
    assert count(tokenizer.decoder) == decoder


def test_discriminator_is_the_published_patchgan():
    discriminator = PatchDiscriminator()
    assert count(discriminator) == 2_765_633
    assert discriminator(torch.zeros(2, 3, 128, 128)).shape == (2, 1, 14, 14)
    weight = discriminator.layers[2].weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert discriminator.layers[3].weight.mean().item() == pytest.approx(1.0, abs=0.02)


def test_discriminator_names_the_smallest_image():
    with pytest.raises(ValueError, match="at least 24 pixels"):
        PatchDiscriminator(channels=4)(torch.zeros(1, 3, 23, 40))
    for layers in range(4):
        network = PatchDiscriminator(channels=4, num_layers=layers).eval()
        network(torch.zeros(1, 3, network.smallest_image, 40))


@pytest.mark.parametrize("part", [Encoder, Decoder])
@pytest.mark.parametrize("name", ["num_middle_blocks", "bottleneck_channels", "num_residual_blocks"])
def test_no_blocks_or_channels_are_refused(part, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        part(channels=8, norm_groups=4, **{name: 0})


@pytest.mark.parametrize("size", [(32, 32), (16, 48), (4, 8)])
def test_any_image_of_multiples_of_the_downsampling_passes(size):
    tokenizer = small()
    assert tokenizer.size_rule.multiple == (4, 4)
    image = torch.rand(2, 3, *size) * 2 - 1
    indices = tokenizer.tokenize(image)
    assert indices.shape == (2, size[0] // 4, size[1] // 4) == (2, *tokenizer.token_shape(size))
    assert indices.dtype == torch.int64
    assert tokenizer.detokenize(indices).shape == image.shape


def test_tokens_and_back_equals_one_pass():
    tokenizer = small().eval().double()
    image = torch.rand(2, 3, 16, 16, dtype=torch.float64) * 2 - 1
    reconstruction, indices = tokenizer.reconstruct(image)
    assert torch.equal(indices, tokenizer.tokenize(image))
    assert torch.allclose(reconstruction, tokenizer.detokenize(indices), atol=1e-9)
    output = tokenizer(image)
    assert torch.equal(output.indices, indices)
    assert torch.allclose(output.reconstruction, reconstruction, atol=1e-9)


def test_every_parameter_takes_a_gradient():
    tokenizer = small(adaptive_normalization=True)
    output = tokenizer(torch.rand(2, 3, 16, 16))
    (output.reconstruction.square().mean() + sum(output.losses.values())).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tokenizer.parameters())


def test_it_fulfils_the_tokenizer_protocol():
    assert isinstance(small(), Tokenizer)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 3, 18, 16), "multiples of 4 x 4, got 18 x 16"),
        (torch.zeros(3, 16, 16), r"\[B, 3, H, W\]"),
        (torch.zeros(1, 1, 16, 16), r"\[B, 3, H, W\]"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "to_float"),
    ],
)
def test_bad_images_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        small().encode(image)


def test_bad_architectures_are_refused():
    with pytest.raises(ValueError, match="4 normalization groups do not divide 10 channels"):
        small(channels=10)
    with pytest.raises(ValueError, match="grid of more than one code"):
        small(adaptive_normalization=True).reconstruct(torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_description_rebuilds_the_tokenizer(adaptive):
    tokenizer = small(adaptive_normalization=adaptive)
    rebuilt = build(describe(tokenizer))
    rebuilt.load_state_dict(tokenizer.state_dict())
    assert describe(rebuilt) == describe(tokenizer)
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(rebuilt.tokenize(image), tokenizer.tokenize(image))


class FixedSizeEncoder(torch.nn.Module):
    """Image -> N tokens without a grid, for images of 16 x 16 alone."""

    size_rule = SizeRule((16, 16), fixed=(16, 16))

    def __init__(self, latent_channels: int = 6, num_tokens: int = 5) -> None:
        super().__init__()
        self.latent_channels, self.num_tokens = latent_channels, num_tokens
        self.projection = torch.nn.Linear(3 * 16 * 16, latent_channels * num_tokens)

    def latent_shape(self, size):
        return (self.num_tokens,)

    def forward(self, image):
        return self.projection(image.flatten(1)).unflatten(1, (self.latent_channels, self.num_tokens))


class FixedSizeDecoder(torch.nn.Module):
    """N tokens -> image of 16 x 16."""

    def __init__(self, latent_channels: int = 6, num_tokens: int = 5) -> None:
        super().__init__()
        self.latent_channels, self.num_tokens = latent_channels, num_tokens
        self.projection = torch.nn.Linear(latent_channels * num_tokens, 3 * 16 * 16)

    @property
    def last_layer(self):
        return self.projection.weight

    def forward(self, codes):
        return self.projection(codes.flatten(1)).unflatten(1, (3, 16, 16))


def test_other_networks_are_injected_also_for_tokens_without_a_grid():
    tokenizer = ImageTokenizer(FixedSizeEncoder(), FixedSizeDecoder(), LookupFreeQuantizer(6))
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.token_shape((16, 16)) == (5,)
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    output = tokenizer(image)
    reconstruction, indices = tokenizer.reconstruct(image)
    assert indices.shape == (2, 5)
    assert output.reconstruction.shape == reconstruction.shape == tokenizer.detokenize(indices).shape == image.shape
    with pytest.raises(ValueError, match="16 x 16, got 8 x 8"):
        tokenizer.encode(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"2 axes \[B, ...\], got \(2, 5, 1\)"):
        tokenizer.detokenize(indices[..., None])


def test_parts_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="'encoder': 6, 'quantizer': 7, 'decoder': 6"):
        ImageTokenizer(FixedSizeEncoder(), FixedSizeDecoder(), LookupFreeQuantizer(7))
    with pytest.raises(ValueError, match="Linear is no Quantizer: it lacks latent_channels, codebook_size"):
        ImageTokenizer(FixedSizeEncoder(), FixedSizeDecoder(), torch.nn.Linear(1, 1))


def test_tokenize_takes_images_as_users_hold_them(recwarn):
    tokenizer = small().double().eval()
    pixels = torch.randint(0, 256, (3, 3, 16, 24), dtype=torch.uint8)
    expected = tokenizer.tokenize(to_float(pixels).double())
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
    unit, bytes_as_floats = pixels.double() / 255, pixels.double()
    assert torch.equal(tokenizer.tokenize(pixels), expected)
    assert torch.equal(tokenizer.tokenize(unit, value_range=(0, 1)), expected)
    assert torch.equal(tokenizer.tokenize(bytes_as_floats, value_range=(0, 255)), expected)
    assert torch.equal(tokenizer.tokenize(pictures[0]), expected[:1])
    other_size = Image.new("L", (8, 8), 200)
    listed = tokenizer.tokenize([pictures[0], other_size, pixels[2]])
    assert [tuple(indices.shape) for indices in listed] == [(4, 6), (2, 2), (4, 6)]
    assert torch.equal(listed[0], expected[0])
    assert torch.equal(listed[2], expected[2])
    reconstructions = tokenizer.reconstruct([pictures[1], other_size])
    assert reconstructions[1][0].shape == (3, 8, 8)
    assert torch.equal(reconstructions[0][1], expected[1])
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"value_range=\(0, 1\)"):
        tokenizer.tokenize(unit)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.full((1, 3, 16, 16), 255.0), r"in \[-1, 1\], got \[255, 255\]"),
        (torch.full((1, 3, 16, 16), torch.nan), "got .nan, nan"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.int64), "uint8 or float pixels, got torch.int64"),
        (Image.new("I;16", (16, 16)), "got mode I;16"),
        ("photo.jpg", "a list of them, got str"),
    ],
)
def test_other_inputs_are_refused_by_name(image, message):
    with pytest.raises(ValueError, match=message):
        small().tokenize(image)


@pytest.mark.parametrize("value_range", [(1, 1), (1, 0), (0, float("inf")), (0, float("nan")), 255, (0, 1, 2), None])
def test_a_range_of_values_that_is_none_is_refused_by_name(value_range):
    with pytest.raises(ValueError, match=r"value_range must be the lowest and the highest value .*, got "):
        small().tokenize(torch.zeros(1, 3, 16, 16), value_range=value_range)
