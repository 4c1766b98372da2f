"""Images of any size through a tokenizer: padding, cropping and tiles are exact where the tokenizer is."""

import math

import pytest
import torch
from small_tokenizers import CoarseTokenizer, IdentityTokenizer, SequenceTokenizer, make_images

from open_magvit2.evaluation.tiling import check_tiles, measure_seams, reconstruct, seams, tiles_along
from open_magvit2.protocols import SizeRule


class ShiftingTokenizer(IdentityTokenizer):
    """Moves every image towards its mean, as a network with statistics over the whole image does."""

    def reconstruct(self, image):
        result, indices = super().reconstruct(image)
        return 0.8 * result + 0.2 * image.mean(dim=(2, 3), keepdim=True), indices


def photo(height, width, seed=0):
    """uint8 [3, height, width]."""
    return make_images(1, max(height, width), seed)[0, :, :height, :width]


@pytest.mark.parametrize("size", [(32, 32), (33, 50), (1, 1), (3, 90), (31, 4)])
def test_any_size_is_padded_and_cropped_exactly(size):
    pixels = photo(*size)
    result = reconstruct(IdentityTokenizer(), pixels)
    assert torch.equal(result.pixels, pixels)
    assert result.num_tokens == math.ceil(size[0] / 4) * math.ceil(size[1] / 4)


def test_the_border_is_repeated():
    """One token of 4 x 4 over a padded pixel has the mean of that pixel, not of it and something else."""
    pixels = torch.full((3, 5, 4), 120, dtype=torch.uint8)
    pixels[:, 4] = 200
    whole_token = torch.full((3, 4, 4), 200, dtype=torch.uint8)
    result = reconstruct(CoarseTokenizer(), pixels).pixels
    assert torch.equal(result[:, 4], reconstruct(CoarseTokenizer(), whole_token).pixels[:, 0])


@pytest.mark.parametrize("overlap", [0, 4, 8, 20, 28])
@pytest.mark.parametrize("length", [33, 64, 65, 100, 129])
def test_tiles_cover_evenly_and_their_weights_add_up_to_one(length, overlap):
    tile = 32
    axis = tiles_along(length, multiple=4, tile=tile, overlap=overlap)
    padded = math.ceil(length / 4) * 4
    assert axis.starts[0] == 0
    assert axis.starts[-1] == padded - tile
    assert all(start % 4 == 0 for start in axis.starts)
    steps = [after - before for before, after in zip(axis.starts, axis.starts[1:], strict=False)]
    assert max(steps) <= tile - overlap
    assert max(steps) - min(steps) <= 4
    total = torch.zeros(padded)
    for start, weights in zip(axis.starts, axis.weights, strict=True):
        assert (weights > 0).all()
        total[start : start + tile] += weights
    torch.testing.assert_close(total, torch.ones(padded), atol=1e-6, rtol=0)


def test_two_tiles_are_blended_by_a_linear_ramp():
    axis = tiles_along(56, multiple=4, tile=32, overlap=8)
    assert axis.starts == [0, 24]
    torch.testing.assert_close(axis.weights[1, :8], (torch.arange(8) + 0.5) / 8)
    torch.testing.assert_close(axis.weights[0, 24:], 1 - axis.weights[1, :8])
    assert (axis.weights[0, :24] == 1).all()


@pytest.mark.parametrize("size", [(40, 40), (33, 90), (70, 20), (97, 101)])
@pytest.mark.parametrize(("tile", "overlap"), [(32, None), (32, 0), (16, 12), (64, 4), (4, 0)])
def test_tiles_of_an_exact_tokenizer_are_exact(size, tile, overlap):
    pixels = photo(*size)
    assert torch.equal(reconstruct(IdentityTokenizer(), pixels, tile, overlap).pixels, pixels)


