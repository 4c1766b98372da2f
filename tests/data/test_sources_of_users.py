"""Sources as newcomers write them: any image in, or one error that names class, index, got and expected."""

from pathlib import Path

import numpy as np
import pytest
import torch
from image_bytes import png
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, default_collate

from open_magvit2.data.dataset import ImageDataset, RawImage, TransformedDataset, source_paths
from open_magvit2.data.decoding import UnreadableImageError
from open_magvit2.data.loading import ImageDataModule
from open_magvit2.data.sources.by_class_path import load_source
from open_magvit2.data.sources.concatenation import Concatenation
from open_magvit2.data.streaming import StreamInOrder, TransformedStream
from open_magvit2.data.transforms import ResizeCenterCrop

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 20, 16, 3), dtype=np.uint8)


class Mine(ImageDataset):
    """Gives what `make` makes of an array [H, W, 3]."""

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return len(PIXELS)

    def read(self, index):
        return self.make(PIXELS[index])


@pytest.mark.parametrize(
    "make",
    [
        lambda a: RawImage(Image.fromarray(a), 3, "x"),
        Image.fromarray,
        lambda a: (Image.fromarray(a), 3),
        lambda a: a,
        lambda a: a.transpose(2, 0, 1),
        torch.from_numpy,
        lambda a: RawImage(Image.fromarray(a).convert("RGBA"), 3),
        lambda a: (Image.fromarray(a), None),
        lambda a: RawImage(Image.fromarray(a), torch.tensor(3), Path("x")),
    ],
    ids=["RawImage", "PIL", "PIL and label", "[H, W, 3]", "[3, H, W]", "tensor", "RGBA", "None", "tensor and Path"],
)
def test_unambiguous_images_are_converted(make):
    sample = TransformedDataset(Mine(make), ResizeCenterCrop(16))[2]
    expected = ResizeCenterCrop(16)(Image.fromarray(PIXELS[2]), None)
    assert torch.equal(sample["image"], expected)
    assert sample["label"] in (3, -1)
    assert sample["path"] in ("x", "Mine[2]")
    assert default_collate([sample, sample])["label"].dtype == torch.int64


@pytest.mark.parametrize(
    "make",
    [
        lambda a: Image.fromarray(a[..., 0]),
        lambda a: Image.fromarray(a[..., 0]).convert("1"),
        lambda a: Image.fromarray(a[..., 0].astype(np.uint16) << 8),
        lambda a: a[..., 0],
        lambda a: a[..., :1],
        lambda a: torch.from_numpy(a[None, ..., 0]),
    ],
    ids=["mode L", "mode 1", "mode I;16", "[H, W]", "[H, W, 1]", "[1, H, W]"],
)
def test_grey_images_become_rgb(make):
    pixels = TransformedDataset(Mine(make), ResizeCenterCrop(16))[0]["image"]
    assert torch.equal(pixels[0], pixels[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a: a.astype(np.float32) / 255, r"Mine gave float32 \(20, 16, 3\) for index 1; expected a PIL image"),
        (lambda a: a[:3].transpose(0, 1, 2), r"Mine gave uint8 \(3, 16, 3\) for index 1"),
        (lambda a: "photo.jpg", "Mine gave str for index 1"),
        (lambda a: torch.from_numpy(a).float(), r"Mine gave torch.float32|Mine gave float32"),
        (
            lambda a: Image.fromarray(a[..., 0].astype(np.float32)),
            r"Mine gave a PIL image of mode F, 16 x 20 for index 1",
        ),
        (
            lambda a: Image.fromarray(a[..., 0].astype(np.int32)),
            r"Mine gave a PIL image of mode I, 16 x 20 for index 1",
        ),
        (lambda a: a.astype(np.int16), r"Mine gave int16 \(20, 16, 3\) for index 1"),
        (lambda a: a[:0], r"Mine gave uint8 \(0, 16, 3\) for index 1"),
        (lambda a: Image.new("RGB", (0, 4)), "Mine gave a PIL image of mode RGB, 0 x 4 for index 1"),
        (lambda a: (), "Mine gave tuple for index 1"),
        (lambda a: (a, "cat"), "Mine gave the label 'cat' for index 1; expected the number of a class"),
        (lambda a: (a, 1.5), "Mine gave the label 1.5 for index 1"),
    ],
    ids=[
        "float",
        "ambiguous",
        "a path",
        "float tensor",
        "mode F",
        "mode I",
        "int16",
        "[0, W, 3]",
        "0 x 4",
        "()",
        "cat",
        "1.5",
    ],
)
def test_others_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        TransformedDataset(Mine(make), ResizeCenterCrop(16))[1]


def test_a_picture_whose_file_is_damaged_is_unreadable(tmp_path):
    content = bytearray(png(PIXELS[0], 2))
    content[content.index(b"IDAT") + 8] ^= 255
    (tmp_path / "damaged.png").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=r"cannot read Mine\[1\]: .*Error"):
        TransformedDataset(Mine(lambda _: Image.open(tmp_path / "damaged.png")), ResizeCenterCrop(16))[1]


