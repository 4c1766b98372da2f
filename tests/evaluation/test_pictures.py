"""Pictures show what they say: the pixels in their places, the words around them."""

import pytest
import torch
from PIL import Image
from small_tokenizers import CoarseTokenizer, make_images

from open_magvit2.common.images import from_image
from open_magvit2.evaluation.pictures import (
    Column,
    comparison,
    labelled_columns,
    originals_above_reconstructions,
    save_png,
    side_by_side,
)
from open_magvit2.evaluation.tiling import reconstruct


def contains(picture, part):
    """Whether uint8 [3, h, w] occurs somewhere in [3, H, W]."""
    height, width = part.shape[1:]
    windows = picture.unfold(1, height, 1).unfold(2, width, 1)  # [3, y, x, h, w]
    corners = (windows[:, :, :, 0, 0] == part[:, None, None, 0, 0]).all(dim=0).nonzero()
    return any(torch.equal(windows[:, y, x], part) for y, x in corners.tolist())


def test_side_by_side_has_both_in_their_places():
    first, second = make_images(2)
    picture = side_by_side(first[:, :20], second[:, :20])
    assert picture.shape == (3, 24, 70)
    assert torch.equal(picture[:, 2:22, 2:34], first[:, :20])
    assert torch.equal(picture[:, 2:22, 36:68], second[:, :20])


def test_a_comparison_without_baselines_is_plain():
    original = make_images(1)[0]
    result = reconstruct(CoarseTokenizer(), original)
    assert torch.equal(comparison(original, result, 512), side_by_side(original, result.pixels))


@pytest.mark.parametrize("size", [(200, 256), (256, 40)])
def test_a_comparison_with_baselines_has_four_columns(size):
    original = make_images(1, 256)[0, :, : size[0], : size[1]]
    result = reconstruct(CoarseTokenizer(), original)
    picture = comparison(original, result, 512, ["jpeg", "bicubic"])
    assert picture.dtype == torch.uint8
    enlarge = -(-192 // size[1])
    assert picture.shape[2] > 4 * enlarge * size[1]
    for pixels in (original, result.pixels):
        assert contains(picture, pixels.repeat_interleave(enlarge, 1).repeat_interleave(enlarge, 2))


def test_a_baseline_that_does_not_fit_leaves_a_grey_box():
    original = make_images(1, 16)[0]
    result = reconstruct(CoarseTokenizer(), original)  # 16 tokens of 9 bits: less than the headers of a JPEG file
    picture = comparison(original, result, 512, ["jpeg"])
    assert contains(picture, torch.full((3, 192, 192), 238, dtype=torch.uint8))


def test_words_are_drawn_and_make_room_for_themselves():
    pixels = torch.full((3, 200, 200), 255, dtype=torch.uint8)
    short = labelled_columns([Column("a", pixels, [])])
    long = labelled_columns([Column("a", pixels, ["a line that is a good deal longer than the image is wide"])])
    assert long.shape[2] > short.shape[2]
    assert (long[:, -40:] < 128).any()
    assert (long[:, :, 0] == 255).all()  # nothing touches the border
    assert (long[:, :, -1] == 255).all()


def test_the_last_row_of_a_grid_may_be_short():
    originals, results = make_images(5), make_images(5, seed=1)
    grid = originals_above_reconstructions(originals, results, columns=3, enlarge=2)
    assert grid.shape == (3, 4 * 66 + 2, 3 * 66 + 2)
    assert (grid[:, 2 * 66 + 2 :, 2 * 66 + 2 :] == 255).all()


def test_saved_pictures_come_back(tmp_path):
    pixels = make_images(1)[0]
    save_png(tmp_path / "new" / "folder" / "picture.png", pixels)
    assert torch.equal(from_image(Image.open(tmp_path / "new" / "folder" / "picture.png")), pixels)
