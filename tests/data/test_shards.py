"""Shards: each sample once an epoch over ranks and workers, the right one after a resumption, bad ones named."""

import http.server
import itertools
import json
import os
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from shard_images import make_shard, make_shards, picture, red

pytest.importorskip("webdataset", reason="needs the package webdataset")

from open_magvit2.data.decoding import UnreadableImageError
from open_magvit2.data.loading import ImageDataModule
from open_magvit2.data.sources import shard_files
from open_magvit2.data.sources.by_class_path import load_source
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.sources.mixture import Mixture
from open_magvit2.data.sources.shards import Shards
from open_magvit2.data.streaming import StreamInOrder, TransformedStream
from open_magvit2.data.transforms import ResizeCenterCrop

SIZES = [7, 12, 1, 10]  # 30 samples; of 4 parts some begin within a shard


@pytest.fixture
def urls(tmp_path) -> str:
    return make_shards(tmp_path / "shards", SIZES)


def labels(source, part: int, num_parts: int, number: int, start: int = 0) -> list[tuple[int, int]]:
    """(epoch, label) of a part's items."""
    items = itertools.islice(source.iterate_from(start, part, num_parts), number)
    return [(epoch, item().label) for epoch, _, item in items]


def test_one_pass_has_all_samples_in_the_order_of_the_files(urls):
    source = Shards(urls)
    assert len(source) == 30
    assert [raw.label for raw in source] == list(range(30))
    assert source.counts == SIZES
    assert [item().label for item in source.in_order(8)] == list(range(8, 30))


