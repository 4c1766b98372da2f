"""Every kind of file becomes the right RGB, computed here by other means, or an error that says what is wrong."""

import errno
import os
import pickle
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from image_bytes import adobe_jpeg, png, png_chunk, png_that_claims
from PIL import Image

from open_magvit2.data.decoding import MAX_PIXELS, UnreadableImageError, read_rgb
from open_magvit2.data.transforms import ResizeCenterCrop, ResizeRandomCrop

RNG = np.random.default_rng(0)


def pixels_of(path, content: bytes) -> np.ndarray:
    """uint8 [H, W, 3] of a file with this content."""
    path.write_bytes(content)
    image = read_rgb(path)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "image.JPEG"  # whatever it holds: the content counts


def smooth(channels: int) -> np.ndarray:
    """uint8 [32, 32, channels] of all values, smooth enough for JPEG."""
    coarse = Image.fromarray(RNG.integers(0, 256, (4, 4 * channels), dtype=np.uint8))
    return (
        np.asarray(coarse.resize((32 * channels, 32), Image.Resampling.BICUBIC))
        .reshape(32, channels, 32)
        .swapaxes(1, 2)
    )


def test_grey(path):
    values = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
    np.testing.assert_array_equal(pixels_of(path, png(values, 0)), np.stack([values] * 3, -1))


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_scaled_not_clipped(path, channels):
    """The high byte; at most one step beside value / 257, the scale that takes 65535 to 255."""
    values = RNG.integers(0, 2**16, (50, 70, channels), dtype=np.uint16)
    values[0, 0], values[0, 1] = 0, 65535
    pixels = pixels_of(path, png(values, 0 if channels == 1 else 2))
    expected = np.broadcast_to(values >> 8, (50, 70, 3))
    np.testing.assert_array_equal(pixels, expected)
    assert np.abs(pixels - np.broadcast_to(values, expected.shape) / 257).max() < 1


def test_deep_pgm_is_stretched_from_its_largest_value(path):
    pixels = pixels_of(path, b"P5 4 1 1023\n" + np.array([0, 100, 500, 1023], dtype=">u2").tobytes())
    np.testing.assert_allclose(pixels[0, :, 0], np.array([0, 100, 500, 1023]) / 1023 * 255, atol=1)


def test_numbers_without_a_range_are_refused(path):
    Image.fromarray(np.zeros((3, 3), dtype=np.float32)).save(path, "TIFF")
    with pytest.raises(UnreadableImageError, match="pixels of mode F in a TIFF file have no known range"):
        read_rgb(path)


def test_alpha_is_dropped_and_the_stored_colour_stays(path):
    rgba = RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    rgba[0, :, 3] = 0  # wholly transparent, with a colour below
    np.testing.assert_array_equal(pixels_of(path, png(rgba, 6)), rgba[..., :3])
    np.testing.assert_array_equal(pixels_of(path, png(rgba[..., [0, 3]], 4)), rgba[..., [0, 0, 0]])
    transparent_colour = png_chunk(b"tRNS", bytes([0, rgba[1, 1, 0], 0, rgba[1, 1, 1], 0, rgba[1, 1, 2]]))
    np.testing.assert_array_equal(pixels_of(path, png(rgba[..., :3], 2, transparent_colour)), rgba[..., :3])


def test_palette_with_and_without_transparency(path):
    palette = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    values = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
    chunk = png_chunk(b"PLTE", palette.tobytes())
    np.testing.assert_array_equal(pixels_of(path, png(values, 3, chunk)), palette[values])
    transparency = png_chunk(b"tRNS", RNG.integers(0, 256, 256, dtype=np.uint8).tobytes())
    np.testing.assert_array_equal(pixels_of(path, png(values, 3, chunk, transparency)), palette[values])


def test_cmyk_of_adobe_is_inverted(path):
    """Against torchvision's reader, and a closed form on what went into the file."""
    stored = smooth(4)  # 255 is no ink
    content = adobe_jpeg(stored, transform=0)
    pixels = pixels_of(path, content)
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    reference = torchvision.io.decode_jpeg(data, torchvision.io.ImageReadMode.RGB).permute(1, 2, 0)
    np.testing.assert_array_equal(pixels, reference)
    ink_free = stored.astype(float) / 255
    np.testing.assert_allclose(pixels, 255 * ink_free[..., :3] * ink_free[..., 3:], atol=4)


def test_ycck_of_adobe_is_converted_and_inverted(path):
    ink, ink_free = smooth(3).astype(float), smooth(1).astype(float)
    # JFIF's RGB -> YCbCr, of what is left of white when the stored, inverted inks are taken away: the inks themselves
    y = ink @ [0.299, 0.587, 0.114]
    stored = np.stack([y, 128 + (ink[..., 2] - y) / 1.772, 128 + (ink[..., 0] - y) / 1.402, ink_free[..., 0]], -1)
    content = adobe_jpeg(np.rint(stored).clip(0, 255).astype(np.uint8), transform=2)
    pixels = pixels_of(path, content)
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    reference = torchvision.io.decode_jpeg(data, torchvision.io.ImageReadMode.RGB).permute(1, 2, 0)
    np.testing.assert_array_equal(pixels, reference)
    np.testing.assert_allclose(pixels, (255 - ink) * ink_free / 255, atol=5)


