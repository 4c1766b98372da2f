"""Image files made byte by byte, so that a reader is tested against the format and not against its own writer."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def png_chunk(name: bytes, content: bytes) -> bytes:
    """A PNG chunk with its checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(values: np.ndarray, colour_type: int, *chunks: bytes) -> bytes:
    """A PNG file of uint8 or uint16 values [H, W] or [H, W, channels], without filters.

    Args:
        values: as the file stores them.
        colour_type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA.
        chunks: to stand before the pixels: a palette (PLTE), transparency (tRNS).
    """
    height, width = values.shape[:2]
    depth = 8 * values.dtype.itemsize
    rows = values.astype(values.dtype.newbyteorder(">")).reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", zlib.compress(raw)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_that_claims(width: int, height: int) -> bytes:
    """A few bytes that say they are an RGB PNG of this size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(bytes(64))), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def adobe_jpeg(components: np.ndarray, transform: int) -> bytes:
    """A JPEG of four components uint8 [H, W, 4] as Photoshop writes them, almost without loss.

    Args:
        components: as the file stores them: inverted CMYK, or for YCCK the YCbCr of RGB, and inverted K.
        transform: the Adobe marker's word on them: 0 for CMYK, 2 for YCCK.
    """
    buffer = io.BytesIO()
    Image.fromarray(255 - components, "CMYK").save(buffer, "JPEG", quality=100, subsampling=0)
    content = bytearray(buffer.getvalue())
    content[content.index(b"Adobe") + 11] = transform
    return bytes(content)
