"""JPEGs decoded and resized by torchvision instead of Pillow: fewer CPU seconds, 70 dB PSNR and more to the exact ones.

Both decode with libjpeg-turbo to the same pixels; resizing differs by 1 in at most a few pixels of a hundred, since
torch computes with 16-bit weights where Pillow has 22 bits. Decoding at a reduced scale (DCT scaling, Pillow's draft)
would be faster still, but its PSNR is 30 to 50 dB: no use of it reaches 70 dB, so there is none.
"""

import functools

import numpy as np
import torch
from PIL import Image
from torchvision.io import decode_jpeg

from open_magvit2.common.files import open_regular
from open_magvit2.data.dataset import ImageDataset, RawImage
from open_magvit2.data.decoding import MAX_ASPECT_RATIO, MAX_PIXELS
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.transforms import Size, height_and_width, resized_size

MAX_SQUARED_ERROR = 255**2 / 10**7  # mean over the pixels: 70 dB


class FastDecoding(ImageDataset):
    """The images of a folder, greyscale and RGB JPEGs by the fast way, every other file exactly as the folder reads it.

    What torchvision cannot decode goes to the folder as well, so that damaged files are judged and named in one place.

    Args:
        folder: the images.
        size: that their shorter side is resized to. (`image_size` stays None: files that go the exact way come as
            they are, for the transform to resize.)
    """

    has_resized_arrays = True

    def __init__(self, folder: ImageFolder, size: Size) -> None:
        self.folder = folder
        self.size = height_and_width(size)

    def __len__(self) -> int:
        return len(self.folder)

    def read(self, index: int) -> RawImage:
        """Image `index`: uint8 [3, H, W] that covers `size`, or RGB of any size after the exact way."""
        path = self.folder.path(index)
        pixels = read_jpeg(path, self.folder.max_pixels)
        if pixels is None:
            return self.folder.read(index)
        return RawImage(resize(pixels, self.size), self.folder.label(index), path)


def read_jpeg(path: str, max_pixels: int = MAX_PIXELS) -> torch.Tensor | None:
    """Decode a greyscale or RGB JPEG file to the pixels Pillow decodes it to.

    Returns:
        uint8 [3, H, W], or None for any other file, also a damaged one.
    """
    try:
        with open_regular(path) as file:
            data = bytearray(file.read())  # torch may take its memory over; it warns of `bytes`
    except OSError:
        return None
    frame = jpeg_frame(data)
    if frame is None or frame[2] not in (1, 3):
        return None
    shorter, longer = sorted(frame[:2])
    if shorter * longer > max_pixels or longer > MAX_ASPECT_RATIO * shorter:
        return None  # refused there
    try:
        pixels = decode_jpeg(torch.frombuffer(data, dtype=torch.uint8))
    except RuntimeError:  # truncated or damaged
        return None
    return pixels.expand(3, -1, -1) if len(pixels) == 1 else pixels


def jpeg_frame(data: bytes | bytearray) -> tuple[int, int, int] | None:
    """(width, height, components) from a JPEG's frame header (ITU-T T.81, B.2.2), or None if it has none of 8 bits."""
    if data[:2] != b"\xff\xd8":
        return None
    position = 2
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            precision = data[position + 4]
            height = int.from_bytes(data[position + 5 : position + 7], "big")
            width = int.from_bytes(data[position + 7 : position + 9], "big")
            return (width, height, data[position + 9]) if precision == 8 and width and height else None
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def resize(pixels: torch.Tensor, size: Size) -> np.ndarray:
    """uint8 [3, H, W] -> uint8 [3, H', W'], as `transforms.resize_to_cover` does except for the rounding."""
    height, width = pixels.shape[1:]
    new_width, new_height = resized_size(width, height, size)
    if (new_width, new_height) == (width, height):
        return pixels.numpy()
    # Pillow 13 takes rows before columns where the height shrinks by more than twice as many pixels, torch never does.
    rows_first = height - new_height > max(0, 2 * (width - new_width))
    error = resizing_error(width, new_width) + resizing_error(height, new_height)
    if rows_first or error > MAX_SQUARED_ERROR:
        image = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
        return np.asarray(image.resize((new_width, new_height), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    return _interpolate(pixels, new_height, new_width).numpy()


@functools.lru_cache(maxsize=65536)
def resizing_error(length: int, new_length: int) -> float:
    """Mean squared difference of torch's and Pillow's resizing along one side, measured on noise.

    Near 0.001 for most lengths, but 16-bit weights decide ties (8 pixels to 5, say) at random: for a length in twenty
    it is more than 70 dB allow.
    """
    if length == new_length:
        return 0.0
    noise = np.random.default_rng(0).integers(0, 256, (length, 64, 3), dtype=np.uint8)
    exact = np.asarray(Image.fromarray(noise).resize((64, new_length), Image.Resampling.BILINEAR))
    fast = _interpolate(torch.from_numpy(noise).permute(2, 0, 1), new_length, 64).permute(1, 2, 0).numpy()
    return float(np.square(exact.astype(np.int32) - fast).mean())


def _interpolate(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return torch.nn.functional.interpolate(pixels[None], (height, width), mode="bilinear", antialias=True)[0]
