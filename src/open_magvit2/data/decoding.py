"""From any image file to RGB, exactly, or an error that names the file and the cause.

What each kind of file becomes (docs/reliability.md has the tests):
    greyscale, 1-bit, palette: their colours; CMYK and YCCK JPEGs (Adobe's are inverted): Pillow's (255-C)(255-K)/255.
    16-bit grey: the high byte, as Pillow's and libpng's readers do for 16-bit colour. (The reference's
        `convert("RGB")` clips: nearly every pixel of such a file is white there.)
    alpha, transparent palette entries: dropped, the stored colour stays, as in the reference. Nothing is composited:
        it would need a background that the file does not name.
    EXIF rotation: not applied, pixels are taken as stored, as in the reference. The published figures are so.
    animations (GIF, WebP, APNG) and multi-picture files: the first frame.
    the file's extension: not looked at.
"""

import contextlib
import errno
import io
import os
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image

from open_magvit2.common.files import open_regular

Image.init()
# Pillow reads 40 formats, among them EPS by running Ghostscript: nothing to try on files from the web.
FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
    if name in Image.OPEN  # builds of Pillow differ
)

# 179 million, where Pillow refuses as well: a small file may claim any size. ImageNet's largest image has 60 million.
MAX_PIXELS = 2 * 89_478_485

# Resized to a shorter side of 256, an image of this ratio takes half a GiB, and one of 60,000 x 1 would take 16.
MAX_ASPECT_RATIO = 2000

# What Pillow's readers raise on damaged files; a bug of ours (KeyError, AttributeError, ...) must not look like one.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)

# Troubles of this machine, not of the file: another file would fail as well.
OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class UnreadableImageError(ValueError):
    """A file that is no whole, readable image.

    Attributes:
        path: of the file.
        cause: in one line.
    """

    def __init__(self, message: str, path: str = "", cause: str = "") -> None:
        super().__init__(message)  # one argument, so that a DataLoader can raise it again in the main process
        self.path = path
        self.cause = cause

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (str(self), self.path, self.cause)


def read_rgb(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS, content: bytes | None = None) -> Image.Image:
    """Decode an image file as RGB. Arguments are those of `opened`.

    Raises:
        UnreadableImageError: if the file is missing, truncated, no image of `FORMATS`, too large, or may not be read.
        OSError: if this machine is out of file handles or memory.
    """
    with opened(path, max_pixels, content) as image:
        image.load()
        return to_rgb(image)


@contextlib.contextmanager
def opened(
    path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS, content: bytes | None = None
) -> Iterator[Image.Image]:
    """The first frame of a file, not yet decoded; what goes wrong inside becomes an `UnreadableImageError`.

    Args:
        path: of a regular file.
        max_pixels: width times height; above the default, Pillow's own limit of this process is raised as well.
        content: of the file, where it is in memory already; `path` is its name then.
    """
    path = os.fspath(path)
    if max_pixels > MAX_PIXELS and Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)
    try:
        with open_regular(path) if content is None else io.BytesIO(content) as file:
            image = Image.open(file, formats=FORMATS)
            shorter, longer = sorted(image.size)
            if shorter * longer > max_pixels:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels, more than {max_pixels}")
            if longer > MAX_ASPECT_RATIO * shorter:
                raise ValueError(
                    f"{image.width} x {image.height} pixels: more than {MAX_ASPECT_RATIO} times as long as wide"
                )
            yield image
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
            raise
        cause = _describe(path, error, content)
        raise UnreadableImageError(f"cannot read {path!r} as an image: {cause}", path, cause) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB (see the head of this file); an RGB image is returned as it is.

    Raises:
        ValueError: if the pixels have no known range (floats, 32-bit integers but for PPM's, 12 bits in 16).
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith(("I", "F")):
        if _bits(image) != 16:
            raise ValueError(f"pixels of mode {image.mode} in a {image.format} file have no known range")
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    image.info.pop("transparency", None)  # else Pillow advises RGBA, in a warning
    return image.convert("RGB")


def _bits(image: Image.Image) -> int | None:
    """Bits of a value of a deep grey image, or None if unknown."""
    if image.format == "TIFF":
        return (image.tag_v2.get(258) or (None,))[0] if image.mode.startswith("I;16") else None
    # Pillow stretches deep PPM files to 16 bits, in mode I; older versions of it give 16-bit PNGs mode I as well. An
    # image that comes from no file may hold any range in mode I.
    return 16 if image.mode.startswith("I;16") or (image.mode == "I" and image.format is not None) else None


def _describe(path: str, error: BaseException, content: bytes | None) -> str:
    """The fault of a file, in one line without its name."""
    if isinstance(error, FileNotFoundError):
        return "broken link" if os.path.islink(path) else "the file is gone"
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror if error.errno == errno.EINVAL else f"{type(error).__name__}: {error.strerror}"
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if isinstance(error, Image.DecompressionBombError):
        return f"{text}: if you trust it, raise max_pixels (--max-pixels)"
    size = len(content) if content is not None else os.stat(path).st_size if os.path.exists(path) else 0
    if isinstance(error, Image.UnidentifiedImageError):
        return f"no image of the formats {' '.join(FORMATS)} ({size} bytes)" if size else "empty file (0 bytes)"
    return f"{text} ({size} bytes)"
