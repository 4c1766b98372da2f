"""Files of weights on the Hugging Face Hub, by the name of their repository, through the cache of huggingface_hub.

"org/name" is a repository with one file of weights, "org/name/file.ckpt" one file of it, "org/name@revision" a branch,
tag or commit; a name of `published_files` stands for its repository and file. A path that exists is never looked up.
"""

import re
from pathlib import Path

from open_magvit2.common.containers import SUFFIXES
from open_magvit2.common.published_files import published

CONFIG = "config.json"
_ALONE = "model.safetensors"  # what `save_pretrained` of ours, and of most libraries, writes
_PART = r"[\w-][\w.-]*"
_NAME = re.compile(rf"(?P<repository>{_PART}/{_PART})(@(?P<revision>[^/]+))?(/(?P<file>\w[\w./-]*))?")
_TIMEOUT_SECONDS = 10


def local(path: str | Path) -> Path:
    """The path itself where it exists or cannot be a name on the Hub; else the file, or folder, in the Hub's cache.

    Raises:
        FileNotFoundError: if it is neither here nor on the Hub, or if the Hub cannot be reached and was never asked
            for it before.
        ValueError: if the repository has several files of weights, with their names.
    """
    path = Path(path)
    if path.exists():
        return path
    if (known := published().get(str(path))) is not None and known.repository:
        return _fetched(known.repository, known.file, None)
    match = _NAME.fullmatch(path.as_posix())
    if match is None or Path(path.parts[0]).exists() or (match["file"] is None and path.suffix in SUFFIXES):
        return path  # a path on this machine that does not exist: whoever opens it says so
    return _fetched(match["repository"], match["file"] or "", match["revision"])


def _fetched(repository: str, file: str, revision: str | None) -> Path:
    """A file, or the folder of the only one, in the cache; fetched first if the Hub can be reached."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        names, is_offline = _names_on_the_hub(repository, revision), False
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise _missing(repository, file, error) from error
    except Exception as unreachable:  # in as many ways as there are libraries before the network, or HF_HUB_OFFLINE
        try:
            folder = Path(snapshot_download(repository, revision=revision, local_files_only=True))
        except Exception as error:
            raise _missing(repository, file, unreachable) from error
        names = [found.relative_to(folder).as_posix() for found in folder.rglob("*") if found.is_file()]
        is_offline = True
    weights = file or _only_weights(repository, names)
    if weights not in names:
        where = "in the Hub's cache, and the Hub cannot be reached" if is_offline else "in the repository"
        raise FileNotFoundError(f"{repository} has no {weights} {where}; it has {', '.join(sorted(names)[:10])}")
    options = {"revision": revision, "local_files_only": is_offline}
    if weights == _ALONE and CONFIG in names:
        hf_hub_download(repository, CONFIG, **options)
    try:
        return Path(hf_hub_download(repository, weights, **options))
    except OSError as error:
        raise _missing(repository, weights, error) from error


def _missing(repository: str, file: str, error: Exception) -> FileNotFoundError:
    name, text = "/".join(filter(None, [repository, file])), str(error).strip().split("\n")[0]
    return FileNotFoundError(
        f"{name} is no path here, and the Hugging Face Hub did not give it: {type(error).__name__}, {text}\n"
        "Check the name; log in with `hf auth login` for a private or gated repository; without a network, fetch it "
        "once where there is one, or pass the path of a file"
    )


def _names_on_the_hub(repository: str, revision: str | None) -> list[str]:
    from huggingface_hub import HfApi

    info = HfApi().model_info(repository, revision=revision, timeout=_TIMEOUT_SECONDS)
    return [file.rfilename for file in info.siblings or ()]


def _only_weights(repository: str, names: list[str]) -> str:
    """The name of a repository's file of weights.

    Raises:
        ValueError: for none or several.
    """
    weights = sorted(name for name in names if Path(name).suffix in SUFFIXES)
    if _ALONE in weights:
        return _ALONE
    if len(weights) != 1:
        listed = ", ".join(weights[:10]) or "none"
        raise ValueError(
            f"{repository} has {len(weights)} files of weights, expected one: {listed}. Name it: {repository}/FILE"
        )
    return weights[0]
