"""Names of files on the Hugging Face Hub: what is a name, and the file in the cache that it stands for.

A name is `org/repository`, `org/repository/folder/file.ckpt` or a short name of `published_files.yaml`, each with
`@revision` (a branch, a tag, a commit) if wanted. A path that exists on this machine wins over a name.
"""

import contextlib
import itertools
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from open_magvit2.common.published_files import find_published

CONFIG_FILE = "config.json"
OLDER_WEIGHTS_FILE = "pytorch_model.bin"
# of a repository that is named as a whole, in this order
WEIGHTS_FILES = ("model.safetensors", "diffusion_pytorch_model.safetensors", OLDER_WEIGHTS_FILE)

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME = re.compile(rf"(?P<repository>{_PART}/{_PART})(?P<file>(/[^/@]+)*)(@(?P<revision>[^@]+))?")
_FILE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors", ".msgpack", ".zip")
_WHAT_TO_DO = (
    "Give the path of a file or folder here, a name on the Hub (org/repository, org/repository/file.ckpt, either with "
    "@revision) or a short name that open_magvit2.published() lists"
)


class HubName(NamedTuple):
    """A file on the Hub, or a whole repository."""

    repository: str  # "org/name"
    file: str | None = None  # None: config.json and the weights
    revision: str | None = None  # None: the main branch

    def __str__(self) -> str:
        file, revision = (f"/{self.file}" if self.file else ""), (f"@{self.revision}" if self.revision else "")
        return f"{self.repository}{file}{revision}"


def parse_name(text: str) -> HubName | None:
    """The file that a name stands for; None if it can only be a path of this machine.

    Raises:
        ValueError: for the short name of a published file that is not on the Hub.
    """
    short, _, revision = text.partition("@")
    if (row := find_published(short)) is not None:
        if row.repository is None:
            raise ValueError(f"{row.name} ({row.file}) is not on the Hub: {row.remark}. Download it and give its path")
        return HubName(row.repository, row.file, revision or None)
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    file = match["file"].removeprefix("/") or None
    # folder/last.ckpt is a path with a typing error, and so is a missing file in a folder that exists
    if (match["repository"].endswith(_FILE_SUFFIXES) and file is None) or (file and Path(text).parent.is_dir()):
        return None
    return HubName(match["repository"], file, match["revision"])


def local_path(name: str | Path) -> Path:
    """The file or folder of a path, or of a name on the Hub, which is downloaded into the Hub's cache at need.

    One process asks the Hub once for a name, so that a file's weights and its SHA-256 are of the same revision.
    Without a network, or with HF_HUB_OFFLINE=1, the cached file is taken.

    Raises:
        FileNotFoundError: if there is no such file here and on the Hub, or no way to reach it.
        ValueError: see `parse_name`.
    """
    path = Path(name)
    if path.exists():
        return path
    found = parse_name(str(name))
    if found is None:
        raise FileNotFoundError(f"no checkpoint file at {path}. {_WHAT_TO_DO}")
    return _downloaded(found)


def forget() -> None:
    """Ask the Hub again for every name: a long process wants what was pushed in the meantime."""
    _downloaded.cache_clear()


@lru_cache(maxsize=256)
def _downloaded(name: HubName) -> Path:
    """The file of a name in the cache; of a whole repository the folder with config.json and weights of one commit."""
    if name.file is not None:
        return _download(name, name)
    config = _download(name._replace(file=CONFIG_FILE), name)
    commit = config.parent.name
    for cached, file in itertools.product((True, False), WEIGHTS_FILES):
        with contextlib.suppress(_AbsentFileError):
            return _download(HubName(name.repository, file, commit), name, cached).parent
    files = ", ".join(WEIGHTS_FILES)
    raise FileNotFoundError(f"{name} holds none of {files}: name its file, {name.repository}/FILE")


class _AbsentFileError(FileNotFoundError):
    """The repository, or the cache, does not have the file."""


def _download(file: HubName, name: HubName, cached: bool = False) -> Path:
    """A file in the cache, downloaded at need unless `cached`; errors call it by the name that was asked for."""
    from huggingface_hub import errors, hf_hub_download  # here: most runs read a file of this machine

    try:
        return Path(hf_hub_download(file.repository, file.file, revision=file.revision, local_files_only=cached))
    except errors.GatedRepoError as error:
        raise FileNotFoundError(
            f"{name} is not open to you: accept its authors' terms on the page of {name.repository}, then log in with "
            "`hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"no file or folder at {name}, and the Hub has no repository {name.repository}, or a private one (log in "
            f"with `hf auth login`). {_WHAT_TO_DO}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"the Hub's repository {name.repository} has no revision {name.revision}: give a branch, a tag or a commit"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if cached:
            raise _AbsentFileError(f"{file} is not in the cache") from error
        raise FileNotFoundError(
            f"no file or folder at {name}, it is not in the Hub's cache ({_cache()}), and the Hub cannot be reached "
            f"({error.__cause__ or 'offline'}). Load it once with a network, or copy a cache here and set "
            "HF_HUB_CACHE, or give a path"
        ) from error
    except errors.EntryNotFoundError as error:
        cause = "save_pretrained did not write it; name a file" if name.file is None else "name another"
        raise _AbsentFileError(
            f"the Hub's repository {name.repository} has no file {file.file}: {cause}, {name.repository}/FILE"
        ) from error
    except errors.HFValidationError as error:
        raise ValueError(f"{name} is no name on the Hub: {error}. {_WHAT_TO_DO}") from error
    except errors.HTTPError as error:
        if getattr(getattr(error, "response", None), "status_code", None) == 401:
            raise FileNotFoundError(
                f"the Hub refuses your token for {name}: log in anew with `hf auth login`, or unset HF_TOKEN"
            ) from error
        raise OSError(f"the download of {name} failed: {error}. Run it again: whole files are in the cache") from error


def _cache() -> str:
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE
