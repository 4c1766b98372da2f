"""Which checkpoint `--ckpt_path last` and `best` mean, and what has changed in the configuration since it was made."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from open_magvit2.common import checkpoints
from open_magvit2.training import atomic_checkpoints
from open_magvit2.training.checkpointing import BEST

logger = logging.getLogger(__name__)

PROVENANCE_KEY = "provenance"  # of a checkpoint
_THE_RUN = ("seed_everything", "model", "data")  # sections in which two runs must agree to be one
_NOT_A_CHANGE = ("ckpt_path", "trainer.logger.init_args.version")  # how to continue, and in which folder


def resolve(config: Namespace, subcommand: str, described: str) -> None:
    """Replace a word in `ckpt_path` by the file that it means; a path stays.

    `last` is the newest whole checkpoint in checkpoint.dirpath, or in the folders of the logger's name; the run goes on
    in its folder. Where there is none, `fit` begins, so that one command both starts and continues a run. `best` is the
    newest best.ckpt; a training that goes back to it gets a new folder, as from any file.

    Args:
        config: the subcommand's configuration; ckpt_path and the logger's version are set.
        subcommand: fit or validate.
        described: the same configuration as YAML, as checkpoints hold it.

    Raises:
        ValueError: if there is no such checkpoint, all of one run's are damaged, or they are of different runs.
    """
    word = config.ckpt_path
    if word == "hpc" or (word is not None and word.lower().split(":")[0] == "registry"):
        raise ValueError(f"--ckpt_path {word} is not supported; expected last, best, or a file")
    if word not in ("last", "best"):
        return
    name = BEST if word == "best" else "*.ckpt"
    if config.checkpoint is not None and config.checkpoint.dirpath is not None:
        root, pattern = Path(config.checkpoint.dirpath), name
        files = sorted(root.glob(pattern))
        runs = {root: files} if files else {}
    else:
        version = _logger_arguments(config).get("version")
        root = _logger_root(config)
        folder = "version_*" if version is None else version if isinstance(version, str) else f"version_{version}"
        pattern = f"{folder}/**/{name}"
        runs = {}
        for path in sorted(root.glob(pattern)):
            runs.setdefault(root / path.relative_to(root).parts[0], []).append(path)
    newest = {run: atomic_checkpoints.newest_whole(files) for run, files in runs.items()}
    if not newest:
        if subcommand != "fit" or word == "best":
            raise ValueError(f"--ckpt_path {word}: no checkpoint in {root / pattern}. Give one by --ckpt_path FILE")
        config.ckpt_path = None
        logger.warning("no checkpoint in %s: training begins", root / pattern)
        return
    if len(newest) > 1:
        _check_one_run(newest, word, described)
    run, found = max(newest.items(), key=lambda item: item[1].stat().st_mtime_ns)
    config.ckpt_path = str(found)
    logger.warning("continuing from %s", found)
    arguments = _logger_arguments(config)
    if word == "last" and run != root and "version" in arguments and arguments["version"] is None:
        arguments["version"] = int(run.name.removeprefix("version_"))


def changes(before: str, now: str) -> list[str]:
    """Lines `key: old -> new`, sorted, of two configurations in YAML, but for how to continue and where."""
    old, new = (dict(_leaves(yaml.safe_load(text))) for text in (before, now))
    return [
        f"{key}: {_shown(old, key)} -> {_shown(new, key)}"
        for key in sorted({*old, *new} - set(_NOT_A_CHANGE))
        if _shown(old, key) != _shown(new, key)
    ]


def _check_one_run(newest: Mapping[Path, Path], word: str, described: str) -> None:
    """Refuse folders of different experiments, or of another one than the present: the newest may be anybody's."""
    configs = [checkpoints.read(file).get(PROVENANCE_KEY, {}).get("config", "{}") for file in newest.values()]
    first, *others = ([yaml.safe_load(text).get(name) for name in _THE_RUN] for text in (described, *configs))
    if any(other != first for other in others):
        raise ValueError(
            f"--ckpt_path {word}: the checkpoints in {', '.join(map(str, newest))} and this configuration are not all "
            f"of one run: they differ in {', '.join(_THE_RUN[:-1])} or {_THE_RUN[-1]}. Say which one is meant by "
            "checkpoint.dirpath, by the logger's version, or by --ckpt_path FILE"
        )


def _leaves(section: Any, path: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and their values; a list is one value."""
    if not isinstance(section, Mapping) or not section:
        return [(path, section)]
    return [leaf for key, value in section.items() for leaf in _leaves(value, f"{path}.{key}" if path else str(key))]


def _shown(leaves: Mapping[str, Any], key: str) -> str:
    return json.dumps(leaves[key], default=str) if key in leaves else "(absent)"


def _logger_arguments(config: Namespace) -> Namespace:
    """The first logger's arguments; empty if the config leaves the logger to Lightning."""
    described = config.trainer.logger
    described = described[0] if isinstance(described, list) and described else described
    return described.init_args if isinstance(described, Namespace) else Namespace()


def _logger_root(config: Namespace) -> Path:
    """The folder that holds a folder for each of the logger's runs, as TensorBoard's and the CSV logger lay them."""
    arguments = _logger_arguments(config)
    return Path(arguments.get("save_dir") or config.trainer.default_root_dir or ".") / str(
        arguments.get("name", "lightning_logs") or ""
    )
