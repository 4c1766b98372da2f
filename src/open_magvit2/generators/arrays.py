"""PNG files joined to an npz file, the form of OpenAI's guided-diffusion; and whether such files are whole."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from open_magvit2.common.files import atomic_writer
from open_magvit2.common.progress_bar import progress_bar

_READ_AHEAD = 64  # images in memory while the arrays are written
_PNG_BEGIN, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"


def is_whole_png(file: Path, size: tuple[int, int]) -> bool:
    """Whether a file begins as a PNG file of (H, W) pixels and ends as one; what is between is not read."""
    try:
        with open(file, "rb") as content:
            begin = content.read(24)  # signature, length and name of the first chunk, width and height
            content.seek(-len(_PNG_END), 2)
            end = content.read()
    except OSError:  # also: shorter than that, or not there
        return False
    height, width = (side.to_bytes(4, "big") for side in size)
    return begin[:8] == _PNG_BEGIN and begin[16:] == width + height and end == _PNG_END


def decodes(file: Path) -> bool:
    """Whether a picture can be decoded."""
    try:
        return bool(_read_png(file).size)
    except ValueError:
        return False


def are_whole_arrays(path: Path, labels: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether a file is an npz file of these labels int64 [N] and of N images of (H, W); their pixels are not read."""
    shape = (len(labels), *size, 3)
    try:
        with zipfile.ZipFile(path) as archive:
            with archive.open("arr_0.npy") as array:
                np.lib.format.read_magic(array)
                header = np.lib.format.read_array_header_1_0(array)
                number_of_bytes = array.tell() + int(np.prod(shape))
            with archive.open("arr_1.npy") as array:
                found = np.lib.format.read_array(array, allow_pickle=False)
            right_size = archive.getinfo("arr_0.npy").file_size == number_of_bytes
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return False
    return right_size and header == (shape, False, np.dtype(np.uint8)) and np.array_equal(found, labels)


def write_arrays(
    path: Path, files: Sequence[Path], labels: np.ndarray, size: tuple[int, int], num_workers: int, progress: bool
) -> None:
    """Join PNG files to an npz file, a few in memory at a time; its bytes hold no time.

    Args:
        path: of the npz file, which appears once it is whole.
        files: of the images, in order.
        labels: int64 [N].
        size: (H, W) of every image.
        num_workers: threads that read.
        progress: draw a progress bar.

    Raises:
        ValueError: for a file that cannot be decoded, or of another size; it names the file.
    """
    bar = progress_bar(desc="join", unit="image", total=len(files), disable=not progress)
    with (
        bar,
        atomic_writer(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
        ThreadPoolExecutor(num_workers) as threads,
    ):
        with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as array:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), *size, 3)}
            np.lib.format.write_array_header_1_0(array, header)
            for pixels in _read_ahead(threads, files):
                if pixels.shape != (*size, 3):
                    raise ValueError(f"{files[bar.n]} has {pixels.shape}, expected {(*size, 3)}: delete it, run again")
                array.write(pixels.tobytes())
                bar.update()
        with archive.open(zipfile.ZipInfo("arr_1.npy"), "w") as array:
            np.lib.format.write_array(array, labels, allow_pickle=False)


def _read_ahead(threads: ThreadPoolExecutor, files: Sequence[Path]) -> Iterator[np.ndarray]:
    for start in range(0, len(files), _READ_AHEAD):
        yield from threads.map(_read_png, files[start : start + _READ_AHEAD])


def _read_png(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:  # Pillow's for a damaged PNG file
        raise ValueError(f"{file} is no whole picture ({error}): delete it, run again") from error
