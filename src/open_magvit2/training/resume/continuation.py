"""Which checkpoint `--ckpt_path last` and `best` mean, and how the configuration differs from the one it holds."""

import json
import logging
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from jsonargparse import Namespace
from pytorch_lightning.loggers import CSVLogger

from open_magvit2.common import checkpoints
from open_magvit2.training.resume.checkpoint_files import newest_whole, recency
from open_magvit2.training.resume.checkpointing import BEST

logger = logging.getLogger(__name__)

_REPOSITORY = Path(__file__).resolve().parents[4]  # where README's commands are run
PROVENANCE_KEY = "provenance"  # of a checkpoint
_THE_RUN = ("seed_everything", "model", "data")  # sections that are equal in all configurations of one run
_NOT_A_CHANGE = ("ckpt_path", "trainer.logger.init_args.version")  # how to continue, and in which folder


def keep_csv(trainer: pl.Trainer) -> None:
    """Rename a metrics.csv that is in the run's folder already: Lightning's CSVLogger would begin it anew."""
    for run_logger in trainer.loggers:
        if isinstance(run_logger, CSVLogger) and trainer.is_global_zero:
            path = Path(run_logger.log_dir) / "metrics.csv"
            if path.is_file():
                number = 1 + len(list(path.parent.glob("metrics_until_*.csv")))
                kept = path.rename(path.with_name(f"metrics_until_{number}.csv"))
                logger.warning("the figures logged so far are kept in %s", kept)


def resolve(config: Namespace, subcommand: str, described: str) -> None:
    """Replace the word `last` or `best` in `ckpt_path` by a file; a path stays.

    `last` is the whole checkpoint of the latest step in checkpoint.dirpath, or in the folders of the logger's name; the
    run goes on in its folder. Where there is none, `fit` begins. `best` is the newest best.ckpt; a training that goes
    back to it gets a new folder, as from any file.

    Args:
        config: of the subcommand, fit or validate; ckpt_path and the logger's version are set.
        described: the same configuration as YAML, as checkpoints hold it.

    Raises:
        ValueError: if there is no such checkpoint, all of one run's are damaged, or they are of different runs.
    """
    word = config.ckpt_path
    if word is not None and word.lower().split(":")[0] in ("hpc", "registry"):
        raise ValueError(f"--ckpt_path {word} is not supported; expected last, best, or a file")
    if word not in ("last", "best"):
        return
    run_logger = config.trainer.logger
    run_logger = run_logger[0] if isinstance(run_logger, list) and run_logger else run_logger
    arguments = run_logger.init_args if isinstance(run_logger, Namespace) else Namespace()
    root, pattern = _where(config, arguments, BEST if word == "best" else "*.ckpt")
    runs: dict[Path, list[Path]] = defaultdict(list)
    for path in sorted(root.glob(pattern)):
        parts = path.relative_to(root).parts
        runs[root / parts[0] if len(parts) > 1 else root].append(path)
    newest = {run: newest_whole(files) for run, files in runs.items()}
    if not newest:
        if subcommand != "fit" or word == "best":
            raise ValueError(f"--ckpt_path {word}: no checkpoint in {root / pattern}. Give one by --ckpt_path FILE")
        elsewhere = _REPOSITORY / root
        if not root.is_absolute() and any(elsewhere.glob(pattern)):
            raise ValueError(
                f"--ckpt_path last: no checkpoint in {root.absolute() / pattern}, but there are some in {elsewhere}. "
                f"Run the command in {_REPOSITORY} to continue them, or set trainer.logger.init_args.save_dir to a "
                "whole path"
            )
        config.ckpt_path = None
        logger.warning("no checkpoint in %s: training begins", root.absolute() / pattern)
        return
    if len(newest) > 1:  # of one name
        configs = [checkpoints.read(file).get(PROVENANCE_KEY, {}).get("config", "{}") for file in newest.values()]
        first, *others = ([yaml.safe_load(text).get(name) for name in _THE_RUN] for text in (described, *configs))
        if any(other != first for other in others):
            raise ValueError(
                f"--ckpt_path {word}: the checkpoints in {', '.join(map(str, newest))} and this configuration are not "
                f"all of one run: they differ in {', '.join(_THE_RUN[:-1])} or {_THE_RUN[-1]}. Say which one is meant "
                "by checkpoint.dirpath, by the logger's version, or by --ckpt_path FILE"
            )
    run, path = max(newest.items(), key=lambda item: recency(item[1]))
    config.ckpt_path = str(path)
    logger.warning("continuing from %s", path)
    if word == "last" and run != root and "version" in arguments and arguments["version"] is None:
        arguments["version"] = int(run.name.removeprefix("version_"))


def changes(before: str, now: str) -> list[str]:
    """Lines `key: old -> new`, sorted, of two configurations in YAML, without how to continue and where."""
    old, new = (_leaves(yaml.safe_load(text)) for text in (before, now))
    return [
        f"{key}: {old.get(key, '(absent)')} -> {new.get(key, '(absent)')}"
        for key in sorted({*old, *new} - set(_NOT_A_CHANGE))
        if old.get(key) != new.get(key)
    ]


def _leaves(section: Any, path: str = "") -> dict[str, str]:
    """Values by dotted key; a list is one value."""
    if not isinstance(section, Mapping) or not section:
        return {path: json.dumps(section, default=str)}
    parts = [_leaves(value, f"{path}.{key}" if path else str(key)) for key, value in section.items()]
    return {key: value for part in parts for key, value in part.items()}


def _where(config: Namespace, arguments: Namespace, name: str) -> tuple[Path, str]:
    """The folder that holds checkpoints, or a folder a run (as the TensorBoard and CSV loggers do); a pattern."""
    if config.checkpoint is not None and config.checkpoint.dirpath is not None:
        return Path(config.checkpoint.dirpath), name
    root = Path(arguments.get("save_dir") or config.trainer.default_root_dir or ".")
    version = arguments.get("version")
    folder = "version_*" if version is None else version if isinstance(version, str) else f"version_{version}"
    return root / str(arguments.get("name", "lightning_logs") or ""), f"{folder}/**/{name}"
