"""Images in files: class folders as ImageNet has them, one flat folder, or a list of files."""

import logging
import os
from collections.abc import Collection, Sequence

import numpy as np

from open_magvit2.common.arguments import integer
from open_magvit2.common.files import sha256
from open_magvit2.data.dataset import ImageDataset, RawImage
from open_magvit2.data.decoding import MAX_PIXELS, UnreadableImageError, read_rgb
from open_magvit2.data.image_files import SUFFIXES, Tally, list_deeply, list_folder, read_list

logger = logging.getLogger(__name__)

_MOST_SIZES = 4096  # asking for a million takes minutes on network disks
SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "test")


class ImageFolder(ImageDataset):
    """The images below a folder, sorted by their path relative to it, e.g. "n01440764/n01440764_18.JPEG".

    Layouts, told apart by themselves:
        class folders: `<root>/<class>/<image>`; the label is the position of the class in the sorted names of the
            folders that hold images.
        flat folder: `<root>/<image>`; the label is -1.
        file list: with `file_list`, a UTF-8 text file with one path a line relative to `root`, optionally followed by
            a tab and a label >= 0 (a tab, since names may hold spaces). Empty lines are skipped, the order is kept.

    `image_files.is_image_file` says which files are images; `decoding.py` says what becomes of each kind.

    Args:
        root: the folder.
        file_list: path of the list of files, or None to take all images in the folder.
        exclude: path of a list of images to leave out, one path a line relative to `root` (or beginning with it) up to
            a tab, as scripts/check_dataset.py writes it; a training's skipped_images.txt is one as well.
        max_pixels: an image that claims more, width times height, is unreadable.

    Attributes:
        classes: the sorted class names; empty for flat folders and lists. `exclude` does not change them.
        num_excluded: images left out by `exclude`.
        left_out: what the folder holds that is not taken.

    Raises:
        FileNotFoundError: if the folder, a list or the first file of the list does not exist.
        ValueError: if there are no images, or not where they are expected; if `exclude` names none of them.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        file_list: str | os.PathLike[str] | None = None,
        exclude: str | os.PathLike[str] | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        integer(1, max_pixels=max_pixels)
        self.root = os.path.expanduser(os.fspath(root))
        if not os.path.isdir(self.root):
            found = "a file" if os.path.exists(self.root) else "nothing"
            raise FileNotFoundError(
                f"image folder {self.root!r} does not exist (found {found} in {_nearest_folder(self.root)!r}). "
                "Expected a folder with <class>/<image> files or images; check the path and that the disk is mounted"
            )
        self.max_pixels = max_pixels
        self.classes: list[str] = []
        self.left_out = Tally()
        if file_list is None:
            paths, labels = self._scan()
        else:
            paths, labels = _read_file_list(self.root, os.path.expanduser(os.fspath(file_list)))
        self.num_excluded = 0
        self._paths = PackedStrings(paths)
        self._labels = np.array(labels, dtype=np.int32)
        if exclude is not None:
            self.leave_out(_read_exclude_list(self.root, os.path.expanduser(os.fspath(exclude)), paths))
        excluded = f", {self.num_excluded} more excluded" if self.num_excluded else ""
        logger.info("%d images in %d classes below %s%s", len(self), len(self.classes), self.root, excluded)
        if self.left_out.counts:
            logger.warning("left out below %s: %s", self.root, "; ".join(self.left_out.lines()))

    def __len__(self) -> int:
        return len(self._paths)

    def relative_paths(self) -> list[str]:
        """The images' paths relative to `root`, in order."""
        return [self._paths[index] for index in range(len(self))]

    def read(self, index: int) -> RawImage:
        """Decode image `index` as RGB.

        Raises:
            UnreadableImageError: if the file is gone, truncated, no image, or may not be read.
        """
        path = self.path(index)
        try:
            return RawImage(read_rgb(path, self.max_pixels), self.label(index), path)
        except UnreadableImageError as error:
            raise UnreadableImageError(
                f"cannot read image {index} at {path!r}: {error.cause}. Replace the file or leave it out (`exclude` "
                "in a config, --skip-broken in evaluation); scripts/check_dataset.py finds all such files",
                path,
                error.cause,
            ) from error

    def path(self, index: int) -> str:
        """The file of image `index`."""
        return os.path.join(self.root, self._paths[index])

    def label(self, index: int) -> int:
        """Class of image `index`; -1 where there are no classes."""
        return int(self._labels[index])

    def relative_path(self, index: int) -> str:
        """Path of image `index` below `root`."""
        return self._paths[index]

    def identity(self) -> dict[str, str]:
        """Identity that a continued training compares: names and labels in order, and sizes of up to 4,096 files."""

        def size(index: int) -> int:
            try:
                return os.stat(self.path(index)).st_size
            except OSError:
                return -1

        sizes = [size(index) for index in range(0, len(self), -(-len(self) // _MOST_SIZES))]
        return {"names": self._paths.sha256(self._labels), "sizes": sha256(repr(sizes).encode())}

    def leave_out(self, relative_paths: Collection[str]) -> None:
        """Forget some images, before anything else asks for one: the others move up.

        Raises:
            ValueError: if none remains.
        """
        names = set(relative_paths)
        paths = self.relative_paths()
        kept = [index for index, path in enumerate(paths) if path not in names]
        if not kept:
            raise ValueError(f"all {len(paths)} images below {self.root!r} are left out")
        self.num_excluded += len(paths) - len(kept)
        self._paths = PackedStrings([paths[index] for index in kept])
        self._labels = self._labels[kept]

    def _scan(self) -> tuple[list[str], list[int]]:
        """Relative paths in order with their labels; sets `classes` if there are class folders."""
        flat, folders = list_folder(self.root, "", self.left_out)
        expected = f"Expected {self.root}/<class>/<image> or {self.root}/<image>"
        labelled: list[tuple[str, int]] = []
        for folder in folders:
            images, subfolders = list_folder(self.root, folder, self.left_out)
            deeper = [path for inner in subfolders for path in list_deeply(self.root, inner, Tally())]
            if deeper and not images:
                splits = [f"{self.root}/{name}" for name in SPLIT_NAMES if name in folders]
                advice = f"Did you mean {' or '.join(splits)}?" if splits else "Move them up or use a file_list"
                raise ValueError(
                    f"images below {self.root!r} lie deeper than expected, e.g. "
                    f"{os.path.join(self.root, deeper[0])!r}. {expected}. {advice}"
                )
            for path in deeper:
                self.left_out.add("images in folders below class folders", path)
            if images:
                labelled += [(path, len(self.classes)) for path in images]
                self.classes.append(folder)
            else:
                self.left_out.add("folders without images", folder)
        if flat and labelled:
            raise ValueError(
                f"{self.root!r} holds {len(flat)} images (e.g. {flat[0]!r}) and folders with {len(labelled)} more. "
                f"{expected}, not both; move one kind away or use a file_list"
            )
        if not flat and not labelled:
            raise ValueError(
                f"no images below {self.root!r}: found {'; '.join(self.left_out.lines()) or 'nothing'}. "
                f"{expected} with one of the suffixes {' '.join(sorted(SUFFIXES))}; has the archive been unpacked here?"
            )
        if flat:
            return flat, [-1] * len(flat)
        labelled.sort()
        return [path for path, _ in labelled], [label for _, label in labelled]


class PackedStrings:
    """A read-only list of strings in two arrays: less than half of the memory, and forked workers share all of it.

    (Counting references to a million Python strings would copy their memory pages into every worker.)
    """

    def __init__(self, strings: Sequence[str]) -> None:
        encoded = [os.fsencode(string) for string in strings]
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([len(string) for string in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(self._bytes[start : self._ends[index]].tobytes())

    def sha256(self, numbers: np.ndarray) -> str:
        """Of all strings in order, and of an int32 for each."""
        return sha256(b"".join(map(np.ndarray.tobytes, (self._bytes, self._ends, numbers.astype("<i4")))))


def _nearest_folder(path: str) -> str:
    """The deepest folder on the way to `path` that exists."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _read_file_list(root: str, file_list: str) -> tuple[list[str], list[int]]:
    """Paths and labels of a file list (see `ImageFolder`)."""
    paths, labels = [], []
    for number, path, label in read_list("file list", file_list):
        if label is not None and not label.strip().isdecimal():
            raise ValueError(
                f"line {number} of {file_list!r} has label {label!r}; expected a path, or a path, a tab and a "
                "whole number >= 0"
            )
        paths.append(path)
        labels.append(-1 if label is None else int(label))
    if not paths:
        raise ValueError(f"file list {file_list!r} is empty; expected one path a line, relative to {root!r}")
    # Only the first: it shows a wrong root at once, while asking for a million files takes minutes on network disks.
    if not os.path.lexists(os.path.join(root, paths[0])):
        raise FileNotFoundError(
            f"the first file of {file_list!r}, {paths[0]!r}, does not exist below {root!r}; "
            "expected paths relative to root"
        )
    return paths, labels


def _read_exclude_list(root: str, exclude: str, paths: list[str]) -> set[str]:
    """The relative paths that a list (see `ImageFolder`) names."""
    prefix = root.rstrip("/") + "/"
    names = {path.removeprefix(prefix) for _, path, _ in read_list("exclude list", exclude)}
    absent = names.difference(paths)
    if absent:
        example = f"e.g. {min(absent)!r}"
        if absent == names:
            raise ValueError(
                f"none of the {len(names)} paths in {exclude!r} is an image of the dataset below {root!r}, {example}; "
                "expected paths relative to root: is the list of another folder?"
            )
        logger.warning("%d of the %d paths in %s are not in the dataset, %s", len(absent), len(names), exclude, example)
    return names
