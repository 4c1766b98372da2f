"""Files and folders of a command line: every image once, every name unique."""

import pytest
from PIL import Image

from open_magvit2.data.checking import check_folder
from open_magvit2.data.image_files import escaped, find_images, unescaped
from open_magvit2.data.sources.image_folder import ImageFolder


def write(path, colour=(200, 80, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 4), colour).save(path)
    return path


def test_folders_are_searched_and_kept_in_the_names(tmp_path):
    for name in ("b.png", "a.JPG", "trip/day one/c.webp", ".hidden/d.png", "trip/.e.png"):
        write(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    assert [file.name for file in find_images([tmp_path])] == ["a", "b", "trip/day one/c"]


def test_equal_names_get_numbers(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for path in (one / "x.png", one / "x.jpg", two / "X.png", two / "x_2.png"):
        write(path)
    files = find_images([one, two])
    names = [file.name for file in files]
    assert len({name.casefold() for name in names}) == 4
    assert names == ["x", "x_2", "X_3", "x_2_2"]
    assert [file.path for file in files] == [one / "x.jpg", one / "x.png", two / "X.png", two / "x_2.png"]


def test_a_file_given_twice_counts_once(tmp_path):
    path = write(tmp_path / "x.png")
    assert [file.path for file in find_images([path, tmp_path, path])] == [path]


def test_dots_in_names_stay(tmp_path):
    assert find_images([write(tmp_path / "v1.5 final.png")])[0].name == "v1.5 final"


@pytest.mark.parametrize("name", ["picture", "picture 1.5"])
def test_a_file_by_itself_may_have_any_name(tmp_path, name):
    path = tmp_path / name
    Image.new("RGB", (5, 4)).save(path, format="PNG")
    assert find_images([path])[0].name == name


def test_linked_folders_are_followed_without_end(tmp_path):
    write(tmp_path / "elsewhere" / "x.png")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "photos")
    assert [file.name for file in find_images([tmp_path / "photos"])] == ["link/x"]


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png' does not exist"):
        find_images([tmp_path / "nowhere.png"])
    with pytest.raises(ValueError, match="no images below"):
        find_images([tmp_path])


SUFFIXES = ("tif", "TIFF", "gif", "jfif", "jpe", "ppm", "dib", "jp2", "j2k", "apng", "webp", "Jpeg", "bmp")


def test_every_command_takes_the_same_files_and_names_the_others(tmp_path, caplog):
    colour = (200, 80, 20)
    for suffix in SUFFIXES:
        write(tmp_path / f"image.{suffix}", colour)
    Image.new("RGB", (5, 4), colour).save(tmp_path / "no suffix", format="PNG")
    (tmp_path / "README").write_text("P6 is no picture")
    (tmp_path / "photo.jpg_large").write_bytes((tmp_path / "image.jpe").read_bytes())
    (tmp_path / "._image.png").touch()
    folder = ImageFolder(tmp_path)
    assert {path.partition(".")[2] for path in folder.relative_paths()} == {*SUFFIXES, ""}
    assert {folder.root + "/" + path for path in folder.relative_paths()} == {
        str(f.path) for f in find_images([tmp_path])
    }
    report = check_folder(folder, progress=False)
    assert (report.num_images, report.broken) == (len(SUFFIXES) + 1, {})
    assert report.left_out.examples == {
        "files without suffix": ["README"],
        "files .jpg_large": ["photo.jpg_large"],
        "hidden files and folders": ["._image.png"],
    }
    assert "left out: 1 files .jpg_large, e.g. photo.jpg_large" in report.text()
    assert caplog.text.count("photo.jpg_large") == 2  # of the folder and of the search


def test_folders_that_hold_no_class_shift_no_label(tmp_path):
    for name in ("n01/a.png", "n02/b.png", "n02/more/c.png", "__MACOSX/n01/a.png", ".cache/x.png"):
        write(tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    folder = ImageFolder(tmp_path)
    assert (folder.relative_paths(), folder.classes) == (["n01/a.png", "n02/b.png"], ["n01", "n02"])
    assert [folder.label(index) for index in range(2)] == [0, 1]
    assert set(folder.left_out.examples.pop("hidden files and folders")) == {"__MACOSX", ".cache"}
    assert folder.left_out.examples == {
        "folders without images": ["empty"],
        "images in folders below class folders": ["n02/more/c.png"],
        "files without suffix": ["circle"],
    }


def test_a_link_around_itself_is_no_class_and_images_far_below_a_class_are_counted(tmp_path):
    for name in ("n01/a.png", "n01/b/c/d.png", "n01/b/e.png"):
        write(tmp_path / name)
    (tmp_path / "self").symlink_to(".")
    (tmp_path / "up").symlink_to(tmp_path.parent)
    (tmp_path / "n01/b/back").symlink_to("../..")
    folder = ImageFolder(tmp_path)
    assert (folder.relative_paths(), folder.classes) == (["n01/a.png"], ["n01"])
    assert folder.left_out.lines() == [
        "2 links to a folder that they lie in, e.g. self, up",
        "2 images in folders below class folders, e.g. n01/b/c/d.png, n01/b/e.png",
    ]
    (tmp_path / "n01/a.png").unlink()
    with pytest.raises(ValueError, match="lie deeper than expected, e.g. .*n01/b/"):
        ImageFolder(tmp_path)


@pytest.mark.parametrize("name", ["plain", "a\nb", "\\n", "tab\t\\", "\r", "in\\side"])
def test_names_survive_a_line(name):
    assert unescaped(escaped(name)) == name
    assert len(escaped(name).splitlines()) == 1
    assert "\t" not in escaped(name)
