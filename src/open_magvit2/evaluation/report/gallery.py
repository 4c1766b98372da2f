"""Which images a report shows, and their pictures: original, reconstruction and difference."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from open_magvit2.common.images import to_float, to_image, to_uint8
from open_magvit2.common.precision import float32
from open_magvit2.protocols import Sample, Tokenizer

# By how much a difference is amplified.
AMPLIFICATION = 4
PICTURES = "pictures.npz"  # of `evenly_spaced`
_NUM_PHOTOS = 8


@dataclass(frozen=True)
class Picture:
    """One image of the gallery; pixels are uint8 [3, H, W] on the CPU."""

    group: str  # best, median or worst
    index: int
    path: str
    original: Tensor
    reconstruction: Tensor
    figures: dict[str, float]  # the image's own

    @property
    def name(self) -> str:
        """The name of its file."""
        return Path(self.path).name

    def difference(self) -> Tensor:
        """Grey where both agree; uint8 [3, H, W], four times the difference around 128."""
        change = self.reconstruction.to(torch.int32) - self.original.to(torch.int32)
        return (128 + AMPLIFICATION * change).clamp(0, 255).to(torch.uint8)


def choose(rows: dict[str, Tensor], number: int = 4, column: str = "psnr_image") -> dict[str, list[int]]:
    """Indices of the best, the median and the worst images by a column where higher is better.

    Args:
        rows: float64 [N] each.
        number: images a group; fewer if there are not so many, and none twice.
    """
    if column not in rows:
        return {}
    order = rows[column].argsort(descending=True, stable=True).tolist()
    number = min(number, len(order) // 3) or 1
    middle = max(0, (len(order) - number) // 2)
    groups = {"best": order[:number], "median": order[middle : middle + number], "worst": order[-number:][::-1]}
    seen: set[int] = set()
    chosen = {}
    for name, indices in groups.items():
        chosen[name] = [i for i in indices if i not in seen]
        seen |= set(indices)
    return {name: indices for name, indices in chosen.items() if indices}


@torch.inference_mode()
def pictures(
    tokenizer: Tokenizer,
    dataset: Dataset[Sample],
    rows: dict[str, Tensor],
    device: torch.device,
    reconstructions: Mapping[int, Tensor],
) -> list[Picture]:
    """Collect what a page shows of the chosen images; those that the pass did not keep are reconstructed again."""
    shown = []
    for group, indices in choose(rows).items():
        for index in indices:
            sample = dataset[index]
            pixels = reconstructions.get(index)
            if pixels is None and (pixels := sample.get("reconstruction")) is None:
                with float32(device.type):
                    reconstruction, _ = tokenizer.reconstruct(to_float(sample["image"][None].to(device)))
                pixels = to_uint8(reconstruction[0]).cpu()
            figures = {name: column[index].item() for name, column in rows.items()}
            shown.append(Picture(group, index, str(sample["path"]), sample["image"], pixels, figures))
    return shown


@torch.inference_mode()
def evenly_spaced(
    tokenizer: Tokenizer, dataset: Dataset[Sample], device: torch.device, reconstructions: Mapping[int, Tensor]
) -> dict[str, np.ndarray]:
    """The same few photos for every tokenizer, for contact sheets: their indices, originals and reconstructions.

    Returns:
        "index" int64 [N], "path" [N], and for each n "original_n" and "reconstruction_n" uint8 [3, H, W].
    """
    number = min(_NUM_PHOTOS, len(dataset))
    chosen = [i * len(dataset) // number for i in range(number)]
    found: dict[str, np.ndarray] = {"index": np.array(chosen)}
    paths = []
    for n, index in enumerate(chosen):
        sample = dataset[index]
        pixels = reconstructions.get(index)
        if pixels is None and (pixels := sample.get("reconstruction")) is None:
            with float32(device.type):
                pixels = to_uint8(tokenizer.reconstruct(to_float(sample["image"][None].to(device)))[0][0]).cpu()
        found |= {f"original_{n}": sample["image"].numpy(), f"reconstruction_{n}": pixels.numpy()}
        paths.append(str(sample["path"]))
    return {**found, "path": np.array(paths)}


def png_address(pixels: Tensor) -> str:
    """A uint8 picture [3, H, W] as a data: address of a PNG, so that a page needs no other file."""
    file = io.BytesIO()
    to_image(pixels).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
