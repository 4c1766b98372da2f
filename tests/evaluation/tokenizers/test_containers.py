"""The containers of published files: zip archives, flax's msgpack, TorchScript; nothing in any of them runs."""

import pickle
import zipfile

import msgpack
import numpy as np
import published_weights as published
import pytest
import torch
from test_convolutional_families import small_state

from open_magvit2 import load_tokenizer
from open_magvit2.common import checkpoints
from open_magvit2.evaluation.tokenizers import maskgit


class Hostile:
    """Pickles as a call that leaves a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


@pytest.fixture(scope="module")
def state():
    return small_state("quantize.embedding.weight", (16, 4))


def zipped(path, name, content, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/readme.txt", "weights")
        archive.writestr(name, content)
    return path


def test_an_archive_around_a_checkpoint(tmp_path, state):
    """latent-diffusion publishes vq-f8.zip with model.ckpt in it."""
    torch.save({"state_dict": state}, tmp_path / "model.ckpt")
    archive = zipped(tmp_path / "vq-f8.zip", "model.ckpt", (tmp_path / "model.ckpt").read_bytes())
    plain, packed = (load_tokenizer(tmp_path / name).state_dict() for name in ("model.ckpt", "vq-f8.zip"))
    assert all(torch.equal(value, packed[name]) for name, value in plain.items())
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("second.ckpt", b"")
    with pytest.raises(ValueError, match="archive with 2 checkpoint files, expected one"):
        load_tokenizer(archive)


def test_an_archive_that_grows_is_refused_before_it_is_unpacked(tmp_path):
    archive = zipped(tmp_path / "bomb.zip", "model.ckpt", bytes(50_000_000))
    with pytest.raises(ValueError, match=r"grows from .* to 50,000,000 bytes"):
        load_tokenizer(archive)


def test_what_macos_adds_to_an_archive_is_no_second_checkpoint(tmp_path, state):
    torch.save({"state_dict": state}, tmp_path / "model.ckpt")
    archive = zipped(tmp_path / "x.zip", "model.ckpt", (tmp_path / "model.ckpt").read_bytes())
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("__MACOSX/._model.ckpt", b"Mac OS X")
    assert load_tokenizer(archive).codebook_size == 16


def patched(content, marker, offset, value):
    """The bytes with one changed, `offset` behind the last place of a marker."""
    content = bytearray(content)
    content[content.rindex(marker) + offset] = value
    return bytes(content)


LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"  # marks of the two headers of a member


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: patched(patched(content, CENTRAL, 8, 1), LOCAL, 6, 1), "encrypted"),
        (lambda content: patched(patched(content, CENTRAL, 10, 99), LOCAL, 8, 99), "NotImplementedError"),
        (lambda content: patched(content, CENTRAL, 0, 0), "Bad magic number"),
        (lambda content: patched(content, LOCAL, 200, content[content.rindex(LOCAL) + 200] ^ 255), "damaged"),
    ],
    ids=["encrypted", "unknown compression", "directory", "content"],
)
def test_a_damaged_archive_is_one_error_with_its_path(tmp_path, damage, message):
    path = zipped(tmp_path / "x.zip", "model.ckpt", np.random.default_rng(0).bytes(5000))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as refused:
        load_tokenizer(path)
    assert str(path) in str(refused.value)


def test_a_damaged_directory_of_pytorchs_own_file_is_the_same_error(tmp_path, state):
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": state}, path)
    path.write_bytes(patched(path.read_bytes(), CENTRAL, 0, 0))
    with pytest.raises(ValueError, match="Bad magic number") as refused:
        load_tokenizer(path)
    assert str(path) in str(refused.value)


def flax(content):
    """Bytes as flax.serialization.to_bytes writes nested dictionaries of arrays."""

    def extension(array):
        return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))

    return msgpack.packb(content, default=extension)


def flax_names(folder):
    """MaskGIT's weights as a nested flax dictionary, made from the PyTorch port's names one by one."""
    blocks = {
        "norm1": "GroupNorm_0",
        "norm2": "GroupNorm_1",
        "conv1": "Conv_0",
        "conv2": "Conv_1",
        "nin_shortcut": "Conv_2",
    }
    layers = {
        "encoder": {"conv_in": "Conv_0", "norm_out": "GroupNorm_0", "conv_out": "Conv_1"},
        "decoder": {"conv_in": "Conv_0", "norm_out": "GroupNorm_0", "conv_out": "Conv_5"},
    }
    order = {
        "encoder": [*(f"down.{i}.block.{b}" for i in range(5) for b in range(2)), "mid.0", "mid.1"],
        "decoder": ["mid.0", "mid.1", *(f"up.{i}.block.{b}" for i in (4, 3, 2, 1, 0) for b in range(2))],
    }
    state = published.whole_state(folder, "maskgit_pt")
    tree = {"quantizer": {"codebook": state.pop("quantize.embedding.weight").numpy()}, "encoder": {}, "decoder": {}}
    for name, value in state.items():
        part, rest = name.split(".", 1)
        place, leaf = rest.rsplit(".", 1)
        array = value.numpy()
        if array.ndim == 4:
            array, leaf = np.ascontiguousarray(array.transpose(2, 3, 1, 0)), "kernel"
        elif leaf == "weight":
            leaf = "scale"
        if place in layers[part]:
            keys = [layers[part][place]]
        elif place.endswith("upsample_conv"):
            keys = [f"Conv_{5 - int(place.split('.')[1])}"]  # up.4 is Conv_1, up.1 is Conv_4
        else:
            block, inner = place.rsplit(".", 1)
            keys = [f"ResBlock_{order[part].index(block)}", blocks[inner]]
        node = tree[part]
        for key in keys:
            node = node.setdefault(key, {})
        node[leaf] = array
    return {"params": tree}


@pytest.mark.long
def test_googles_own_maskgit_file_is_the_same_tokenizer(shared, tmp_path):
    folder = shared / "spec" / "published"
    torch.save(published.whole_state(folder, "maskgit_pt"), tmp_path / "port.bin")
    (tmp_path / "tokenizer_imagenet256_checkpoint").write_bytes(flax(flax_names(folder)))
    port = load_tokenizer(tmp_path / "port.bin").state_dict()
    own = load_tokenizer(tmp_path / "tokenizer_imagenet256_checkpoint").state_dict()
    assert port.keys() == own.keys()
    assert all(torch.equal(value, own[name]) for name, value in port.items())


def test_a_name_that_is_no_part_of_googles_file_is_kept_and_takes_no_other_names_place():
    """Loading then refuses it by this name."""
    odd = ["encoder.Conv_7.kernel", "decoder.GroupNorm_1.scale", "encoder.ResBlock_0.Conv_3.kernel", "foo", "a.b_c.d"]
    odd = [f"params.{name}" for name in odd] + ["opt_state.count", "params.encoder.Conv_0.scale"]
    known = ["params.quantizer.codebook", "params.encoder.Conv_0.kernel", "params.decoder.GroupNorm_0.scale"]
    unified = maskgit.unified({name: torch.ones(2, 3) for name in (*known, *odd)})
    assert list(unified)[:3] == ["quantize.embedding.weight", "encoder.conv_in.weight", "decoder.norm_out.weight"]
    assert list(unified)[3:] == odd


def test_msgpack_with_another_extension_is_refused(tmp_path):
    (tmp_path / "x.msgpack").write_bytes(msgpack.packb({"a": msgpack.ExtType(7, b"anything")}))
    with pytest.raises(ValueError, match="extension 7"):
        checkpoints.read(tmp_path / "x.msgpack")
    (tmp_path / "y.msgpack").write_bytes(flax({"params": {"a": np.ones((4, 3), np.float32)}})[:-5])
    with pytest.raises(ValueError, match="damaged or cut short"):
        checkpoints.read(tmp_path / "y.msgpack")


def hostile_files(folder, state, mark):
    """One hostile file of every container that can hold a pickle."""
    content = {"state_dict": state, "callbacks": Hostile(mark)}
    torch.save(content, folder / "lightning.ckpt")
    torch.save(content, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    (folder / "plain.bin").write_bytes(pickle.dumps(content))
    zipped(folder / "archive.zip", "model.ckpt", (folder / "lightning.ckpt").read_bytes())
    (folder / "named.safetensors").write_bytes(pickle.dumps(content))
    (folder / "named.msgpack").write_bytes(pickle.dumps(content))
    return ["lightning.ckpt", "legacy.pt", "plain.bin", "archive.zip", "named.safetensors", "named.msgpack"]


def test_nothing_runs_in_a_hostile_file_of_any_container(tmp_path, state):
    mark = tmp_path / "it ran"
    for name in hostile_files(tmp_path, state, mark):
        with pytest.raises(ValueError, match="refused|cannot be read|no PyTorch checkpoint"):
            load_tokenizer(tmp_path / name)
        assert not mark.exists(), name


def test_torchscript_is_refused_by_what_it_is(tmp_path):
    """Cosmos publishes encoder.jit and decoder.jit: programs with weights in them."""
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "encoder.jit")
    with pytest.raises(ValueError, match="TorchScript"):
        load_tokenizer(tmp_path / "encoder.jit")
