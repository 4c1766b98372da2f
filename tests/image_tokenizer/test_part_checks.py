"""Parts of a user that do not give what the protocol says are named before the first step."""

import pytest
import torch

from open_magvit2.image_tokenizer.decoder import Decoder
from open_magvit2.image_tokenizer.encoder import Encoder
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.image_tokenizer.part_checks import check_outputs
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer
from open_magvit2.quantizers.residual import ResidualLookupFreeQuantizer

SIZES = {"latent_channels": 4, "channels": 8, "channel_multipliers": (1, 1), "num_residual_blocks": 1, "norm_groups": 4}


class Levels(ResidualLookupFreeQuantizer):
    """Does not say how many indices a position has."""

    indices_per_position = property(lambda self: 1, lambda self, value: None)


class TooHigh(LookupFreeQuantizer):
    """Gives indices beyond its codebook."""

    def quantize(self, latent):
        codes, indices = super().quantize(latent)
        return codes, indices + 16


class SmallEncoder(Encoder):
    """Says another grid than it gives."""

    def latent_shape(self, size):
        return tuple(side // 4 for side in size)


class GreyDecoder(Decoder):
    """Gives one channel."""

    def forward(self, codes):
        return super().forward(codes)[:, :1]


@pytest.mark.parametrize(
    ("encoder", "decoder", "quantizer", "message"),
    [
        (Encoder, Decoder, lambda: Levels(4, 2), r"Levels gives indices \(2, 4, 8, 2\), expected \(2, 4, 8\); several"),
        (Encoder, Decoder, lambda: TooHigh(4), r"TooHigh gives indices from \d+ to \d+, expected 0 to 15"),
        (
            SmallEncoder,
            Decoder,
            lambda: LookupFreeQuantizer(4),
            r"SmallEncoder gives a latent \(2, 4, 4, 8\)",
        ),
        (Encoder, GreyDecoder, lambda: LookupFreeQuantizer(4), r"GreyDecoder gives a reconstruction \(2, 1, 8, 16\)"),
    ],
)
def test_a_part_that_gives_something_else_is_named(encoder, decoder, quantizer, message):
    torch.manual_seed(0)
    tokenizer = ImageTokenizer(encoder(**SIZES), decoder(**SIZES), quantizer())
    with pytest.raises(ValueError, match=message):
        check_outputs(tokenizer, (8, 16))
    assert tokenizer.training


def test_parts_that_are_right_pass_and_no_random_number_is_drawn():
    before = torch.get_rng_state()
    tokenizer = ImageTokenizer(Encoder(**SIZES), Decoder(**SIZES), ResidualLookupFreeQuantizer(4, 2))
    torch.set_rng_state(before)
    check_outputs(tokenizer, (8, 16))
    assert torch.equal(torch.get_rng_state(), before)
