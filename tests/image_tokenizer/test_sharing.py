"""Save, upload and load tokenizers as the Hugging Face Hub keeps them, against a real server on this machine."""

import json
import sys

import pytest
import safetensors.torch
import torch
from commands import ROOT, run, run_here
from hub_server import serving
from small_checkpoint import save_small_checkpoint

from open_magvit2 import load_tokenizer, published
from open_magvit2.common import checkpoints
from open_magvit2.evaluation import tokenizers


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_small_checkpoint(tmp_path_factory.mktemp("trained") / "small.ckpt")


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("shared") / "small"
    load_tokenizer(checkpoint).save_pretrained(path, licence="apache-2.0", name="me/small")
    return path


def same(first, second) -> bool:
    mine, other = first.state_dict(), second.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in mine.items())


def test_a_folder_comes_back_with_the_facts_of_its_checkpoint(checkpoint, folder):
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    before, after = load_tokenizer(checkpoint), load_tokenizer(folder)
    assert same(before, after)
    assert not same(load_tokenizer(checkpoint, "raw"), after)  # the averages were shared
    assert same(load_tokenizer(folder / "model.safetensors"), after)
    for name in ("weights", "train_image_size"):
        assert after.checkpoint_facts[name] == before.checkpoint_facts[name]
    card = (folder / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert 'load_tokenizer("me/small")' in card
    assert "- weights: ema" in card
    assert "No figures were measured" in card


def test_the_card_carries_the_figures_of_an_evaluation(checkpoint, folder, tmp_path):
    words = (
        "--checkpoint",
        folder,
        "--built-in",
        "2",
        "--image-size",
        "32",
        "--metrics",
        "psnr",
        "--output",
        tmp_path / "figures",
    )
    result = run_here(ROOT / "scripts/evaluate.py", *words)
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "figures" / "results.json").read_text())
    assert record["model"]["checkpoint_sha256"] == checkpoints.digest(folder)
    load_tokenizer(checkpoint).save_pretrained(tmp_path / "x", results=tmp_path / "figures" / "results.json")
    card = (tmp_path / "x" / "README.md").read_text()
    assert f"| psnr_image | {record['metrics']['psnr_image']:.5g} |" in card
    assert "Protocol `paper`, 2 " in card


def test_a_description_names_classes_of_this_package_only(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["open_magvit2_tokenizer"]["init_args"]["quantizer"]["class_path"] = "subprocess.Popen"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"subprocess\.Popen, which is not part of open_magvit2"):
        load_tokenizer(tmp_path)


def test_other_peoples_config_is_no_description(tmp_path):
    safetensors.torch.save_file({"a.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model": {"a": 1}}))
    assert list(checkpoints.read(tmp_path)) == ["state_dict"]


LOAD = """
import sys
from open_magvit2 import load_tokenizer
for name in sys.argv[1:]:
    try:
        print(name, load_tokenizer(name).codebook_size)
    except (OSError, ValueError) as error:
        print(name, type(error).__name__, " ".join(str(error).split()))
"""


def load(hub_url, cache, *names, **environment):
    """What `load_tokenizer` of some names answers, in a process that asks this hub; one line each."""
    options = {"HF_ENDPOINT": hub_url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", **environment}
    lines = run(sys.executable, "-c", LOAD, *names, folder=cache, **options).stdout.splitlines()
    return dict(line.split(" ", 1) for line in lines)


def test_loaded_by_name_cached_and_without_a_network(checkpoint, folder, tmp_path):
    with serving() as hub:
        hub.repositories["me/small"] = {path.name: path.read_bytes() for path in folder.iterdir()}
        hub.repositories["me/two"] = {"a.ckpt": b"a", "deep/b.ckpt": checkpoint.read_bytes(), "notes.txt": b""}
        hub.repositories["me/one"] = {"only.ckpt": checkpoint.read_bytes()}
        names = ["me/small", "me/one", "me/two", "me/two/deep/b.ckpt", "me/two/c.ckpt", "me/small@v1", "me/absent"]
        told = load(hub.url, tmp_path, *names)
        size = str(load_tokenizer(checkpoint).codebook_size)
        assert [told[name] for name in ("me/small", "me/one", "me/two/deep/b.ckpt", "me/small@v1")] == [size] * 4
        assert "2 files of weights, expected one: a.ckpt, deep/b.ckpt" in told["me/two"]
        assert "me/two has no c.ckpt in the repository" in told["me/two/c.ckpt"]
        assert "FileNotFoundError" in told["me/absent"]
        assert "RepositoryNotFoundError" in told["me/absent"]
        assert any(request.endswith("/me/small/resolve/v1/model.safetensors") for request in hub.requests)
        hub.requests.clear()
        assert load(hub.url, tmp_path, "me/one")["me/one"] == size
        assert not [request for request in hub.requests if request.startswith("GET") and "resolve" in request]
        hub.requests.clear()
        offline = load(hub.url, tmp_path, "me/small", "me/one", "me/never", HF_HUB_OFFLINE="1")
        assert hub.requests == []
    gone = load(hub.url, tmp_path, "me/small", "me/never")  # the server is down
    for answers in (offline, gone):
        assert answers["me/small"] == size
        assert (
            "FileNotFoundError me/never is no path here, and the Hugging Face Hub did not give it"
            in answers["me/never"]
        )
    assert offline["me/one"] == size


def test_a_download_that_was_cut_off_goes_on(checkpoint, tmp_path):
    with serving() as hub:
        content = checkpoint.read_bytes()
        hub.repositories["me/one"] = {"only.ckpt": content}
        hub.cut_after = len(content) // 2
        told = load(hub.url, tmp_path, "me/one", "me/one")
        assert told["me/one"] == str(load_tokenizer(checkpoint).codebook_size)


PUSH = """
import sys
from open_magvit2 import load_tokenizer
print(load_tokenizer(sys.argv[1]).push_to_hub("me/pushed", licence="mit"))
"""


def test_what_is_uploaded_is_loaded(checkpoint, tmp_path):
    with serving() as hub:
        options = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_token"}
        run(sys.executable, "-c", PUSH, checkpoint, **options)
        assert hub.repositories["me/pushed"].keys() >= {"config.json", "model.safetensors", "README.md"}
        assert b"license: mit" in hub.repositories["me/pushed"]["README.md"]
        told = load(hub.url, tmp_path, "me/pushed")
    assert told["me/pushed"] == str(load_tokenizer(checkpoint).codebook_size)


def test_published_files_by_short_names(tmp_path):
    known = published()
    assert known["imagenet_256_B"].repository == "TencentARC/Open-MAGVIT2"
    assert all(entry.family in tokenizers.available() for entry in known.values()), "a family without a module"
    assert all(entry.repository or entry.url for entry in known.values())
    with serving() as hub:
        told = load(hub.url, tmp_path, "vq_ds16_c2i")
        assert "FoundationVision/LlamaGen" in told["vq_ds16_c2i"]
        assert any("/api/models/FoundationVision/LlamaGen" in request for request in hub.requests)


def test_a_mistyped_path_is_no_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    for name in ("outputs/last", "run/last.ckpt", "a/b/../c", "file.ckpt"):
        with pytest.raises(FileNotFoundError, match="no checkpoint file at"):
            load_tokenizer(name)
