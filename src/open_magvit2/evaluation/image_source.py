"""The images of a command line, from any kind of source, in the form that a protocol asks for."""

import argparse
from typing import Any

from open_magvit2.data.checking import leave_out_broken
from open_magvit2.data.dataset import Source, TransformedDataset, source_paths
from open_magvit2.data.sources.by_class_path import load_source
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.sources.synthetic import SyntheticImages
from open_magvit2.data.streaming import with_length
from open_magvit2.evaluation import originals, provenance
from open_magvit2.evaluation.run import ImageSource


def image_source(args: argparse.Namespace) -> ImageSource | None:
    """A function (resize, size) -> (dataset, facts of the images), or None if the command line names no images.

    Args:
        args: `images` (with `file_list`, `fingerprint`, `skip_broken`), `built_in`, or `source` (with `source_args`).

    Raises:
        ValueError: for a source that cannot be built.
    """
    if args.images:
        folder = ImageFolder(args.images, args.file_list)
        facts = provenance.folder(args.images, folder.relative_paths(), args.file_list, args.fingerprint == "full")
        facts["skipped"] = leave_out_broken(folder, args.num_workers) if args.skip_broken else {}
        return _transformed(folder, facts)
    if args.source:
        source = with_length(load_source(args.source, args.source_args))
        return _transformed(
            source, provenance.described(" ".join([args.source, *args.source_args]), source_paths(source))
        )
    return None if args.built_in is None else lambda resize, size: _drawn(args.built_in, resize, size)


def _transformed(source: Source, facts: dict[str, Any]) -> ImageSource:
    return lambda resize, size: (TransformedDataset(source, originals.make_transform(resize, size)), facts)


def _drawn(number: int, resize: str, size: tuple[int, int] | None) -> tuple[TransformedDataset, dict[str, Any]]:
    side = max(size) if size else 128
    facts = provenance.drawn(f"SyntheticImages validation {side}", number)
    return _transformed(SyntheticImages(number, side, split="validation"), facts)(resize, size)
