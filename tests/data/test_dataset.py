"""What takes the place of an unreadable image: the same for the same (seed, epoch, index), and never silently."""

import pytest
import torch
from PIL import Image

from open_magvit2.data.dataset import TransformedDataset
from open_magvit2.data.decoding import UnreadableImageError
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.transforms import ResizeRandomCrop

NUM_IMAGES = 40
BROKEN = {3, 4, 17, 30}


@pytest.fixture
def folder(tmp_path):
    """Forty images, each of a colour and a size of its own, four of them broken."""
    for index in range(NUM_IMAGES):
        path = tmp_path / f"{index:02d}.png"
        Image.new("RGB", (20 + index, 16), (index, 0, 0)).save(path)
        if index in BROKEN:
            path.write_bytes(path.read_bytes()[:40])
    return tmp_path


def samples(folder, epoch=0, replace_unreadable=True, seed=0):
    images = TransformedDataset(ImageFolder(folder), ResizeRandomCrop(16), seed, replace_unreadable)
    return [images[epoch * NUM_IMAGES + index] for index in range(NUM_IMAGES)]


def test_unreadable_images_are_replaced_and_named(folder):
    for index, sample in enumerate(samples(folder)):
        assert sample["image"][0].unique().tolist() == [sample["index"]]  # the image is the one the index says
        assert sample["path"] == str(folder / f"{sample['index']:02d}.png")
        assert sample["index"] not in BROKEN
        lines = sample["skipped"].split("\n")
        if index in BROKEN:
            assert lines[0].split("\t")[0] == str(folder / f"{index:02d}.png")
            assert all(line.split("\t")[1] for line in lines)
        else:
            assert (sample["index"], sample["skipped"]) == (index, "")


def test_the_replacement_depends_on_seed_epoch_and_index_alone(folder):
    def shown(**options):
        return [samples(folder, **options)[index]["index"] for index in sorted(BROKEN)]

    assert shown() == shown()
    assert len({tuple(shown(epoch=epoch)) for epoch in range(4)}) > 1
    assert shown(seed=1) != shown(seed=2)
    # The neighbours of a broken image are not favoured: over many epochs its place is taken by many.
    images = TransformedDataset(ImageFolder(folder), ResizeRandomCrop(16), 0, True)
    assert len({images[epoch * NUM_IMAGES + 3]["index"] for epoch in range(60)}) > 20


def test_other_samples_do_not_change_when_an_image_breaks(folder):
    before = samples(folder)
    broken = folder / "10.png"
    broken.write_bytes(b"")
    after = samples(folder)
    drawn = [index for index, sample in enumerate(before) if sample["index"] == 10]  # 10 itself, and whom it replaced
    for index in set(range(NUM_IMAGES)) - set(drawn):
        assert torch.equal(before[index]["image"], after[index]["image"])
    assert after[10]["skipped"].startswith(f"{broken}\tempty file (0 bytes)")


def test_a_file_that_vanishes_is_replaced(folder):
    images = TransformedDataset(ImageFolder(folder), ResizeRandomCrop(16), 0, True)
    (folder / "05.png").unlink()
    assert images[5]["skipped"].startswith(f"{folder / '05.png'}\tthe file is gone")


def test_skipped_names_with_line_breaks_stay_one_line(folder):
    (folder / "05.png").rename(folder / "05\n\t.png")
    (folder / "05\n\t.png").write_bytes(b"")
    images = TransformedDataset(ImageFolder(folder), ResizeRandomCrop(16), 0, True)
    line = images[5]["skipped"]
    assert line == f"\\{folder}/05\\n\\t.png\tempty file (0 bytes)"
    (folder.parent / "skipped.txt").write_text(line)
    assert len(ImageFolder(folder, exclude=folder.parent / "skipped.txt")) == NUM_IMAGES - 1


def test_nothing_is_replaced_unless_asked_for(folder):
    with pytest.raises(UnreadableImageError, match=r"cannot read image 3 at '.*03\.png'"):
        samples(folder, replace_unreadable=False)


def test_a_disk_that_is_gone_ends_it(folder):
    images = TransformedDataset(ImageFolder(folder), ResizeRandomCrop(16), 0, True)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(UnreadableImageError, match=r"100 images in a row .*the file is gone.*disk still there"):
        images[0]
