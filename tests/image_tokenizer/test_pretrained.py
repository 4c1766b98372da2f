"""Loading checkpoints: parity with the reference implementation, strictness, safety."""

import pickle
from pathlib import Path

import published_weights as published
import pytest
import torch

from open_magvit2 import load_tokenizer
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.image_tokenizer.published import published_name, read_architecture
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer

MULTIPLIERS = {"128": (1, 2, 2, 4), "256": (1, 1, 2, 2, 4)}


LARGE = [pytest.param(model, marks=pytest.mark.slow) for model in ("L_128", "L_256")]


@pytest.fixture(scope="module", params=["B_128", "B_256", *LARGE])
def full_model(request, tmp_path_factory):
    """A full-size file in the published form, with deterministic weights."""
    path = tmp_path_factory.mktemp("published") / f"{request.param}.ckpt"
    torch.save({"state_dict": published.state_dict(request.param)}, path)
    yield request.param, path
    path.unlink()


@pytest.mark.long
@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_full_models_compute_what_the_reference_computes(full_model, weights):
    """In float64 to 1e-9: float32 noise would hide a wrong eps."""
    model, path = full_model
    golden = published.golden(model, weights)
    tokenizer = load_tokenizer(path, weights).double()
    image = published.input_image(golden["input"])
    with torch.no_grad():
        latent = tokenizer.encode(image)
        reconstruction, indices = tokenizer.reconstruct(image)
    assert published.hash_of_indices(indices) == golden["indices_sha256"]
    assert indices.flatten()[:12].tolist() == golden["indices_head"]
    for values, expected in ((latent, golden["latent"]), (reconstruction, golden["recon"])):
        assert list(values.shape) == expected["shape"]
        # the goldens' probes are rounded to 1e-10
        assert torch.allclose(
            published.probe(values), torch.tensor(expected["probe"], dtype=torch.float64), rtol=0, atol=1e-9
        )
        assert values.mean().item() == pytest.approx(expected["mean"], abs=1e-12)
        assert values.std().item() == pytest.approx(expected["std"], abs=1e-12)


@pytest.mark.parametrize("model", ["B_128", "B_256", "L_128", "L_256"])
def test_names_and_shapes_are_the_published_ones(model):
    large = model.startswith("L")
    with torch.device("meta"):
        tokenizer = ImageTokenizer.convolutional(
            channel_multipliers=MULTIPLIERS[model[2:]],
            num_residual_blocks=4 if large else 2,
            adaptive_normalization=large,
        )
    ours = {published_name(name): tuple(value.shape) for name, value in tokenizer.state_dict().items()}
    assert ours == published.manifest(model)


@pytest.mark.parametrize("weights", ["raw", "ema"])
@pytest.mark.parametrize("model", ["B", "L"])
def test_published_fixture_files(shared, model, weights):
    """Files of the published form: equal indices; latents and reconstructions up to the float32 of the expected values.

    Ours is computed in float64, the same on any processor, and within 2e-5 of the float32 results in the file. The
    full models above are compared to 1e-9.
    """
    expected = torch.load(shared / f"fixtures/published_{model}_tiny_expected.pt", weights_only=True)
    results = expected["raw" if weights == "raw" else "ema"]
    tokenizer = load_tokenizer(shared / f"fixtures/published_{model}_tiny.ckpt", weights).double()
    image = expected["image"].double()
    reconstruction, indices = tokenizer.reconstruct(image)
    assert torch.equal(indices, results["indices"])
    for got, name in ((tokenizer.encode(image), "latent"), (reconstruction, "reconstruction")):
        error = (got - results[name]).abs()
        assert error.max() < 1e-4
        assert error.mean() < 2e-6
    assert not tokenizer.training
    assert not any(parameter.requires_grad for parameter in tokenizer.parameters())


def test_checkpoints_from_before_parts_were_injected_still_open():
    """tests/fixtures/trained_before_injection.ckpt was written by commit a373737, which described sizes only."""
    folder = Path(__file__).resolve().parents[1] / "fixtures"
    expected = torch.load(folder / "trained_before_injection_expected.pt", weights_only=True)
    for weights, name in (("ema", "averaged"), ("raw", "raw")):
        tokenizer = load_tokenizer(folder / "trained_before_injection.ckpt", weights).double()
        reconstruction, indices = tokenizer.reconstruct(expected["image"])
        assert torch.equal(indices, expected[name]["indices"])
        assert torch.allclose(reconstruction, expected[name]["reconstruction"], rtol=0, atol=1e-12)
        assert tokenizer.checkpoint_facts["weights"] == weights
        assert tokenizer.token_shape((16, 32)) == (4, 8)


