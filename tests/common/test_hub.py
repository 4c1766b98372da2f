"""Names of files on the Hub, against a server that huggingface_hub's client talks to over HTTP."""

import hashlib

import pytest
from huggingface_hub import constants
from small_checkpoint import save_small_checkpoint

from open_magvit2.common import checkpoints
from open_magvit2.common.hub import HubName, forget, local_path, parse_name

CKPT = b"a checkpoint, as far as the Hub knows " * 1000


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("org/name", HubName("org/name")),
        ("org/name@v1.0", HubName("org/name", None, "v1.0")),
        ("org/name/file.ckpt", HubName("org/name", "file.ckpt")),
        ("org/name/a/b.ckpt@refs/pr/3", HubName("org/name", "a/b.ckpt", "refs/pr/3")),
        ("imagenet_256_B", HubName("TencentARC/Open-MAGVIT2", "imagenet_256_B.ckpt")),
        ("imagenet_256_B@v1", HubName("TencentARC/Open-MAGVIT2", "imagenet_256_B.ckpt", "v1")),
        ("tokenizer_titok_l32_imagenet", HubName("yucornetto/tokenizer_titok_l32_imagenet")),
        ("last.ckpt", None),
        ("outputs/last.ckpt", None),
        ("/data/org/name", None),
        ("../org/name", None),
        ("./org/name", None),
        ("org/../name", None),
        ("org//name", None),
    ],
)
def test_what_a_name_stands_for(text, name):
    assert parse_name(text) == name


def test_a_path_that_exists_wins_and_a_missing_file_of_an_existing_folder_asks_nobody(hub, tmp_path, monkeypatch):
    hub.commit("org/name", {"file.ckpt": CKPT})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"org/name/file\.ckpt"):
        local_path("org/name/file.ckpt")
    (tmp_path / "org" / "name" / "file.ckpt").write_bytes(b"mine")
    assert local_path("org/name/file.ckpt").read_bytes() == b"mine"
    assert local_path("org/name").is_dir()
    assert hub.requests == []


def test_a_file_is_downloaded_once_and_a_changed_one_again(hub):
    first = hub.commit("org/name", {"a/file.ckpt": CKPT})
    assert local_path("org/name/a/file.ckpt").read_bytes() == CKPT
    local_path("org/name/a/file.ckpt")
    assert hub.requests == ["HEAD /org/name/resolve/main/a/file.ckpt", "GET /org/name/resolve/main/a/file.ckpt"]
    forget()
    local_path("org/name/a/file.ckpt")  # a new process: asks, finds the same ETag, downloads nothing
    assert hub.requests[2:] == ["HEAD /org/name/resolve/main/a/file.ckpt"]
    hub.commit("org/name", {"a/file.ckpt": b"better"})
    forget()
    assert local_path("org/name/a/file.ckpt").read_bytes() == b"better"
    assert local_path(f"org/name/a/file.ckpt@{first}").read_bytes() == CKPT
    assert checkpoints.digest("org/name/a/file.ckpt") == hashlib.sha256(b"better").hexdigest()


def test_config_and_weights_are_of_one_commit(hub, monkeypatch):
    hub.commit("org/name", {"config.json": b"{}", "model.safetensors": b"old"})
    answer, handled = hub.find, []

    def find(repository, revision):  # somebody pushes between the two files
        result = answer(repository, revision)
        if len(hub.requests) == 2 and not handled:
            handled.append(hub.commit("org/name", {"config.json": b"[]", "model.safetensors": b"new"}))
        return result

    monkeypatch.setattr(hub, "find", find)
    folder = local_path("org/name")
    assert handled
    assert (folder / "config.json").read_bytes() == b"{}"
    assert (folder / "model.safetensors").read_bytes() == b"old"


def test_an_interrupted_download_goes_on_where_it_stopped(hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # 10 MB: what arrived of a chunk is lost
    hub.commit("org/name", {"file.ckpt": CKPT})
    hub.cut["file.ckpt"] = 20_000
    assert local_path("org/name/file.ckpt").read_bytes() == CKPT
    assert hub.requests[-1] == "GET /org/name/resolve/main/file.ckpt bytes=20000-"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no/such", ("no/such", "no repository")),
        ("org/secret", ("org/secret", "hf auth login")),
        ("org/name@v9", ("org/name", "v9")),
        ("org/name", ("org/name", "config.json", "org/name/FILE")),
        ("org/name/other.ckpt", ("org/name", "other.ckpt")),
        ("org/half", ("org/half", "model.safetensors")),
        ("elsewhere.ckpt", ("elsewhere.ckpt", "org/repository")),
    ],
)
def test_what_is_not_there_is_one_clear_error(hub, name, words):
    hub.commit("org/name", {"file.ckpt": CKPT})
    hub.commit("org/secret", {"file.ckpt": CKPT})
    hub.private.add("org/secret")
    hub.commit("org/half", {"config.json": b"{}"})
    with pytest.raises(FileNotFoundError) as error:
        local_path(name)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(("status", "words"), [(401, "refuses your token.*hf auth login"), (403, "cannot be .*403")])
def test_an_answer_that_refuses_is_told_from_no_answer(hub, status, words):
    hub.commit("org/name", {"file.ckpt": CKPT})
    hub.statuses["org/name"] = status
    with pytest.raises(FileNotFoundError, match=words):
        local_path("org/name/file.ckpt")


def test_a_file_that_is_not_on_the_hub_says_where_it_is():
    with pytest.raises(ValueError, match="heibox"):
        local_path("vqgan_imagenet_f16_1024")


@pytest.mark.parametrize("how", ["offline mode", "no network"])
def test_without_a_network_the_cache_is_taken_and_what_it_lacks_is_named(hub, how, monkeypatch):
    hub.commit("org/name", {"file.ckpt": CKPT, "config.json": b"{}", "pytorch_model.bin": CKPT})
    folder, file = local_path("org/name"), local_path("org/name/file.ckpt")
    forget()
    number = len(hub.requests)
    if how == "offline mode":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:  # nobody listens at port 9
        template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client tries several times
    assert local_path("org/name/file.ckpt") == file
    assert local_path("org/name") == folder
    for name in ("org/other", "org/name/other.ckpt", "org/name/file.ckpt@v2"):
        with pytest.raises(FileNotFoundError, match="cache") as error:
            local_path(name)
        assert name in str(error.value)
    assert len(hub.requests) == number


def test_checkpoints_are_read_by_name(hub, tmp_path):
    path = save_small_checkpoint(tmp_path / "last.ckpt", 32)
    hub.commit("org/name", {"last.ckpt": path.read_bytes()})
    assert not checkpoints.differences(checkpoints.read("org/name/last.ckpt"), checkpoints.read(path))
    assert checkpoints.digest("org/name/last.ckpt") == checkpoints.digest(path)
    hub.commit("org/whole", {"pytorch_model.bin": path.read_bytes(), "config.json": b"{}"})
    assert not checkpoints.differences(checkpoints.read("org/whole"), checkpoints.read(path))