@pytest.mark.parametrize("window", [1, 4, 256])
@pytest.mark.parametrize("num_parts", [1, 3, 4, 7])
def test_every_sample_once_an_epoch_over_all_parts_in_a_new_order(urls, num_parts, window):
    source = Shards(urls, shuffle_window=window, seed=3)
    seen = [found for part in range(num_parts) for found in labels(source, part, num_parts, 3 * (30 // num_parts))]
    epochs = {e: [label for epoch, label in seen if epoch == e] for e in range(2)}
    sizes = [30 * (part + 1) // num_parts - 30 * part // num_parts for part in range(num_parts)]
    assert max(sizes) - min(sizes) <= 1
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(30))
    assert epochs[0] != epochs[1] != list(range(30))


@pytest.mark.parametrize("start", [0, 1, 6, 7, 8, 29, 31, 64])
def test_a_part_begins_at_any_sample(urls, start):
    source = Shards(urls, shuffle_window=5)
    whole = labels(source, 1, 4, 100)
    assert labels(source, 1, 4, 30, start) == whole[start : start + 30]


def read(source, rank: int, done: int, number: int, num_workers: int = 2) -> list[list[int]]:
    """Labels of the batches of one of two ranks."""
    data = ImageDataModule(source, None, 16, global_batch_size=6, num_workers=num_workers)
    data._replicas_and_rank = lambda: (2, rank)
    data._start = (0, 0, done)
    return [batch["label"].tolist() for batch in itertools.islice(data.train_dataloader(), number)]


def test_two_ranks_with_two_workers_have_no_duplicates_and_resume(tmp_path):
    source = Shards(make_shards(tmp_path, [9, 20, 7]))  # 36 samples: 6 steps of 6
    whole = [read(source, rank, 0, 6) for rank in range(2)]
    assert sorted(itertools.chain(*itertools.chain(*whole))) == list(range(36))
    for done in (1, 3, 4):
        assert [read(source, rank, done, 6 - done) for rank in range(2)] == [batches[done:] for batches in whole]


def test_texts_are_read_where_they_are_asked_for(urls):
    def first(source):
        return next(iter(TransformedStream(source, ResizeCenterCrop(16))))

    sample = first(Shards(urls, text="txt"))
    assert sample["text"] == f"number {sample['label']}"
    assert red(sample["image"]) == sample["label"] == sample["index"]
    assert "text" not in first(Shards(urls))


def test_numbered_reading_jumps_to_a_shard(urls, monkeypatch):
    source = StreamInOrder(Shards(urls))
    assert [source.read(index)().label for index in (0, 1, 25, 3)] == [0, 1, 25, 3]
    opened = []
    original = shard_files.read_samples
    monkeypatch.setattr(shard_files, "read_samples", lambda url: opened.append(Path(url).name) or original(url))
    assert StreamInOrder(Shards(urls)).read(25)().label == 25
    assert opened == ["03.tar"]


BAD = {
    "no image": {"txt": b"text alone"},
    "broken": {"png": picture(0)[:40], "cls": b"1"},
    "label": {"png": picture(0), "cls": b"cat"},
    "empty": {"jpg": b""},
}


@pytest.fixture
def with_bad_ones(tmp_path) -> str:
    good = [{"png": picture(n), "cls": str(n).encode()} for n in range(10, 36)]
    make_shard(tmp_path / "00.tar", [*good[:9], *BAD.values(), *good[9:]])
    return str(tmp_path / "00.tar")


def test_bad_samples_are_replaced_by_the_next_one_and_named(with_bad_ones):
    source = Shards(with_bad_ones, shuffle_window=1)
    stream = partial(TransformedStream, source, ResizeCenterCrop(16), replace_unreadable=True, is_endless=True)
    samples = list(itertools.islice(stream(), 30))
    assert [sample["label"] for sample in samples] == [*range(10, 19), *[19] * 5, *range(20, 36)]
    skipped = [sample["skipped"].split("\t") for sample in samples if sample["skipped"]]
    assert [Path(path).name.partition(".")[0] for path, _ in skipped] == [f"{n:06}" for n in range(9, 13)]
    words = ("no image, only txt", "(40 bytes)", "b'cat', expected a whole number", "empty file")
    assert all(word in cause for word, (_, cause) in zip(words, skipped, strict=True))
    for done in (9, 11, 13, 14):  # a place stays a number
        assert next(iter(stream(num_batches_done=done)))["label"] == samples[done]["label"]


def test_a_bad_sample_of_a_validation_is_an_error(with_bad_ones):
    with pytest.raises(UnreadableImageError, match=r"00.tar/000009: no image, only txt"):
        list(TransformedStream(Shards(with_bad_ones, shuffle_window=1), ResizeCenterCrop(16)))


@pytest.mark.parametrize("cut", [0, 100])  # between two blocks of the tar file, and within one
def test_samples_that_a_damaged_shard_lacks_are_bad_ones(tmp_path, cut):
    urls = make_shards(tmp_path, [12, 5])
    (tmp_path / "index.json").write_text(
        shard_files.index_of([{"url": "00.tar", "nsamples": 12}, {"url": "01.tar", "nsamples": 5}])
    )
    path = tmp_path / "00.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + cut])
    stream = TransformedStream(Shards(urls), ResizeCenterCrop(16), replace_unreadable=True, is_endless=True)
    samples = list(itertools.islice(stream, 17))
    lost = [sample["skipped"] for sample in samples if sample["skipped"]]
    assert 4 <= len(lost) <= 8
    assert all("00.tar[" in line and "\tthe shard " in line for line in lost)
    assert {sample["label"] for sample in samples} >= set(range(12, 17))


def test_a_mixture_draws_by_weight_and_goes_on_at_the_right_sample(tmp_path):
    first = Shards(make_shards(tmp_path / "a", [9, 8]))
    second = Shards(make_shards(tmp_path / "b", [20, 30], first=100))
    mixture = Mixture([first, second], weights=[3, 1])
    items = [item().label for _, _, item in itertools.islice(mixture.iterate_from(0, 0, 1), 10_000)]
    assert sum(label < 100 for label in items) == 7500
    counts = Counter(items)
    for low, high in ((0, 17), (100, 150)):  # of a source, each as often as the others
        own = [number for label, number in counts.items() if low <= label < high]
        assert max(own) - min(own) <= 1
    for start in (1, 5000, 9990):
        again = itertools.islice(mixture.iterate_from(start, 0, 1), 10)
        assert [item().label for _, _, item in again] == items[start : start + 10]
    indices = [index for _, index, _ in itertools.islice(mixture.iterate_from(0, 0, 1), 500)]
    assert {index % 2 for index in indices} == {0, 1}


def test_a_mixture_takes_sources_with_random_access(tmp_path):
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    mixture = Mixture([ImageFolder(tmp_path), Shards(make_shards(tmp_path / "a", [4], first=50))], [1, 1])
    names = [item().path for _, _, item in itertools.islice(mixture.iterate_from(0, 0, 1), 10_000)]
    assert max(Counter(names).values()) <= 5000 / 4 + 1
    assert len(set(names)) == 10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: Shards(f"{root}/none/{{0..3}}.tar"), "4 of 4 shards do not exist"),
        (lambda root: Shards([]), "expected the URLs of shards"),
        (lambda root: Shards([f"{root}/00.tar"] * 2), "each once"),
        (lambda root: Shards(f"{root}/text.tar"), r"(?s)text.tar is no tar file.*expected a WebDataset shard"),
        (lambda root: Shards(f"{root}/00.tar", index=f"{root}/other.json"), "does not name 1 of the shards"),
        (lambda root: Shards(f"{root}/00.tar", index=f"{root}/text.tar"), "is no index of shards"),
        (
            lambda root: Shards(f"{root}/00.tar", index=f"{root}/size.json"),
            r"00.tar has \d+ bytes, .* expects 3",
        ),
        (lambda root: Shards("file:///nowhere/0.tar"), r"no index of the shards.*make_shards.py --count"),
        (lambda root: Shards(f"{root}/00.tar", shuffle_window=0), "shuffle_window must be at least 1"),
        (lambda root: Mixture([Shards(f"{root}/00.tar")], [1, 2]), "got 2 for 1 sources"),
        (lambda root: Mixture([Shards(f"{root}/00.tar")] * 2, [1, 1e-9]), "less than 1 in 10000"),
        (lambda root: list(Mixture([Shards(f"{root}/00.tar")], [1])), "has no end"),
        (lambda root: next(Shards(f"{root}/00.tar").iterate_from(0, 0, 9)), "no items for part 0 of 9"),
        (
            lambda root: TransformedStream(Mixture([Shards(f"{root}/00.tar")], [1]), ResizeCenterCrop(16)),
            "Mixture has no end: it is for training",
        ),
    ],
)
def test_mistakes_are_refused(tmp_path, make, message):
    make_shards(tmp_path, [3])
    (tmp_path / "text.tar").write_text("no tar file\n" * 99)
    (tmp_path / "other.json").write_text(shard_files.index_of([{"url": "01.tar", "nsamples": 3}]))
    (tmp_path / "size.json").write_text(shard_files.index_of([{"url": "00.tar", "nsamples": 3, "filesize": 3}]))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        make(str(tmp_path))


@pytest.fixture
def server(tmp_path):
    """A real HTTP server of the folder; it remembers what was asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            asked.append(self.path)

    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_address[1]}", asked
    serving.shutdown()
    serving.server_close()


def test_shards_behind_a_server(tmp_path, urls, server):
    address, asked = server
    remote = f"{address}/shards/{{00..03}}.tar"
    with pytest.raises(ValueError, match=r"no index of the shards at http://.*--count"):
        Shards(remote)
    assert shard_files.count_all(shard_files.expand(remote), tmp_path / "shards/index.json") == 30
    source, local = Shards(remote), Shards(urls, index=str(tmp_path / "shards/index.json"))
    assert labels(source, 1, 4, 20, 3) == labels(local, 1, 4, 20, 3)
    assert source.identity() == local.identity()
    asked.clear()
    assert len(labels(source, 0, 4, 1, 7)) == 1  # the second epoch: one shard is opened, not all before it
    assert len(asked) == 1
    (tmp_path / "shards/02.tar").unlink()
    bad = next(source.in_order(19))
    with pytest.raises(UnreadableImageError, match=r"02.tar\[0\].*exit 22"):
        bad()


def test_s3_goes_through_the_command_line_of_aws(tmp_path, urls, monkeypatch):
    """A stand-in for `aws`, which needs an account: it copies the file that a bucket's name stands for."""
    tool = tmp_path / "bin/aws"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\n[ "$1 $2 $4" = "s3 cp -" ] && cat "{tmp_path}/${{3#s3://}}"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    index = tmp_path / "shards/index.json"
    shard_files.count_all(shard_files.expand(urls), index)
    source = Shards("s3://shards/{00..03}.tar")
    assert [raw.label for raw in source] == list(range(30))
    assert json.loads(index.read_text())["shardlist"][1]["nsamples"] == 12


def test_shards_come_by_class_path(urls):
    source = load_source("open_magvit2.data.sources.shards.Shards", [f"urls={urls}", "seed=4"])
    assert (len(source), source.seed) == (30, 4)
