"""Protocols, originals, loading and provenance: what moves a figure is named, and the paper's originals are exact."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from small_tokenizers import CoarseTokenizer, make_images
from torchvision import transforms

from open_magvit2.common import environment
from open_magvit2.data.transforms import ResizeCenterCrop
from open_magvit2.evaluation import image_size, originals, protocol, provenance, tokenizers
from open_magvit2.evaluation.metrics import available
from open_magvit2.evaluation.run import Setting, evaluate_tokenizer
from open_magvit2.evaluation.sources import EvenSubset
from open_magvit2.evaluation.sources import make_loader as sharded_loader

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "evaluation"
CONFIGS = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", [p for p in CONFIGS if not p.stem.startswith("table")], ids=lambda p: p.stem)
def test_every_protocol_is_whole(path):
    loaded = protocol.load(path.stem, path.parent)
    assert protocol.load(path, path.parent) == loaded
    assert loaded.name == path.stem
    assert set(loaded.metrics) <= set(available())
    assert loaded.changes == {}
    assert path.read_text().startswith("# ")
    assert originals.make_transform(loaded.resize, None if loaded.resize == "none" else 32)


def test_a_change_renames_the_protocol():
    paper = protocol.load("paper", FOLDER)
    assert paper.changed(resize="bilinear") is paper
    custom = paper.configured(["resize=bicubic", "precision=bf16"], metrics="psnr")
    assert custom.name == "custom"
    assert custom.changes == {
        "name": ["paper", "custom"],
        "resize": ["bilinear", "bicubic"],
        "precision": ["fp32", "bf16"],
    }
    assert paper.configured([], metrics="psnr,ssim").name == "paper"
    with pytest.raises(ValueError, match=r"no field sise; its fields: .*resize"):
        paper.configured(["sise=3"])
    with pytest.raises(FileNotFoundError, match="paper"):
        protocol.load("papre", FOLDER)


def test_a_second_change_is_listed_against_the_protocol():
    paper = protocol.load("paper", FOLDER)
    twice = paper.changed(weights="raw").changed(tf32=True)
    assert twice.changes == {"name": ["paper", "custom"], "weights": ["ema", "raw"], "tf32": [False, True]}
    assert paper.changed(weights="raw").changed(weights="ema") == paper


def test_a_file_elsewhere_is_the_named_protocol_or_says_how_it_differs(tmp_path):
    values = yaml.safe_load((FOLDER / "paper.yaml").read_text())

    def load(**changes):
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**values, **changes}))
        return protocol.load(tmp_path / "mine.yaml", FOLDER)

    assert load() == protocol.load("paper", FOLDER)
    changed = load(resize="bicubic", num_images=100)
    assert changed.name == "custom"
    assert changed.resize == "bicubic"
    assert changed.changes == {
        **{"name": ["paper", "custom"], "resize": ["bilinear", "bicubic"]},
        **{"num_images": [50_000, 100]},
    }
    own = load(name="ours", resize="bicubic")
    assert (own.name, own.resize, own.changes) == ("ours", "bicubic", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the fields of a protocol, got None"),
        ("[paper", "not YAML"),
        (
            "name: ours\nmetrics: [psnr]\n",
            "no value for resize, weights, jpeg_quality, .*tf32, precision, num_images, version",
        ),
        ("WHOLE\nname: custom\n", "a name other than custom"),
        ("WHOLE\nmetrics: [psnr, ssim]\n", "rfid: rfid is yielded by none of the metrics psnr, ssim"),
    ],
)
def test_a_file_that_is_no_whole_protocol_is_refused_by_its_path(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text.replace("WHOLE", (FOLDER / "paper.yaml").read_text()))
    with pytest.raises(ValueError, match="mine.yaml: .*" + message):
        protocol.load(tmp_path / "mine.yaml", FOLDER)


@pytest.mark.parametrize(
    ("changes", "metrics", "message"),
    [
        (["num_images=abc"], None, "num_images: expected a whole number above 0, got 'abc'"),
        (["num_images=true"], None, "expected a whole number above 0, got True"),
        (["tf32=yep"], None, "tf32: expected true or false, got 'yep'"),
        (["precision=fp16"], None, "precision: expected one of fp32, bf16, got 'fp16'"),
        (["tf32"], None, "expected FIELD=VALUE, got 'tf32'"),
        (["tf32=[a"], None, "not YAML"),
        (["name=foo"], None, "name=foo: a name cannot be set"),
        (["weights=both"], None, "weights: expected one of ema, raw, got 'both'"),
        (["resize=lanczos"], None, "resize: expected one of none, bilinear"),
        (["psnr=psnr_imag"], None, "psnr: expected one of null, psnr_image, .*got 'psnr_imag'"),
        (["rfid=psnr_image"], None, "rfid: expected one of null, rfid, rfid_tf, rfid_u8, got"),
        (["rfid=rfid_tf"], None, "rfid_tf is yielded by none of the metrics rfid, psnr"),
        (["metrics=psnr"], None, "metrics: expected a list of metrics, got 'psnr'"),
        ([], "psnr,kid", "no metric is called kid; available"),
        ([], "psnr,ssim,psnr", "given more than once: psnr"),
    ],
)
def test_values_are_refused_before_anything_runs(changes, metrics, message):
    with pytest.raises(ValueError, match=message):
        protocol.load("paper", FOLDER).configured(changes, metrics)


def record(samples, facts, chosen):
    setting = Setting(lambda resize, size: (samples, facts), torch.device("cpu"), check="off", progress=False)
    model = {"codebook_size": 512, "checkpoint_path": "x"}
    return evaluate_tokenizer(CoarseTokenizer(), model, chosen, (32, 32), setting).record


def test_the_figures_a_protocol_can_quote_are_those_of_the_metrics():
    samples = [{"image": image, "index": i, "path": "", "label": -1} for i, image in enumerate(make_images(3))]
    found = record(samples, provenance.drawn("three", 3), protocol.Protocol("x", metrics=("psnr", "ssim")))
    assert set(protocol._figures(["psnr", "ssim"])) == set(found["metrics"])


@pytest.mark.parametrize("shape", [(300, 200), (200, 301), (64, 64), (65, 64), (20, 33), (500, 129)])
def test_paper_originals_are_torchvisions_and_the_data_rooms(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    ours = originals.make_transform("bilinear", 64)(image, None)
    theirs = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(64), transforms.PILToTensor()])(image)
    assert torch.equal(ours, theirs)
    assert torch.equal(ours, ResizeCenterCrop(64)(image, np.random.default_rng()))
    bicubic = transforms.Resize(64, interpolation=transforms.InterpolationMode.BICUBIC)
    theirs = transforms.Compose([bicubic, transforms.CenterCrop(64), transforms.PILToTensor()])(image)
    assert torch.equal(originals.make_transform("bicubic", 64)(image, None), theirs)


def test_other_originals_differ_but_resemble(shared):
    path = sorted((shared / "data" / "imagenet_mini" / "val").rglob("*.JPEG"))[0]
    image = Image.open(path).convert("RGB")
    paper = originals.make_transform("bilinear", 96)(image, None).int()
    for resize in ("bicubic", "adm", "no_antialias"):
        other = originals.make_transform(resize, 96)(image, None)
        assert other.shape == (3, 96, 96)
        assert other.dtype == torch.uint8
        difference = (other.int() - paper).float().abs().mean()
        assert 0 < difference < 12
    assert originals.make_transform("none", None)(image, None).shape == (3, image.height, image.width)


@pytest.mark.parametrize("resize", [name for name in originals.RESIZERS if not name.startswith("squash")])
@pytest.mark.parametrize("size", [(48, 64), (64, 48), (32, 96)])
def test_crops_need_not_be_square(resize, size):
    """The image covers the crop, with its own proportions: a picture of a ramp keeps the ramp's slope."""
    height, width = 150, 200
    ramp = np.repeat(np.linspace(0, 200, width)[None, :, None], height, axis=0).repeat(3, axis=2)
    pixels = originals.make_transform(resize, size)(Image.fromarray(ramp.round().astype(np.uint8)), None)
    assert pixels.shape == (3, *size)
    scale = max(size[0] / height, size[1] / width)
    slope = (pixels[0, 0, -4].double() - pixels[0, 0, 3].double()) / (size[1] - 7)
    assert slope.item() == pytest.approx(200 / (width - 1) / scale, abs=1.5 / (size[1] - 7))


