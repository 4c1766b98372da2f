"""File lists with several roots, one after the other."""

import pytest
import torch
from shard_images import picture

from open_magvit2.data.dataset import source_paths
from open_magvit2.data.loading import ImageDataModule
from open_magvit2.data.sources.by_class_path import load_source
from open_magvit2.data.sources.concatenation import Concatenation
from open_magvit2.data.sources.image_folder import ImageFolder


@pytest.fixture
def roots(tmp_path):
    """Two disks of three images, of which the lists name two each, with labels."""
    for disk, first in (("a", 0), ("b", 10)):
        for number in range(first, first + 3):
            path = tmp_path / disk / "deep" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(number))
        names = [f"deep/{number}.png\t{number}\n" for number in (first + 2, first)]
        (tmp_path / f"{disk}.txt").write_text("".join(names))
    return tmp_path


def lists(root) -> list[ImageFolder]:
    return [ImageFolder(root / disk, root / f"{disk}.txt") for disk in "ab"]


def test_each_image_once_with_its_label_and_name(roots):
    source = Concatenation(lists(roots))
    assert [source[index].label for index in range(len(source))] == [2, 0, 12, 10]
    assert source_paths(source) == ["0/deep/2.png", "0/deep/0.png", "1/deep/12.png", "1/deep/10.png"]
    data = ImageDataModule(source, None, image_size=16, global_batch_size=2, num_workers=0)
    assert sorted(torch.cat([batch["label"] for batch in data.train_dataloader()]).tolist()) == [0, 2, 10, 12]
    with pytest.raises(IndexError):
        source[4]
    assert source.identity() != Concatenation(lists(roots)[::-1]).identity()


def test_a_yaml_file_names_them(roots):
    folder = "open_magvit2.data.sources.image_folder.ImageFolder"
    parts = "".join(
        f"\n  - {{class_path: {folder}, init_args: {{root: {roots}/{disk}, file_list: {roots}/{disk}.txt}}}}"
        for disk in "ab"
    )
    path = "open_magvit2.data.sources.concatenation.Concatenation"
    (roots / "lists.yaml").write_text(f"class_path: {path}\ninit_args:\n  sources:{parts}\n")
    assert len(load_source(str(roots / "lists.yaml"))) == 4


def test_streams_and_nothing_are_refused(roots):
    with pytest.raises(ValueError, match="expected sources with random access, got none"):
        Concatenation([])
    with pytest.raises(ValueError, match="random access, got .'generator'.; Mixture takes streams"):
        Concatenation([lists(roots)[0], (n for n in "")])
