"""Which program ran, as results and checkpoints record it: versions, revision, command line, time."""

import importlib.metadata
import platform
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import PIL.features
import torch

_PACKAGES = (
    "torch",
    "torchvision",
    "pytorch-lightning",
    "torchmetrics",
    "torch-fidelity",
    "lpips",
    "numpy",
    "scipy",
    "pillow",
)


def now() -> str:
    """The time in UTC, to the second, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def versions() -> dict[str, str | None]:
    """Versions of everything that can move a number; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package.replace("-", "_")] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package.replace("-", "_")] = None
    found["libjpeg_turbo"] = PIL.features.version("libjpeg_turbo")
    found["cuda"] = torch.version.cuda
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    found["cudnn"] = None if cudnn is None else str(cudnn)
    return found


def git() -> dict[str, Any]:
    """The revision of this source and whether it has changes; None where it is no checkout."""
    here = Path(__file__).parent
    try:
        revision, changes = (
            subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, timeout=20, check=True).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return {"revision": None, "dirty": None}
    return {"revision": revision.strip(), "dirty": bool(changes.strip())}


def command() -> list[str]:
    """The command line of this process."""
    return [Path(sys.executable).name, *sys.argv]
