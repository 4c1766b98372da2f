"""Image folders: layouts, labels, order, and an error that helps for each mistake."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from open_magvit2.data.sources.image_folder import ImageFolder, PackedStrings

PHOTOS = Path(__file__).parents[2].parent / "shared" / "data" / "imagenet_mini"


def save(path, colour=(10, 200, 30), mode="RGB", size=(12, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path)
    return path


def relative_paths(dataset, root):
    return [Path(dataset[index].path).relative_to(root).as_posix() for index in range(len(dataset))]


def test_class_folders_are_sorted_and_labelled_by_position(tmp_path):
    for name in ("n02/b.JPEG", "n01/z.jpg", "n02/a.png", "n10/c d é.WebP", "n01/x.bmp"):
        save(tmp_path / name)
    (tmp_path / "n01" / "notes.txt").write_text("not an image")
    save(tmp_path / "n01" / ".hidden.jpg")
    save(tmp_path / ".cache" / "x.jpg")
    dataset = ImageFolder(tmp_path)
    assert dataset.classes == ["n01", "n02", "n10"]
    assert relative_paths(dataset, tmp_path) == ["n01/x.bmp", "n01/z.jpg", "n02/a.png", "n02/b.JPEG", "n10/c d é.WebP"]
    assert [dataset[index].label for index in range(5)] == [0, 0, 1, 1, 2]


def test_order_is_that_of_the_whole_relative_path(tmp_path):
    for name in ("a/1.png", "a-b/1.png"):  # "-" sorts before "/": the class order and the file order differ
        save(tmp_path / name)
    dataset = ImageFolder(tmp_path)
    assert relative_paths(dataset, tmp_path) == ["a-b/1.png", "a/1.png"]
    assert [dataset[index].label for index in range(2)] == [1, 0]


def test_flat_folder(tmp_path):
    for name in ("b.jpg", "a.png"):
        save(tmp_path / name)
    (tmp_path / "empty").mkdir()
    dataset = ImageFolder(tmp_path)
    assert relative_paths(dataset, tmp_path) == ["a.png", "b.jpg"]
    assert [dataset[0].label, dataset[1].label] == [-1, -1]
    assert dataset.classes == []


def test_file_list_keeps_its_order_and_takes_labels_after_a_tab(tmp_path):
    for name in ("x/two words.jpg", "a.png", "ü.png"):
        save(tmp_path / "images" / name)
    listed = tmp_path / "list.txt"
    listed.write_bytes("\ufeffx/two words.jpg\t7\r\n\na.png\nü.png\t0\n".encode())
    dataset = ImageFolder(tmp_path / "images", file_list=listed)
    assert relative_paths(dataset, tmp_path / "images") == ["x/two words.jpg", "a.png", "ü.png"]
    assert [dataset[index].label for index in range(3)] == [7, -1, 0]


def test_reading_leaves_no_file_open(tmp_path):
    save(tmp_path / "a.jpg")
    dataset = ImageFolder(tmp_path)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    images = [dataset[0].image for _ in range(20)]
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert len(images) == 20
    assert after == before


def test_survives_pickling_for_workers(tmp_path):
    save(tmp_path / "c" / "a.jpg")
    dataset = pickle.loads(pickle.dumps(ImageFolder(tmp_path)))
    assert dataset[0].path.endswith("c/a.jpg")


def test_packed_strings_are_a_compact_list():
    strings = [f"n{number % 1000:08d}/n{number % 1000:08d}_{number}.JPEG" for number in range(5000)] + [
        "",
        "é",
        "\udcff",
    ]
    packed = PackedStrings(strings)
    assert [packed[index] for index in range(len(packed))] == strings
    assert packed._bytes.nbytes + packed._ends.nbytes < sum(map(len, strings)) + 9 * len(strings)


def test_index_outside_the_dataset(tmp_path):
    save(tmp_path / "a.jpg")
    for index in (1, -1):
        with pytest.raises(IndexError, match=r"holds images 0 \.\. 0"):
            ImageFolder(tmp_path)[index]


def test_missing_folder_names_the_deepest_that_exists(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"imagenet/train' does not exist .*nothing in '{tmp_path}'.*Expected"):
        ImageFolder(tmp_path / "imagenet" / "train")
    file = save(tmp_path / "photo.jpg")
    with pytest.raises(FileNotFoundError, match="found a file"):
        ImageFolder(file)


def test_empty_folder_counts_what_it_found(tmp_path):
    (tmp_path / "n01").mkdir()
    (tmp_path / "n02").mkdir()
    (tmp_path / "n01" / "readme.txt").write_text("")
    (tmp_path / "archive.tar").write_text("")
    with pytest.raises(
        ValueError,
        match=r"no images below .*found 2 folders without images, e.g. n01, n02; .*readme.txt.*\.jpeg.*unpacked",
    ):
        ImageFolder(tmp_path)


def test_images_one_level_deeper_suggest_the_split(tmp_path):
    save(tmp_path / "train" / "n01" / "a.JPEG")
    save(tmp_path / "val" / "n01" / "b.JPEG")
    with pytest.raises(ValueError, match=r"lie deeper than expected.*Did you mean .*/train or .*/val\?"):
        ImageFolder(tmp_path)


def test_a_flat_validation_beside_nested_training_is_no_class(tmp_path):
    save(tmp_path / "train" / "n01" / "a.JPEG")
    save(tmp_path / "val" / "b.JPEG")
    with pytest.raises(ValueError, match=r"lie deeper than expected.*Did you mean .*/train"):
        ImageFolder(tmp_path)


def test_images_one_level_deeper_in_each_class(tmp_path):
    save(tmp_path / "n01" / "images" / "a.JPEG")
    with pytest.raises(ValueError, match=r"lie deeper than expected.*n01/images/a\.JPEG.*Move them up"):
        ImageFolder(tmp_path)


def test_images_beside_class_folders(tmp_path):
    save(tmp_path / "stray.jpg")
    save(tmp_path / "n01" / "a.jpg")
    with pytest.raises(ValueError, match=r"1 images \(e\.g\. 'stray\.jpg'\) and folders with 1 more"):
        ImageFolder(tmp_path)


def test_file_list_mistakes(tmp_path):
    save(tmp_path / "a.jpg")
    listed = tmp_path / "list.txt"
    with pytest.raises(FileNotFoundError, match=r"file list '.*list\.txt' does not exist"):
        ImageFolder(tmp_path, listed)
    listed.write_text("\n\n")
    with pytest.raises(ValueError, match="is empty; expected one path a line"):
        ImageFolder(tmp_path, listed)
    listed.write_text("a.jpg\t1\na.jpg\tcat\n")
    with pytest.raises(ValueError, match=r"line 2 of .*has label 'cat'; expected .*whole number"):
        ImageFolder(tmp_path, listed)
    listed.write_text("train/a.jpg\n")
    with pytest.raises(FileNotFoundError, match=r"first file of .*'train/a\.jpg'.*relative to root"):
        ImageFolder(tmp_path, listed)


@pytest.mark.parametrize("kind", ["truncated", "empty", "text"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
def test_damaged_images_are_named(tmp_path, kind, suffix):
    path = tmp_path / f"bad.{suffix}"
    Image.effect_noise((64, 64), 80).convert("RGB").save(path)
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"<html>404 not found</html>"}[kind])
    with pytest.raises(ValueError, match=rf"cannot read image 0 at '.*bad\.{suffix}': .* bytes\)\. Replace"):
        ImageFolder(tmp_path)[0]


def test_broken_links_and_vanished_files_are_named(tmp_path):
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    gone = save(tmp_path / "there.jpg")
    dataset = ImageFolder(tmp_path)
    gone.unlink()
    with pytest.raises(ValueError, match=r"image 0 at '.*link\.jpg': broken link"):
        dataset[0]
    with pytest.raises(ValueError, match=r"image 1 at '.*there\.jpg': the file is gone"):
        dataset[1]


def excluding(tmp_path, *lines, **options):
    listed = tmp_path / "exclude.txt"
    listed.write_bytes(b"".join(os.fsencode(line) + b"\n" for line in lines))
    return ImageFolder(tmp_path / "images", exclude=listed, **options)


def test_excluded_images_are_left_out_and_labels_stay(tmp_path, caplog):
    root = tmp_path / "images"
    for name in ("n01/a b.png", "n02/é.png", "n02/b.png", os.fsdecode(b"n03/\xff.png"), "n03/c.png"):
        save(root / name)
    dataset = excluding(tmp_path, "n01/a b.png\tempty file", "", f"{root}/n02/é.png", os.fsdecode(b"n03/\xff.png"))
    assert relative_paths(dataset, root) == ["n02/b.png", "n03/c.png"]
    assert [dataset[index].label for index in range(2)] == [1, 2]
    assert (dataset.classes, dataset.num_excluded) == (["n01", "n02", "n03"], 3)
    assert not caplog.records
    assert (len(excluding(tmp_path)), ImageFolder(root).num_excluded) == (5, 0)  # an empty list: nothing was broken
    (tmp_path / "list.txt").write_text("n03/c.png\t7\nn01/a b.png\n")
    listed = excluding(tmp_path, "n01/a b.png", file_list=tmp_path / "list.txt")
    assert (relative_paths(listed, root), listed[0].label) == (["n03/c.png"], 7)


def test_excluded_names_that_do_not_exist_are_counted(tmp_path, caplog):
    for name in ("a.png", "b.png"):
        save(tmp_path / "images" / name)
    assert len(excluding(tmp_path, "a.png", "y.png", "x.png")) == 1
    assert "2 of the 3 paths in" in caplog.text
    assert "e.g. 'x.png'" in caplog.text
    with pytest.raises(ValueError, match=r"none of the 2 paths in .* is an image .*relative to root"):
        excluding(tmp_path, "train/a.png", "train/b.png")
    with pytest.raises(ValueError, match="all 2 images .* are left out"):
        excluding(tmp_path, "a.png", "b.png")
    with pytest.raises(FileNotFoundError, match="exclude list .* does not exist"):
        ImageFolder(tmp_path / "images", exclude=tmp_path / "nowhere.txt")


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs ../shared/data/imagenet_mini")
def test_imagenet_photos():
    dataset = ImageFolder(PHOTOS / "val")
    expected = sorted(path.relative_to(PHOTOS / "val").as_posix() for path in PHOTOS.glob("val/*/*.JPEG"))
    assert len(dataset) == len(expected) == 100
    for index in range(0, 100, 9):
        image, label, path = dataset[index][:3]
        assert path == str(PHOTOS / "val" / expected[index])
        assert label == index  # one photo a class
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(path).convert("RGB")))
    with pytest.raises(ValueError, match="Did you mean"):
        ImageFolder(PHOTOS)