@pytest.mark.parametrize("wrapped", [lambda source: source, lambda source: Concatenation([source])])
def test_a_picture_that_a_source_itself_cannot_decode_is_unreadable_and_replaced(tmp_path, wrapped):
    (tmp_path / "cut.png").write_bytes(png(PIXELS[0], 2)[:60])  # as torchvision's datasets fail

    def decode(array):
        damaged = tmp_path / "cut.png"
        return Image.open(damaged).convert("RGB") if np.array_equal(array, PIXELS[1]) else Image.fromarray(array)

    source = wrapped(Mine(decode))
    with pytest.raises(UnreadableImageError, match=r"cannot read \w+\[1\]: .*Error"):
        TransformedDataset(source, ResizeCenterCrop(16))[1]
    sample = TransformedDataset(source, ResizeCenterCrop(16), replace_unreadable=True)[1]
    assert sample["skipped"].startswith(f"{type(source).__name__}[1]\t")


def test_a_picture_whose_file_is_closed_is_refused_by_name(tmp_path):
    Image.fromarray(PIXELS[0]).save(tmp_path / "whole.png")

    def closed(_):
        with Image.open(tmp_path / "whole.png") as image:
            return image

    with pytest.raises(
        ValueError, match=r"Mine gave a PIL image whose file was closed before its load\(\) for index 1"
    ):
        TransformedDataset(Mine(closed), ResizeCenterCrop(16))[1]


class TorchDataset(Dataset):
    """A dataset as torchvision's: no base class of ours, no `read`."""

    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, index):
        return Image.fromarray(PIXELS[index]), index


def test_a_dataset_of_torchvision_s_kind_is_a_source():
    data = ImageDataModule(TorchDataset(), TorchDataset(), image_size=16, global_batch_size=2, num_workers=0)
    batches = list(data.train_dataloader())
    assert sorted(torch.cat([batch["label"] for batch in batches]).tolist()) == list(range(6))


class NoBase:
    """Two methods, and no base class."""

    def __init__(self, length: int = 6):
        self.length = length

    def __len__(self):
        return self.length

    def read(self, index):
        return Image.fromarray(PIXELS[index]), index


def test_a_source_needs_no_base_class_and_comes_by_class_path():
    data = ImageDataModule(NoBase(), NoBase(), image_size=16, global_batch_size=2, num_workers=0)
    assert sorted(torch.cat([batch["label"] for batch in data.train_dataloader()]).tolist()) == list(range(6))
    source = load_source(f"{__name__}.NoBase", ["length=4"])
    assert len(source) == 4
    assert source_paths(source)[3] == "NoBase[3]"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("nowhere.Images", [], "no source nowhere.Images: No module named 'nowhere'"),
        (f"{__name__}.PIXELS", [], "is no source of data"),
        (f"{__name__}.NoBase", ["size=4"], "does not take"),
        (f"{__name__}.NoBase", ["length"], "expected name=value"),
        (f"{__name__}.NoBase", ["length=four"], "does not take"),
    ],
)
def test_class_paths_that_are_no_sources_are_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_source(name, arguments)


class Stream(IterableDataset):
    """A plain iterable."""

    def __init__(self, length: int = 23):
        self.length = length

    def __iter__(self):
        for index in range(self.length):
            yield Image.new("RGB", (20, 16), (index, 0, 0)), index


class PartedStream(Stream):
    """An iterable that can give a part alone, in another order every epoch."""

    def iterate(self, epoch, part, num_parts):
        order = np.random.default_rng(epoch).permutation(self.length)
        for index in order[part::num_parts]:
            yield Image.new("RGB", (20, 16), (int(index), 0, 0)), int(index)


def labels_of(loader, number: int) -> list[list[int]]:
    iterator = iter(loader)
    return [next(iterator)["label"].tolist() for _ in range(number)]


@pytest.mark.parametrize("kind", [Stream, PartedStream])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_goes_on_at_the_right_sample(kind, num_workers):
    def loader(done):
        data = ImageDataModule(kind(), kind(), image_size=16, global_batch_size=3, num_workers=num_workers)
        data._start = (0, 0, done)
        return data.train_dataloader()

    whole = labels_of(loader(0), 12)
    for done in (1, 4, 5, 9):
        assert labels_of(loader(done), 12 - done) == whole[done:]


@pytest.mark.parametrize("kind", [Stream, PartedStream])
def test_ranks_share_a_stream_without_duplicates(kind):
    parts = [TransformedStream(kind(), ResizeCenterCrop(16), 0, rank, 2) for rank in range(2)]
    found = [[sample["label"] for sample in part] for part in parts]
    assert not set(found[0]) & set(found[1])
    assert sorted(found[0] + found[1]) == list(range(23))


def test_an_endless_stream_without_items_says_so():
    stream = TransformedStream(Stream(1), ResizeCenterCrop(16), 0, 1, 2, is_endless=True)
    with pytest.raises(ValueError, match="Stream has no items for part 1 of 2"):
        next(iter(stream))


def test_a_stream_has_a_length_and_items_in_any_order_where_images_are_numbered():
    class Stream:
        begun = 0

        def __iter__(self):
            self.begun += 1
            return iter(PIXELS)

    stream = Stream()
    numbered = StreamInOrder(stream)
    assert len(numbered) == len(PIXELS) == 6
    order = [0, 1, 4, 5, 2, 3]
    assert all(np.array_equal(numbered.read(index), PIXELS[index]) for index in order)
    assert stream.begun == 3  # to count, and for 0 and 2
    assert numbered.relative_paths()[5] == "Stream[5]"
