"""Contact sheets: one cell a photo and tokenizer, its PSNR, and a reason where a tokenizer takes no photo."""

import pytest
import torch
from commands import ROOT, run_here
from PIL import Image
from small_checkpoint import save_small_checkpoint
from small_tokenizers import CoarseTokenizer, make_images

from open_magvit2.common.images import to_image
from open_magvit2.evaluation import contact_sheet, tiling
from open_magvit2.evaluation.baselines import psnr
from open_magvit2.evaluation.contact_sheet import Column, Photo


def test_every_cell_is_its_tokenizers_and_lies_where_it_belongs():
    photos = [Photo(f"{i}.png", image) for i, image in enumerate(make_images(3))]
    (column,) = contact_sheet.reconstruct(photos, {"coarse": CoarseTokenizer})
    for photo, cell in zip(photos, column.cells, strict=True):
        assert torch.equal(cell, tiling.reconstruct(CoarseTokenizer(), photo.original).pixels)
    flat = Column("flat", [torch.full_like(photo.original, 7) for photo in photos])
    sheet = contact_sheet.draw(photos, [column, flat])
    enlarge = 4  # of 32 pixels, so that a cell is 128 wide
    side = 128
    for row, photo in enumerate(photos):
        top = 12 + 19 + row * (side + 19 + 12)
        for number, pixels in enumerate([photo.original, column.cells[row], flat.cells[row]]):
            left = 12 + number * (side + 12)
            shown = sheet[:, top : top + side, left : left + side]
            assert torch.equal(shown[:, ::enlarge, ::enlarge], pixels)
    assert sheet.shape == (3, 12 + 19 + 3 * (side + 19 + 12) + 12, 12 + 3 * (side + 12))


def test_a_photo_that_a_tokenizer_refuses_leaves_its_reason():
    class Fussy(CoarseTokenizer):
        def reconstruct(self, image):
            raise ValueError("only squares")

    photos = [Photo("a", make_images(1)[0])]
    (column,) = contact_sheet.reconstruct(photos, {"fussy": Fussy})
    assert column.cells == ["only squares"]
    assert contact_sheet.draw(photos, [column]).shape[0] == 3
    with pytest.raises(ValueError, match="a cell for each of its 1 photos"):
        contact_sheet.draw(photos, [Column("short", [])])


def test_tiles_and_their_overlap_are_those_of_single_images():
    photo = Photo("a", make_images(1)[0])
    for tile, overlap in ((16, 0), (16, 12)):
        (column,) = contact_sheet.reconstruct([photo], {"t": Sliding}, "cpu", tile, overlap)
        assert torch.equal(column.cells[0], tiling.reconstruct(Sliding(), photo.original, tile, overlap).pixels)
        assert not torch.equal(column.cells[0], tiling.reconstruct(Sliding(), photo.original, tile).pixels)


class Sliding(CoarseTokenizer):
    """Gives every tile its own mean, so that the tiles decide the picture."""

    def reconstruct(self, image):
        return image.mean(dim=(2, 3), keepdim=True).expand_as(image), None


def test_titles_tell_files_of_one_name_apart():
    assert contact_sheet.titles(["a/x/last.ckpt", "b/x/last.ckpt"]) == ["a/x/last.ckpt", "b/x/last.ckpt"]
    assert contact_sheet.titles(["a/x/last.ckpt", "b/y/other.ckpt"]) == ["last.ckpt", "other.ckpt"]


def test_by_command_line_two_checkpoints_and_a_file_that_is_no_image(tmp_path):
    checkpoints = [save_small_checkpoint(tmp_path / name / "small.ckpt") for name in ("one", "two")]
    for i, image in enumerate(make_images(2)):
        to_image(image).save(tmp_path / f"photo{i}.png")
    command = [ROOT / "scripts" / "reconstruct.py", "--compare", *checkpoints, "--device", "cpu"]
    command += ["--tokenizer", "open_magvit2", "--output", tmp_path / "sheet.png"]
    photos = [tmp_path / "photo0.png", tmp_path / "photo1.png"]
    done = run_here(*command, "--", *photos)
    assert done.returncode == 0, done.stderr
    assert "one/small.ckpt: mean PSNR" in done.stdout
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == 12 + 3 * (128 + 12)
    (tmp_path / "broken.png").write_bytes(b"no image")
    broken = run_here(*command, "--", *photos, tmp_path / "broken.png")
    assert broken.returncode == 2
    assert "broken.png" in broken.stderr
    linked = tmp_path / "link.png"
    linked.symlink_to(photos[0])
    before = photos[0].read_bytes()
    over = run_here(*command[:-1], linked, "--", *photos)
    assert over.returncode == 2
    assert "link.png is one of the images" in over.stderr
    assert photos[0].read_bytes() == before
    assert run_here(*command, "--built-in", "2").returncode == 2
    unknown = run_here(*command[:-4], "--tokenizer", "nobodys", "--output", tmp_path / "x.png", "--", *photos)
    assert unknown.returncode == 2
    assert "available" in unknown.stderr


def test_psnr_of_a_cell_is_against_the_columns_own_originals():
    image, other = make_images(2)
    photo = Photo("a", image)
    own = contact_sheet.draw([photo], [Column("t", [other], [other])])
    against_photo = contact_sheet.draw([photo], [Column("t", [other])])
    assert psnr(other, other) == float("inf")
    assert not torch.equal(own, against_photo)
