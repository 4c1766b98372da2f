"""Hugging Face data sets on this disk: parquet files and folders, with random access and as a stream."""

import itertools

import pytest
from shard_images import make_folder, picture, red

from open_magvit2.data.decoding import UnreadableImageError
from open_magvit2.data.loading import ImageDataModule
from open_magvit2.data.sources.hugging_face import HuggingFaceImages, HuggingFaceStream
from open_magvit2.data.streaming import parts_of

datasets = pytest.importorskip("datasets", reason="needs the package datasets")


@pytest.fixture(scope="module")
def parquet(tmp_path_factory) -> dict:
    """Options that name four files of 5 images, of which number 13 is broken and 17 is missing."""
    folder = tmp_path_factory.mktemp("parquet")
    for first in range(0, 20, 5):
        pictures = [{"bytes": picture(n), "path": None} for n in range(first, first + 5)]
        if first == 10:
            pictures[3]["bytes"] = pictures[3]["bytes"][:40]
        if first == 15:
            pictures[2] = None
        rows = {"picture": pictures, "number": list(range(first, first + 5)), "text": ["word"] * 5}
        features = {"picture": datasets.Image(), "number": datasets.Value("int64"), "text": datasets.Value("string")}
        datasets.Dataset.from_dict(rows, datasets.Features(features)).to_parquet(folder / f"{first:02}.parquet")
    cache = str(tmp_path_factory.mktemp("cache"))
    return {"data_files": sorted(map(str, folder.glob("*.parquet"))), "cache_dir": cache}


COLUMNS = {"image_column": "picture", "label_column": "number"}
READABLE = [number for number in range(20) if number not in (13, 17)]


def test_random_access(parquet):
    source = HuggingFaceImages("parquet", options=parquet, **COLUMNS)
    assert len(source) == 20
    for index in READABLE:
        assert source[index].label == source[index].image.getpixel((0, 0))[0] == index
    for index, cause in ((13, "40 bytes"), (17, "no image in the row")):
        with pytest.raises(UnreadableImageError, match=cause):
            source[index]
    assert source.identity() == HuggingFaceImages("parquet", options=parquet, **COLUMNS).identity()
    assert HuggingFaceImages("parquet", options=parquet, image_column="picture")[3].label == -1


def test_a_local_folder(tmp_path):
    make_folder(tmp_path / "images", 6)
    source = HuggingFaceImages(
        str(tmp_path / "images"), label_column="label", options={"cache_dir": str(tmp_path / "cache")}
    )
    assert sorted(source[index].image.getpixel((0, 0))[0] for index in range(6)) == list(range(6))
    assert {source[index].label for index in range(6)} == {0, 1}


@pytest.mark.parametrize("num_parts", [1, 3, 4, 6])  # fewer than the files, as many, more
def test_a_stream_has_every_image_once_an_epoch(parquet, num_parts):
    source = HuggingFaceStream("parquet", options=parquet, **COLUMNS)
    orders = []
    for epoch in range(2):
        found = [item for part in range(num_parts) for item in source.iterate(epoch, part, num_parts)]
        assert len(found) == 20
        readable = []
        for item in found:
            try:
                readable.append(item().label)
            except UnreadableImageError:
                continue
        assert sorted(readable) == READABLE
        orders.append(readable)
    assert orders[0] != orders[1]


def test_a_stream_goes_on_at_the_right_image(parquet):
    def labels(start):
        items = itertools.islice(parts_of(source, start, 1, 3), 25)
        return [(epoch, index) for epoch, index, _ in items]

    source = HuggingFaceStream("parquet", options=parquet, **COLUMNS)
    whole = labels(0)
    assert labels(7)[:18] == whole[7:]


def test_workers_do_not_divide_the_files_again(parquet):
    """`datasets` shares its files among PyTorch's workers by itself, which would leave most of them out."""
    source = HuggingFaceStream("parquet", options=parquet, shuffle_buffer=1, **COLUMNS)
    data = ImageDataModule(source, None, image_size=16, global_batch_size=2, num_workers=2)
    data.replace_unreadable = True
    batches = list(itertools.islice(data.train_dataloader(), 10))
    numbers = [red(image) for batch in batches for image in batch["image"]]
    assert set(numbers) == set(READABLE)
    skipped = [line for batch in batches for line in batch["skipped"] if line]
    assert len(skipped) == 2


@pytest.mark.parametrize("kind", [HuggingFaceImages, HuggingFaceStream])
def test_mistakes_are_refused(parquet, kind, tmp_path):
    with pytest.raises(ValueError, match="has no column 'image'; it has .*picture"):
        kind("parquet", options=parquet)
    with pytest.raises(ValueError, match="no data set .*nowhere"):
        kind(str(tmp_path / "nowhere"))
