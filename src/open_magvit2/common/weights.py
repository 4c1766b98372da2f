"""Third-party network weights by name and SHA-256, in one cache folder, found there without a network.

A metric computed with the wrong weights looks like any other number, and the libraries load whatever lies under
the right name in their cache. Here a file whose SHA-256 is not the published one is refused.
"""

import fcntl
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import pooch
import torch
from urllib3.exceptions import ProtocolError

from open_magvit2.common.files import sha256_of

CACHE_VARIABLE = "OPEN_MAGVIT2_CACHE"
_TIMEOUT_SECONDS = 30


class WeightsUnavailable(FileNotFoundError):  # noqa: N818 - a state of this machine, not always a mistake
    """A weight file is not here and could not be fetched; the message says which, and where to put it."""


class WeightsRefused(WeightsUnavailable):
    """A file of the right name has the wrong content."""


@dataclass(frozen=True)
class WeightFile:
    """One published file.

    Attributes:
        sha256: the full checksum, 64 hexadecimal digits.
        url: where it is published; empty for a file that comes with a package.
        package: (package, path inside it) for a file that comes with an installed package.
        other_names: names under which the same bytes are published elsewhere and may lie in a cache.
    """

    sha256: str
    url: str = ""
    package: tuple[str, str] | None = None
    other_names: tuple[str, ...] = ()


INCEPTION = "pt_inception-2015-12-05-6726825d.pth"
VGG16 = "vgg16-397923af.pth"
ALEXNET = "alexnet-owt-7be5be79.pth"
LPIPS_ALEX = "lpips-0.1-alex.pth"
LPIPS_VGG = "lpips-0.1-vgg.pth"

# A test with random networks replaces an entry by one with its own file's checksum; nothing skips the check.
KNOWN: dict[str, WeightFile] = {
    INCEPTION: WeightFile(
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        other_names=("weights-inception-2015-12-05-6726825d.pth",),  # torch-fidelity's name for the same file
    ),
    VGG16: WeightFile(
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        url="https://download.pytorch.org/models/vgg16-397923af.pth",
    ),
    ALEXNET: WeightFile(
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    ),
    LPIPS_ALEX: WeightFile(
        sha256="df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        package=("lpips", "weights/v0.1/alex.pth"),
    ),
    LPIPS_VGG: WeightFile(
        sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        package=("lpips", "weights/v0.1/vgg.pth"),
    ),
}


def cache_folder() -> Path:
    """The folder of downloaded weights: $OPEN_MAGVIT2_CACHE, by default ~/.cache/open_magvit2."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "open_magvit2").expanduser()


def find(name: str) -> Path:
    """The path of a verified weight file, downloaded into the cache folder if it is nowhere on this machine.

    Looked for in the package it comes with, or in the cache folder and then in torch hub's cache.

    Args:
        name: a key of `KNOWN`.

    Raises:
        ValueError: for a name that is not known.
        WeightsRefused: if a file of that name has another SHA-256.
        WeightsUnavailable: if there is no such file and the download failed.
    """
    if name not in KNOWN:
        raise ValueError(f"no known weights are called {name!r}; known: {', '.join(sorted(KNOWN))}")
    known = KNOWN[name]
    for path in _candidates(name, known):
        if path.is_file():
            return _verified(path, name, known)
    return _download(name, known)


def _candidates(name: str, known: WeightFile) -> list[Path]:
    """The places where a file may lie, best first."""
    if known.package is not None:
        package, inside = known.package
        spec = importlib.util.find_spec(package)
        return [] if spec is None or spec.origin is None else [Path(spec.origin).parent / inside]
    folders = [cache_folder(), Path(torch.hub.get_dir()) / "checkpoints"]
    return [folder / candidate for folder in folders for candidate in (name, *known.other_names)]


def _verified(path: Path, name: str, known: WeightFile) -> Path:
    """The path itself, if its content is the published one."""
    got = sha256_of(path)
    if got != known.sha256:
        raise WeightsRefused(
            f"{path} is not the published {name}: its SHA-256 is {got}, expected {known.sha256}. "
            f"Delete or replace it{f' by {known.url}' if known.url else ''}."
        )
    return path


def _download(name: str, known: WeightFile) -> Path:
    """Fetch a file into the cache folder: whole and verified, or not at all; one process a machine at a time."""
    folder = cache_folder()
    if not known.url:
        raise WeightsUnavailable(f"{name} comes with the package {known.package[0]!r}, which lacks {known.package[1]}")
    advice = f"Put the file ({known.url}, SHA-256 {known.sha256}) into {folder} (or set {CACHE_VARIABLE})."
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            downloader = pooch.HTTPDownloader(timeout=_TIMEOUT_SECONDS)
            return Path(pooch.retrieve(known.url, f"sha256:{known.sha256}", name, folder, downloader=downloader))
    except ValueError as error:  # pooch's word for another checksum
        raise WeightsRefused(f"{name}: the download is not the published file ({error}). {advice}") from error
    except (OSError, ProtocolError) as error:
        raise WeightsUnavailable(
            f"{name} is not on this machine and could not be downloaded ({error}). {advice}"
        ) from error
