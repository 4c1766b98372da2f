"""Randomly initialised metric networks in the real files' formats, accepted by their own checksums."""

import dataclasses

import pytest
import torch
import torchvision

from open_magvit2.common import weights


def _accept(monkeypatch, name, path):
    known = dataclasses.replace(weights.KNOWN[name], sha256=weights.sha256_of(path))
    monkeypatch.setitem(weights.KNOWN, name, known)


@pytest.fixture(scope="session")
def random_network_files(tmp_path_factory):
    """A cache folder with a random Inception and a random AlexNet under their published names."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    folder = tmp_path_factory.mktemp("networks")
    generator = torch.Generator().manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        # Only the names and shapes are wanted, so loading is left out while the network is built.
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *arguments: None)
        patch.setattr(torch, "load", lambda *arguments, **options: None)
        with torch.device("meta"):
            inception = FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path="none")
    torch.save(_random_state(inception.state_dict(), generator), folder / weights.INCEPTION)
    with torch.device("meta"):
        alexnet = torchvision.models.alexnet().features
    state = _random_state(alexnet.state_dict(), generator)
    torch.save({f"features.{name}": value for name, value in state.items()}, folder / weights.ALEXNET)
    return folder


def _random_state(shapes, generator):
    """He-initialised weights and neutral normalisation statistics for names with shapes."""
    state = {}
    for name, value in shapes.items():
        if value.ndim > 1:
            scale = (2.0 / value[0].numel()) ** 0.5
            state[name] = torch.randn(value.shape, generator=generator) * scale
        elif name.endswith(("running_var", "bn.weight")):
            state[name] = torch.ones(value.shape)
        else:
            state[name] = torch.zeros(value.shape, dtype=value.dtype)
    return state


@pytest.fixture
def random_networks(random_network_files, monkeypatch):
    """Lets `weights.find` return the random Inception and AlexNet; the folder is also a private cache."""
    for name in (weights.INCEPTION, weights.ALEXNET):
        _accept(monkeypatch, name, random_network_files / name)
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(random_network_files))
    return random_network_files


@pytest.fixture
def no_networks(tmp_path, monkeypatch):
    """A machine without any metric weights and without a network: the addresses lead nowhere."""
    for name, known in weights.KNOWN.items():
        if known.url:
            monkeypatch.setitem(
                weights.KNOWN, name, dataclasses.replace(known, url=(tmp_path / "nowhere" / name).as_uri())
            )
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