@pytest.mark.parametrize("overlap", [0, 8])
def test_tiles_keep_the_grid_of_the_tokens(overlap):
    """A tokenizer that sees single tokens gives the same in tiles, to a level of rounding; overlaps cost tokens."""
    pixels = photo(61, 95)
    whole, tiled = (reconstruct(CoarseTokenizer(), pixels, tile, overlap) for tile in (None, 32))
    assert (whole.pixels.int() - tiled.pixels.int()).abs().max() <= 1
    assert (tiled.num_tokens > whole.num_tokens) == (overlap > 0)


def test_no_more_than_a_tile_goes_through_the_tokenizer():
    seen = []

    class Watching(IdentityTokenizer):
        def reconstruct(self, image):
            seen.append(tuple(image.shape))
            return super().reconstruct(image)

    reconstruct(Watching(), photo(70, 130), tile=32, overlap=8)
    assert set(seen) == {(1, 3, 32, 32)}


def test_seams_are_where_tiles_overlap():
    near = seams(CoarseTokenizer(), photo(32, 56), tile=32, overlap=8)
    assert near.shape == (32, 56)
    assert near[:, 20:36].all()  # blended from 24 to 32, and a token of 4 on either side
    assert not near[:, :20].any()
    assert not near[:, 36:].any()


def test_seam_errors_are_measured():
    pixels = photo(64, 64)
    exact = measure_seams(IdentityTokenizer(), pixels, tile=32, overlap=8)
    assert exact == (math.inf, math.inf, math.inf)
    measured = measure_seams(ShiftingTokenizer(), pixels, tile=32, overlap=8)
    whole, tiled = (reconstruct(ShiftingTokenizer(), pixels, tile, 8).pixels.double() for tile in (None, 32))
    assert measured.everywhere == pytest.approx(10 * math.log10(255**2 / (whole - tiled).square().mean()))
    assert min(measured.near, measured.elsewhere) <= measured.everywhere <= max(measured.near, measured.elsewhere)
    assert f"{measured.everywhere:.2f} dB" in str(measured)
    assert measure_seams(IdentityTokenizer(), pixels, tile=64) is None


def test_wider_overlaps_leave_smaller_steps():
    """What blending is for: the largest jump between neighbouring pixels that the original does not have."""
    pixels = photo(96, 96)

    def step(overlap):
        result = reconstruct(ShiftingTokenizer(), pixels, 48, overlap).pixels.double()
        return ((result - 0.8 * pixels).diff(dim=2).abs()).max().item()

    assert step(24) < step(0) / 2


@pytest.mark.parametrize(
    ("tile", "overlap", "words"),
    [
        (30, None, "take 32"),
        (0, None, "take 4"),
        (32, 6, "overlap must be a multiple of 4"),
        (32, 32, "smaller than tile, which is 32, got 32"),
    ],
)
def test_tiles_that_do_not_fit_the_tokens_are_refused(tile, overlap, words):
    with pytest.raises(ValueError, match=words):
        reconstruct(IdentityTokenizer(), photo(64, 64), tile, overlap)


def test_the_default_overlap_is_a_quarter_in_whole_tokens():
    tokenizer = CoarseTokenizer()
    assert check_tiles(tokenizer, 40) == 8
    assert check_tiles(tokenizer, 128) == 32
    tokenizer.size_rule = SizeRule((4, 8))
    assert check_tiles(tokenizer, 40) == 8
    with pytest.raises(ValueError, match="multiple of 8"):
        check_tiles(tokenizer, 36)


def test_a_tokenizer_of_one_size_takes_no_tiles():
    """Smaller images are padded to its size, larger ones and tiles are refused."""
    assert reconstruct(SequenceTokenizer(), photo(20, 32)).num_tokens == 64
    with pytest.raises(ValueError, match="at most 32 x 32, got 40 x 32"):
        reconstruct(SequenceTokenizer(), photo(40, 32))
    with pytest.raises(ValueError, match=r"sizes of 32 x 32 and gives \(64,\) tokens"):
        check_tiles(SequenceTokenizer(), 32)


def test_other_pixels_are_refused():
    for wrong in (torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, 0, 8).byte()):
        with pytest.raises(ValueError, match="expected one image uint8"):
            reconstruct(IdentityTokenizer(), wrong)