def test_exif_rotation_is_not_applied(path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to show"
    image = Image.fromarray(smooth(3)[:20])
    image.save(path, "JPEG", quality=95)
    stored = np.asarray(read_rgb(path))
    image.save(path, "JPEG", quality=95, exif=exif)
    np.testing.assert_array_equal(np.asarray(read_rgb(path)), stored)
    assert stored.shape == (20, 32, 3)


@pytest.mark.parametrize(("file_format", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})])
def test_animations_show_their_first_frame(path, file_format, options):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ((200, 40, 0), (0, 255, 0), (0, 0, 255))]
    frames[0].save(path, file_format, save_all=True, append_images=frames[1:], **options)
    assert Image.open(path).n_frames == 3
    assert np.asarray(read_rgb(path)).reshape(-1, 3).tolist() == [[200, 40, 0]] * 48


@pytest.mark.parametrize("size", [(1, 1), (20_000, 20), (20, 20_000)])
@pytest.mark.parametrize("transform", [ResizeRandomCrop(32, flip=True), ResizeCenterCrop(32)])
def test_tiny_and_extreme_images_become_squares(path, size, transform):
    colour = (10, 200, 30)
    Image.new("RGB", size, colour).save(path, "PNG")
    tensor = transform(read_rgb(path), np.random.default_rng(0))
    assert tensor.shape == (3, 32, 32)
    assert torch.equal(tensor, torch.tensor(colour, dtype=torch.uint8).reshape(3, 1, 1).expand(3, 32, 32))


@pytest.mark.parametrize(
    "name", ["two words.jpg", "naïve größe 写真.png", b"latin-1 \xe9\xff.jpg", "tab\t.webp", "-rf.bmp"]
)
def test_any_name(tmp_path, name):
    path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), os.fsencode(name))))
    assert pixels_of(path, png(np.full((2, 3), 77, dtype=np.uint8), 0)).tolist() == [[[77] * 3] * 3] * 2


def whole_jpeg() -> bytes:
    return adobe_jpeg(smooth(4), 0)


TEXT_BOMB = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000)))


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", r"empty file \(0 bytes\)"),
        (b"<html>404 not found</html>", r"no image of the formats JPEG PNG .* \(26 bytes\)"),
        (whole_jpeg()[: len(whole_jpeg()) // 2], r"truncated .* \(\d+ bytes\)"),
        (png(RNG.integers(0, 256, (64, 64), dtype=np.uint8), 0)[:2000], "OSError: .*truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image of the formats"),
        (png_that_claims(60_000, 60_000), "DecompressionBombError: .*3600000000 pixels"),
        (png_that_claims(MAX_PIXELS // 1000 + 1, 1000), "DecompressionBombError"),
        (png(np.zeros((1, 2001), dtype=np.uint8), 0), "2001 x 1 pixels: .* 2000 times as long as wide"),
        (png(np.zeros((2, 2), dtype=np.uint8), 0, TEXT_BOMB), "Decompressed data too large"),
    ],
    ids=["empty", "text", "truncated JPEG", "truncated PNG", "EPS", "bomb", "just too large", "too long", "text bomb"],
)
def test_what_is_no_image_is_named_with_its_cause(path, content, cause):
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=cause) as caught:
        read_rgb(path)
    assert caught.value.path == str(path)
    assert str(caught.value) == f"cannot read {str(path)!r} as an image: {caught.value.cause}"
    assert "\n" not in caught.value.cause


def test_what_is_no_file_is_named_with_its_cause(tmp_path):
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")  # reading one would wait forever
    causes = {
        "link.jpg": "broken link",
        "gone.jpg": "the file is gone",
        "folder.jpg": "IsADirectoryError: Is a directory",
        "pipe.jpg": "not a regular file",
    }
    for name, cause in causes.items():
        with pytest.raises(UnreadableImageError) as caught:
            read_rgb(tmp_path / name)
        assert caught.value.cause == cause


def test_a_file_that_may_not_be_read():
    """As another user, since root may read everything."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        paths = [os.path.join(folder, name) for name in ("open.png", "closed.png")]
        for path, rights in zip(paths, (0o644, 0o000), strict=True):
            Image.new("RGB", (2, 2)).save(path)
            os.chmod(path, rights)
        read_rgb(paths[0])  # loads what Pillow loads late
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                if os.getuid() == 0:
                    os.setuid(65534)
                read_rgb(paths[0])
                read_rgb(paths[1])
            except UnreadableImageError as error:
                os.write(writer, f"{error.path}: {error.cause}".encode())
            finally:
                os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
        assert os.read(reader, 1000).decode() == f"{paths[1]}: PermissionError: Permission denied"
        os.close(reader)


def test_a_machine_without_file_handles_is_not_the_files_fault(path):
    import resource

    path.write_bytes(png(np.zeros((2, 2), dtype=np.uint8), 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many open files") as caught:
            read_rgb(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE


def test_the_error_passes_from_a_worker_to_its_parent():
    error = pickle.loads(pickle.dumps(UnreadableImageError("message", "a.jpg", "empty")))
    assert (str(error), error.path, error.cause) == ("message", "a.jpg", "empty")