def test_sizes_in_files():
    for plain, size in ((256, (256, 256)), ([128, 256], (128, 256))):
        assert image_size.from_plain(plain) == size
        assert image_size.to_plain(size) == plain
    for wrong in (0, [], [1, 2, 3], "a", [4, -8]):
        with pytest.raises(ValueError, match="image_size must be"):
            image_size.from_plain(wrong)


def test_the_image_size_is_explicit():
    with pytest.raises(ValueError, match="--image-size"):
        originals.make_transform("bilinear", None)
    with pytest.raises(ValueError, match="own sizes"):
        originals.make_transform("none", 64)
    with pytest.raises(ValueError, match="available: none, bilinear"):
        originals.make_transform("lanczos", 64)


def test_a_subset_is_even_and_renumbered():
    samples = [{"index": i, "image": i} for i in range(10)]
    subset = EvenSubset(samples, 4)
    assert [s["image"] for s in (subset[i] for i in range(4))] == [0, 2, 5, 7]
    assert [subset[i]["index"] for i in range(len(subset))] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="has 10"):
        EvenSubset(samples, 11)


def test_the_loader_takes_every_image_once():
    samples = [{"index": i} for i in range(7)]
    assert [b["index"].tolist() for b in sharded_loader(samples, 3)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_fingerprints_follow_names_and_contents(tmp_path):
    names = ["a/1.png", "a/2.png", "b/3.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    facts = provenance.folder(tmp_path, names)
    assert (facts["num_files"], facts["num_classes"], facts["per_class"]) == (3, 2, [1, 2])
    assert facts["known_as"] is None
    (tmp_path / "b/notes.csv").touch()  # not one of the dataset's
    assert provenance.folder(tmp_path, names) == facts
    assert provenance.folder(tmp_path, names[::-1])["fingerprint"] != facts["fingerprint"]  # grouped figures differ
    (tmp_path / "a/1.png").write_bytes(b"a/1.pnG")  # the same name and size
    changed = provenance.folder(tmp_path, names)
    assert changed["fingerprint"] != facts["fingerprint"]
    assert environment.versions()["torch"] == torch.__version__.split("+")[0] or "+" in torch.__version__


def test_a_set_that_was_cropped_before_is_said(tmp_path):
    for i, pixels in enumerate(make_images(9, size=40)):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    names = [f"{i}.png" for i in range(9)]
    facts = provenance.folder(tmp_path, names)
    assert facts["sampled_sizes"] == {"looked_at": 9, "not_opened": 0, "distinct": 1, "shorter_side": [40, 40]}
    paper = protocol.Protocol("paper", metrics=("psnr",))
    samples = [{"image": image, "index": i, "path": "", "label": -1} for i, image in enumerate(make_images(9))]

    def warned(facts):
        return any("9 images looked at have one size" in text for text in record(samples, facts, paper)["warnings"])

    assert warned(facts)
    Image.new("RGB", (30, 50)).save(tmp_path / "0.png")
    assert not warned(provenance.folder(tmp_path, names))


def test_tokenizer_families_are_found_by_module_name(tmp_path):
    assert "open_magvit2" in tokenizers.available()
    with pytest.raises(ValueError, match="available: .*open_magvit2"):
        tokenizers.load("open_magvit3", tmp_path)
    with pytest.raises(FileNotFoundError):
        tokenizers.load("open_magvit2", tmp_path / "none.ckpt")
    with pytest.raises(ValueError, match="cannot import the tokenizer family nowhere.to_be_seen"):
        tokenizers.load("nowhere.to_be_seen", tmp_path)
    with pytest.raises(ValueError, match="open_magvit2.evaluation.sanity has no function load"):
        tokenizers.load("open_magvit2.evaluation.sanity", tmp_path)


def test_a_family_gets_the_options_it_declares(tmp_path, monkeypatch):
    family = ModuleType("my_project.family")
    monkeypatch.setitem(sys.modules, "my_project", ModuleType("my_project"))
    monkeypatch.setitem(sys.modules, family.__name__, family)
    options = {"weights": "ema", "allowed_modules": ["x"]}
    seen = []
    family.load = lambda checkpoint: seen.append(checkpoint) or CoarseTokenizer()
    assert tokenizers.load(family.__name__, "a file", **options).codebook_size == 512
    family.load = lambda checkpoint, weights, device: seen.append((weights, device)) or CoarseTokenizer()
    tokenizers.load(family.__name__, "a file", **options)
    assert seen == ["a file", ("ema", "cpu")]
    family.load = lambda checkpoint: object()
    with pytest.raises(ValueError, match=r"object.*protocols\.Tokenizer"):
        tokenizers.load(family.__name__, "a file", **options)
