"""Weights are found without a network, verified, and refused where they are wrong."""

import hashlib
import re

import pytest

from open_magvit2.common import weights
from open_magvit2.common.weights import WeightFile, WeightsRefused, WeightsUnavailable

NAME = "network.pth"
CONTENT = b"the published network"


@pytest.fixture
def published(tmp_path, monkeypatch):
    """One known file on a file:// server, an empty cache folder and an empty torch hub."""
    server = tmp_path / "server" / NAME
    server.parent.mkdir()
    server.write_bytes(CONTENT)
    known = WeightFile(hashlib.sha256(CONTENT).hexdigest(), server.as_uri(), other_names=("other.pth",))
    monkeypatch.setitem(weights.KNOWN, NAME, known)
    monkeypatch.setenv("OPEN_MAGVIT2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return server


def test_download_once_then_offline(published, tmp_path):
    path = weights.find(NAME)
    assert path == tmp_path / "cache" / NAME
    assert path.read_bytes() == CONTENT
    published.unlink()
    assert weights.find(NAME) == path
    assert [p.name for p in path.parent.iterdir()] == [NAME]


@pytest.mark.parametrize("name", [NAME, "other.pth"])
def test_found_in_torch_hub_under_either_name(published, tmp_path, name):
    published.unlink()
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    (hub / name).write_bytes(CONTENT)
    assert weights.find(NAME) == hub / name


def test_wrong_content_under_the_right_name_is_refused_and_rechecked(published, tmp_path):
    path = tmp_path / "cache" / NAME
    path.parent.mkdir()
    path.write_bytes(b"another network")
    with pytest.raises(WeightsRefused, match=r"(?s)is not the published.*Delete or replace"):
        weights.find(NAME)
    path.write_bytes(CONTENT)
    assert weights.find(NAME) == path
    path.write_bytes(CONTENT[::-1])  # the same size: only the time of change differs
    with pytest.raises(WeightsRefused):
        weights.find(NAME)


def test_a_failed_download_says_what_to_do(published, tmp_path):
    published.unlink()
    with pytest.raises(WeightsUnavailable) as caught:
        weights.find(NAME)
    for part in (NAME, published.as_uri(), hashlib.sha256(CONTENT).hexdigest(), str(tmp_path / "cache")):
        assert re.search(re.escape(part), str(caught.value))
    assert isinstance(caught.value, FileNotFoundError)


def test_a_wrong_download_leaves_nothing_behind(published, tmp_path):
    published.write_bytes(b"an error page")
    with pytest.raises(WeightsRefused, match="the download has SHA-256"):
        weights.find(NAME)
    assert list((tmp_path / "cache").iterdir()) == []


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="vgg16-397923af"):
        weights.find("vgg17.pth")


def test_checksums_agree_with_the_names_and_the_heads_are_here():
    for name, known in weights.KNOWN.items():
        assert re.fullmatch("[0-9a-f]{64}", known.sha256)
        if known.url:
            assert known.sha256.startswith(name.removesuffix(".pth").rsplit("-", 1)[1])
    for name in (weights.LPIPS_ALEX, weights.LPIPS_VGG):
        assert weights.find(name).is_file()
