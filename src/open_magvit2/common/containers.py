"""Containers of weights other than PyTorch's: flax's msgpack, and a zip archive around one checkpoint file."""

import contextlib
import lzma
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgpack
import torch
from torch import Tensor

SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors", ".msgpack")
_ARRAY = 1  # flax's msgpack extension: an array as (shape, name of the dtype, bytes)
_APPLE = "__MACOSX/"  # folder of what macOS adds to its archives: a shadow of each file under the same name
_LARGEST_RATIO = 20  # of a packed checkpoint: weights hardly shrink, and more is a bomb
_DTYPES = {
    name: getattr(torch, name)
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}


class UnsupportedContentError(ValueError):
    """A whole file of a known container that holds something else than weights."""


def is_msgpack(path: Path) -> bool:
    """Whether a file begins like msgpack of a map, which neither a zip archive nor a pickle does."""
    with path.open("rb") as file:
        first = file.read(1)
    return first != b"" and (0x81 <= first[0] <= 0x8F or first[0] in (0xDE, 0xDF))


def read_msgpack(path: Path) -> dict[str, Tensor]:
    """The arrays of a file that flax.serialization wrote, under the names of the maps around them: "params.norm.scale".

    Msgpack holds data alone: nothing in it can run.

    Raises:
        ValueError: for damaged bytes.
        UnsupportedContentError: for an extension that is no array, or an unknown dtype.
    """

    def array(code: int, data: bytes) -> Tensor:
        if code != _ARRAY:
            raise UnsupportedContentError(f"{path} holds msgpack extension {code}, expected arrays ({_ARRAY}) only")
        shape, dtype, values = msgpack.unpackb(data)
        if dtype not in _DTYPES:
            raise UnsupportedContentError(f"{path} holds an array of {dtype}, expected one of {', '.join(_DTYPES)}")
        return torch.frombuffer(bytearray(values), dtype=_DTYPES[dtype]).reshape(tuple(shape))

    content = msgpack.unpackb(path.read_bytes(), ext_hook=array, strict_map_key=False)
    return dict(_flat(content, ""))


def _flat(content: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of nested maps; plain values (steps, scalars of an optimizer) are left out."""
    if isinstance(content, Tensor):
        yield prefix, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The checkpoint file in a zip archive, in a temporary folder; any other file as it is.

    PyTorch's own files are zip archives as well, which hold a `data.pkl`.

    Raises:
        UnsupportedContentError: for an archive without exactly one checkpoint file, a TorchScript archive, a file that
            grows to 20 times its size, or one that is damaged, encrypted or packed in an unknown way.
    """
    if not zipfile.is_zipfile(path):
        yield path
        return
    with _readable(path), zipfile.ZipFile(path) as archive:
        members = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith(_APPLE)]
    names = {Path(member.filename).name for member in members}
    if "constants.pkl" in names:
        raise UnsupportedContentError(
            f"{path} is a TorchScript archive, a program with weights in it, and no program of a file runs here: look "
            "for the same weights as .safetensors or .pt"
        )
    if "data.pkl" in names:
        yield path
        return
    weights = [member for member in members if Path(member.filename).suffix in SUFFIXES]
    if len(weights) != 1:
        shown = [member.filename for member in members][:5]
        raise UnsupportedContentError(
            f"{path} is an archive with {len(weights)} checkpoint files, expected one: it holds {shown}"
        )
    member = weights[0]
    if member.file_size > _LARGEST_RATIO * max(member.compress_size, 1024):
        raise UnsupportedContentError(
            f"{path}: {member.filename} grows from {member.compress_size:,} to {member.file_size:,} bytes, as no "
            "weights do: unpack it yourself if you trust it"
        )
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"weights{Path(member.filename).suffix}"
        with (
            _readable(path),
            zipfile.ZipFile(path) as archive,
            archive.open(member) as source,
            target.open("wb") as copy,
        ):
            shutil.copyfileobj(source, copy)
        yield target


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the errors of `zipfile` about a damaged or unusual archive into one."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
        raise UnsupportedContentError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be unpacked: damaged, cut short or encrypted.\n"
            f"  ({type(error).__name__}: {error})"
        ) from error
