"""Weights are found without a network, verified, and refused where they are wrong."""

import hashlib
import multiprocessing
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from open_magvit2.common import weights
from open_magvit2.common.weights import WeightFile, WeightsRefused, WeightsUnavailable

NAME = "network.pth"
CONTENT = b"the published network" * 1000


class Server(BaseHTTPRequestHandler):
    """Serves the published file, or less, or other bytes; or stops in the middle of it."""

    behaviour = "whole"
    waiting = threading.Event()

    def do_GET(self):
        if self.behaviour == "gone":
            self.send_error(404)
            return
        body = CONTENT
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.behaviour == "whole":
            self.wfile.write(body)
        elif self.behaviour == "wrong":
            self.wfile.write(body[::-1])
        else:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if self.behaviour == "stops":
                self.waiting.wait(60)

    def log_message(self, *arguments):
        """Nothing on the screen."""


@pytest.fixture
def http_server(tmp_path, monkeypatch):
    """A known file on a real HTTP server, and an empty cache folder."""
    Server.waiting.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    known = WeightFile(
        hashlib.sha256(CONTENT).hexdigest(), f"http://127.0.0.1:{server.server_port}/{NAME}", other_names=("other.pth",)
    )
    monkeypatch.setitem(weights.KNOWN, NAME, known)
    monkeypatch.setenv("OPEN_MAGVIT2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    yield known
    Server.waiting.set()
    server.shutdown()


def downloaded(tmp_path) -> list[str]:
    """Names in the cache folder but the lock's."""
    return [path.name for path in (tmp_path / "cache").iterdir() if path.name != ".lock"]


def test_download_once_then_offline(http_server, tmp_path, monkeypatch):
    path = weights.find(NAME)
    assert path == tmp_path / "cache" / NAME
    assert path.read_bytes() == CONTENT
    monkeypatch.setattr(Server, "behaviour", "gone")
    assert weights.find(NAME) == path
    assert downloaded(tmp_path) == [NAME]


@pytest.mark.parametrize("name", [NAME, "other.pth"])
def test_found_in_torch_hub_under_either_name(http_server, tmp_path, name):
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    (hub / name).write_bytes(CONTENT)
    assert weights.find(NAME) == hub / name


def test_wrong_content_under_the_right_name_is_refused_and_rechecked(http_server, tmp_path):
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


def test_a_failed_download_says_what_to_do(http_server, tmp_path, monkeypatch):
    monkeypatch.setattr(Server, "behaviour", "gone")
    with pytest.raises(WeightsUnavailable) as caught:
        weights.find(NAME)
    for part in (NAME, http_server.url, hashlib.sha256(CONTENT).hexdigest(), str(tmp_path / "cache")):
        assert re.search(re.escape(part), str(caught.value))
    assert isinstance(caught.value, FileNotFoundError)


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


@pytest.mark.parametrize("behaviour", ["truncated", "wrong"])
def test_a_download_that_is_not_the_published_file_leaves_nothing(http_server, tmp_path, monkeypatch, behaviour):
    monkeypatch.setattr(Server, "behaviour", behaviour)
    with pytest.raises(WeightsUnavailable, match="Put the file"):
        weights.find(NAME)
    assert downloaded(tmp_path) == []
    monkeypatch.setattr(Server, "behaviour", "whole")
    assert weights.find(NAME).read_bytes() == CONTENT


def test_a_process_killed_while_it_downloads_leaves_no_file_of_that_name(http_server, tmp_path, monkeypatch):
    monkeypatch.setattr(Server, "behaviour", "stops")
    child = multiprocessing.get_context("fork").Process(target=weights.find, args=(NAME,))
    child.start()
    deadline = time.monotonic() + 300
    while not ((tmp_path / "cache").is_dir() and downloaded(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.kill()
    child.join()
    assert child.exitcode == -9
    assert not (tmp_path / "cache" / NAME).exists()
    monkeypatch.setattr(Server, "behaviour", "whole")
    assert weights.find(NAME).read_bytes() == CONTENT