def tiny_state() -> dict[str, torch.Tensor]:
    """A small state dict in the published form."""
    quantizer = LookupFreeQuantizer(6, bit_order="most_significant_first")
    tokenizer = ImageTokenizer.convolutional(quantizer, 32, (1, 2), num_residual_blocks=1)
    raw = {published_name(name): value for name, value in tokenizer.state_dict().items()}
    averaged = {"model_ema." + name.replace(".", ""): value + 1 for name, value in raw.items()}
    beside = {
        "model_ema.decay": torch.tensor(0.999),
        "loss.discriminator.main.0.bias": torch.zeros(1),
        "model_ema.lossdiscriminatormain0bias": torch.zeros(1),
    }
    return {**raw, **averaged, **beside}


def save(tmp_path, state) -> str:
    path = tmp_path / "tokenizer.ckpt"
    torch.save({"state_dict": state}, path)
    return str(path)


def test_architecture_is_read_off_the_shapes():
    parts = read_architecture(tiny_state())["init_args"]
    for part in ("encoder", "decoder"):
        arguments = parts[part]["init_args"]
        assert (arguments["latent_channels"], arguments["image_channels"], arguments["channels"]) == (6, 3, 32)
        assert (arguments["channel_multipliers"], arguments["num_residual_blocks"]) == ([1, 2], 1)
    assert parts["quantizer"]["init_args"] == {"num_bits": 6, "bit_order": "most_significant_first"}


def test_averages_by_default_raw_on_request(tmp_path):
    path, state = save(tmp_path, tiny_state()), tiny_state()
    name = "encoder.conv_in.weight"
    difference = load_tokenizer(path).state_dict()[name] - load_tokenizer(path, "raw").state_dict()[name]
    assert torch.allclose(difference, torch.ones_like(state[name]))


@pytest.mark.parametrize(
    ("change", "weights", "message"),
    [
        (lambda s: s.pop("decoder.norm_out.bias"), "raw", "1 missing in the file:\n.*decoder.norm_out.bias"),
        (lambda s: s.pop("model_ema.decodernorm_outbias"), "ema", "missing in the file:\n.*decoder.norm_out.bias"),
        (lambda s: s.update({"encoder.extra": torch.zeros(1)}), "raw", "unexpected in the file:\n.*encoder.extra"),
        (lambda s: s.update({"decoder.conv_out.bias": torch.zeros(4)}), "raw", r"file \(4,\), model \(3,\)"),
        (lambda s: [s.pop(n) for n in list(s) if n.startswith("model_ema")], "ema", "weights='raw'"),
        (lambda s: [s.update({f"net.{n}": s.pop(n)}) for n in list(s)], "raw", "neither a checkpoint of ours"),
        (
            lambda s: s.update({f"module.{n}": s[n] for n in list(s)}),
            "raw",
            "twice, with and without 'module.'",
        ),
        (lambda s: s.clear(), "raw", "holds no dictionary of tensors"),
    ],
    ids=["missing", "missing average", "extra", "shape", "no averages", "foreign prefix", "twice", "empty"],
)
def test_files_that_do_not_fit_are_refused_by_name(tmp_path, change, weights, message):
    state = tiny_state()
    change(state)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(save(tmp_path, state), weights)


class RunsCode:
    """Unpickled, it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    path, evidence = tmp_path / "malicious.ckpt", tmp_path / "code_ran"
    torch.save({"state_dict": RunsCode(evidence)}, path)
    with pytest.raises(ValueError, match="could run code"):
        load_tokenizer(path)
    assert not evidence.exists()


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"hello\n", b"\x80\x02}q\x00h\x09", "truncated"])
def test_damaged_files_are_refused(tmp_path, content, suffix):
    path = tmp_path / f"damaged{suffix}"
    if content == "truncated":
        torch.save({"state_dict": tiny_state()}, path)
        content = path.read_bytes()[:-1000]
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is empty|damaged or cut short|no PyTorch checkpoint"):
        load_tokenizer(path)


def test_other_mistakes_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint file at"):
        load_tokenizer(tmp_path / "absent.ckpt")
    with pytest.raises(ValueError, match="'ema' or 'raw', got 'both'"):
        load_tokenizer(tmp_path / "absent.ckpt", "both")
    (tmp_path / "list.ckpt").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match="holds a list|no PyTorch checkpoint|damaged"):
        load_tokenizer(tmp_path / "list.ckpt")
