"""Small images whose colour is their number, in folders and in shards."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int) -> bytes:
    """A PNG file whose red is `number`."""
    content = io.BytesIO()
    Image.new("RGB", (20, 16), (number, 0, 0)).save(content, "PNG")
    return content.getvalue()


def make_folder(root: Path, number: int, broken: tuple[int, ...] = ()) -> Path:
    """Images 000.png, ... in two class folders, even numbers in the first; broken ones are cut short."""
    for index in range(number):
        path = root / ("even", "odd")[index % 2] / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(index)[: 40 if index in broken else None])
    return root


def make_shard(path: Path, samples: list[dict[str, bytes]]) -> Path:
    """A tar file of samples, whose key is their position unless they name one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for position, sample in enumerate(samples):
            for ending, content in sample.items():
                member = tarfile.TarInfo(f"{position:06}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def make_shards(root: Path, sizes: list[int], first: int = 0) -> str:
    """Shards 00.tar, ... of so many images with their numbers as labels and texts; the pattern of their paths."""
    number = first
    for shard, size in enumerate(sizes):
        samples = [
            {"png": picture(n), "cls": str(n).encode(), "txt": f"number {n}".encode()}
            for n in range(number, number + size)
        ]
        make_shard(root / f"{shard:02}.tar", samples)
        number += size
    return f"{root}/{{00..{len(sizes) - 1:02}}}.tar"


def red(image: np.ndarray) -> int:
    """The number of a picture, of its transformed pixels [3, H, W]."""
    return int(image[0, 0, 0])
