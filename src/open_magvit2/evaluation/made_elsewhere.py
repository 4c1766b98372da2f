"""Pictures made elsewhere: folders of originals and of reconstructions, matched by file name without suffix."""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from open_magvit2.common.images import from_image
from open_magvit2.data.decoding import read_rgb
from open_magvit2.data.image_files import find_images
from open_magvit2.evaluation import provenance
from open_magvit2.evaluation.run import Run, Setting, evaluate_tokenizer
from open_magvit2.protocols import Sample, SizeRule

_SHOWN = 10


class PairsOfFiles(Dataset[Sample]):
    """Samples of an original and, under "reconstruction", its partner; sorted by name.

    Raises:
        ValueError: for a name that occurs twice in a folder, and for pictures without a partner, the first ten named.
    """

    def __init__(self, originals: str | Path, reconstructions: str | Path, max_pixels: int) -> None:
        first, second = _by_name(originals), _by_name(reconstructions)
        alone = {"a reconstruction": first.keys() - second.keys(), "an original": second.keys() - first.keys()}
        missing = [f"without {what}: {_listed(names)}" for what, names in alone.items() if names]
        if missing or not first:
            raise ValueError(f"{originals} and {reconstructions}: {'; '.join(missing) or 'no images'}")
        self.pairs = [(name, first[name], second[name]) for name in sorted(first)]
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        name, *paths = self.pairs[index]
        image, reconstruction = (from_image(read_rgb(path, self.max_pixels)) for path in paths)
        if image.shape != reconstruction.shape:
            sizes = [f"{x.shape[2]} x {x.shape[1]}" for x in (image, reconstruction)]
            raise ValueError(f"{name}: the original is {sizes[0]}, the reconstruction {sizes[1]}; sizes must agree")
        return {"image": image, "reconstruction": reconstruction, "index": index, "label": -1, "path": name}


class MadeElsewhere:
    """Stands where a tokenizer does; the pictures are there already and nothing is known of their tokens."""

    codebook_size = None
    modality = "image"
    size_rule = SizeRule((1, 1))

    def token_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return tuple(size)

    def tokenize(self, image: Tensor) -> Tensor:
        raise ValueError("pictures made elsewhere have no tokens")

    detokenize = reconstruct = tokenize


def evaluate(args: argparse.Namespace, device: torch.device) -> Run:
    """Measure the pairs that a command line (`command_line.parse_evaluate`) names, each in its own size."""
    dataset = PairsOfFiles(args.originals, args.reconstructions, args.max_pixels)
    facts, outputs = (
        provenance.folder(root, [pair[i].relative_to(root).as_posix() for pair in dataset.pairs], full=is_full)
        for i, root, is_full in ((1, args.originals, args.fingerprint == "full"), (2, args.reconstructions, True))
    )
    folder = Path(args.reconstructions)
    model = {
        **{"method": args.method or folder.name, "train_data": args.train_data, "family": "made elsewhere"},
        **{"checkpoint_path": str(folder), "checkpoint_sha256": outputs["fingerprint"], "num_params": None},
        **{"weights_used": None, "codebook_size": None, "modality": "image", "train_image_size": None},
    }
    protocol = args.chosen.changed(resize="none")  # the pictures have their sizes already
    setting = Setting(lambda resize, size: (dataset, facts), device, args.limit, 1, args.num_workers, "off")
    return evaluate_tokenizer(MadeElsewhere(), model, protocol, None, setting)


def _by_name(folder: str | Path) -> dict[str, Path]:
    if Path(folder).is_file():
        raise ValueError(f"expected a folder of pictures, got the file {folder}: give the folder it lies in")
    found: dict[str, Path] = {}
    for path, _ in find_images([folder]):
        name = Path(path).relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise ValueError(f"{folder} holds {name} twice: {found[name].name} and {Path(path).name}")
        found[name] = Path(path)
    return found


def _listed(names: set[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(sorted(names)[:_SHOWN]) + more
