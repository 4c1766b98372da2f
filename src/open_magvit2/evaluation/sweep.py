"""A sweep over sampling settings: every point evaluated once, kept, and drawn as FID and IS against the scale."""

import itertools
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from open_magvit2.common.distributed import all_gather_object, rank
from open_magvit2.common.files import sha256
from open_magvit2.evaluation.features.reference import fingerprint
from open_magvit2.evaluation.generated import GeneratedImages
from open_magvit2.evaluation.generation import GenerationSetting, evaluate_images
from open_magvit2.evaluation.protocol import Protocol
from open_magvit2.evaluation.report import record as records
from open_magvit2.evaluation.report import write

logger = logging.getLogger(__name__)

Options = dict[str, float | list[float]]


def points(words: Sequence[str]) -> list[Options]:
    """All combinations of the values of a command line.

    Args:
        words: "name=value,value" each; a value is a number, or one a sub-token as in 1.9/2.0.

    Raises:
        ValueError: for other words, a name given twice, or a value given twice.
    """
    axes: dict[str, list[float | list[float]]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        try:
            values = [[_number(part) for part in value.split("/")] for value in text.split(",")]
        except ValueError:
            values = []
        if not equals or not name or not values:
            raise ValueError(f"expected NAME=NUMBER,NUMBER,..., got {word!r}: for example guidance=1.5,2.0,2.5")
        plain = [value[0] if len(value) == 1 else value for value in values]
        if name in axes or any(plain.count(value) > 1 for value in plain):
            raise ValueError(f"{word}: name every option once, and every value once")
        axes[name] = plain
    if not axes:
        raise ValueError("expected an option and its values, got none: for example --sweep guidance=1.5,2.0,2.5")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def run(
    points: Sequence[Options],
    images: Callable[[Options], GeneratedImages],
    model: dict[str, Any],
    protocol: Protocol,
    setting: GenerationSetting,
    folder: Path,
) -> dict[str, Any]:
    """Evaluate the points that have no results yet, and write sweep.json and sweep.html; a collective call under DDP.

    All points' settings are checked before the first is sampled. A point's own files are in points/<name>. It is not
    sampled again while generator, settings, seeds, protocol and reference are the same.

    Args:
        points: the settings, by name.
        images: of a point, an error for bad settings; nothing is sampled before their batches are read.
        model, protocol, setting: see `generation.evaluate_images`.
        folder: to write to.

    Returns:
        the content of sweep.json; empty on other ranks.
    """
    entries = []
    every_made = [images(options) for options in points]
    reference = fingerprint(setting.reference)
    for number, (options, made) in enumerate(zip(points, every_made, strict=True)):
        name = "-".join(f"{key}_{_text(value)}" for key, value in options.items())
        digest = sha256(json.dumps([made.facts["fingerprint"], reference]).encode())[:8]
        path = folder / "points" / f"{name}-{digest}" / "results.json"
        kept = _kept(path, made, protocol, reference) if rank() == 0 else None
        if not all_gather_object(kept is not None)[0]:
            logger.info("point %d of %d: %s", number + 1, len(points), name)
            point = evaluate_images(
                made, {**model, "method": f"{model['method']}, {_words(options)}"}, protocol, setting
            )
            if rank() == 0:
                write.generation_files(path.parent, point)
                kept = records.read(path)
        if rank() == 0:
            entries.append({"options": options, "metrics": kept["metrics"], **_facts(kept), "results": str(path)})
    if rank() > 0:
        return {}
    for entry in entries:
        entry["results"] = Path(entry["results"]).relative_to(folder).as_posix()
    ranked = [entry for entry in entries if entry["metrics"].get("fid") is not None]
    best = min(ranked, key=lambda entry: entry["metrics"]["fid"])["options"] if ranked else None
    content = {"method": model["method"], "model": model, "protocol": protocol.as_dict(), "reference": reference}
    return write.sweep_files(folder, {**content, "best_fid": best, "points": entries})


def _kept(path: Path, made: GeneratedImages, protocol: Protocol, reference: str) -> dict[str, Any] | None:
    """An earlier record, if it is what an evaluation would give now."""
    if not path.is_file():
        return None
    try:
        record = records.read(path)
        same = [
            record["samples"]["fingerprint"] == made.facts["fingerprint"],
            record["reference"]["sha256"] == reference,
            {name: record["protocol"][name] for name in protocol.as_dict()}
            == json.loads(json.dumps(protocol.as_dict())),
        ]
    except (OSError, ValueError, KeyError) as error:
        logger.warning("%s is made again: it cannot be read (%r)", path, error)
        return None
    return record if all(same) else None


def _facts(record: dict[str, Any]) -> dict[str, Any]:
    samples = record["samples"]
    names = ("num_images", "num_classes", "per_class", "sampling", "seed", "fingerprint")
    return {name: samples.get(name) for name in names}


def _number(text: str) -> float:
    """Whole numbers stay whole: some options, as top_k and num_steps, take no others."""
    return int(text) if text.strip().isdecimal() else float(text)


def _words(options: Options) -> str:
    return ", ".join(f"{name} {_text(value)}" for name, value in options.items())


def _text(value: float | list[float]) -> str:
    return "_".join(f"{number:g}" for number in (value if isinstance(value, list) else [value]))
