"""Fixtures shared by all tests."""

import gc
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hub_server
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"

# Child processes of the tests share two cores with them.
os.environ.setdefault("OMP_NUM_THREADS", "1")


# Files that take longest, which begin first: several workers then end together.
LONG = ("test_soak", "test_scripts", "test_several_processes", "test_ratios", "test_compiled_training", "test_cli")
LONG += ("test_refusals", "test_state", "test_training_configs", "test_init_from", "test_table", "test_checkpointing")


gc.disable()  # collecting imports all packages, which makes many objects and no garbage


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first, each whole."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


def pytest_collection_finish() -> None:
    """From here on look for garbage among what tests make, not among all packages again."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _own_state():
    """A training in the test's process joins a process group of one and shows its log: the next test begins anew."""
    before = dict(os.environ)
    yield
    logging.getLogger("open_magvit2").setLevel(logging.NOTSET)
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    for name in ("LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        if name not in before:
            os.environ.pop(name, None)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of fixtures and photos beside the checkout; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("no folder `shared` beside the checkout: published fixtures and sample photos are not here")
    return SHARED


@pytest.fixture(scope="session")
def random_vgg_file(tmp_path_factory) -> Path:
    """A randomly initialised VGG-16 in the real file's format, without the classifier that LPIPS does not use."""
    import torch
    import torchvision

    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        names = torchvision.models.vgg16().features.state_dict()
    state = {}
    for name, value in names.items():
        scale = (2.0 / value[0].numel()) ** 0.5 if value.ndim == 4 else 0.01
        state[f"features.{name}"] = torch.randn(value.shape, generator=generator) * scale
    path = tmp_path_factory.mktemp("weights") / "vgg16-397923af.pth"
    torch.save(state, path)
    return path


@pytest.fixture
def random_vgg(random_vgg_file, monkeypatch) -> Path:
    """Lets `weights.find` return the random VGG-16, by its own checksum."""
    import dataclasses

    from open_magvit2.common import weights

    known = dataclasses.replace(weights.KNOWN[weights.VGG16], sha256=weights.sha256_of(random_vgg_file))
    monkeypatch.setitem(weights.KNOWN, weights.VGG16, known)
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(random_vgg_file.parent))
    return random_vgg_file


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub_server.Hub]:
    """A Hub on this machine, and an empty cache, for this process and for commands that the test runs."""
    from huggingface_hub import constants

    from open_magvit2.common.hub import forget

    cache = str(tmp_path / "hub_cache")
    with hub_server.serve() as server:
        environment = {"HF_ENDPOINT": server.endpoint, "HF_HUB_CACHE": cache, "HF_TOKEN": "hf_test"}
        for name, value in {**environment, "HF_HUB_DISABLE_XET": "1"}.items():
            monkeypatch.setenv(name, value)
        # The client read its environment when it was imported, perhaps in an earlier test.
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        forget()
        yield server
    forget()
