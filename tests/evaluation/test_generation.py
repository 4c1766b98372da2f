"""Generated images of an npz, a folder and a generator through to results.json, row, page, table and sweep."""

import itertools
import json
import os
import re
import zipfile

import numpy as np
import pytest
import torch
from commands import ROOT, run_here
from PIL import Image
from small_tokenizers import make_images
from test_pages_in_a_browser import BROWSER, look

from open_magvit2.common.files import sha256_of
from open_magvit2.evaluation import generation, protocol, sweep, table, table_rows
from open_magvit2.evaluation.features import inception
from open_magvit2.evaluation.features.reference import load_reference
from open_magvit2.evaluation.generated import GeneratedImages
from open_magvit2.evaluation.generation import GenerationSetting, evaluate_images, samples_model
from open_magvit2.evaluation.metrics import inception_score
from open_magvit2.evaluation.report import charts, write
from open_magvit2.evaluation.samples import open_images

CONFIGS = ROOT / "configs" / "evaluation"
ADM = protocol.load("adm", CONFIGS)
CPU = torch.device("cpu")


FEATURES, SPATIAL_FEATURES = 48, 27


class PixelNetwork:
    """In place of Inception: a few averaged pixels are the features, so that a pass takes no time."""

    def __call__(self, image, preprocessing):
        assert preprocessing == "tf"
        features, spatial = (torch.nn.functional.adaptive_avg_pool2d(image, side).flatten(1) for side in (4, 3))
        logits = 8.0 * torch.nn.functional.pad(features, (0, 1008 - FEATURES), value=-1.0)
        return inception.InceptionOutput(features, logits, spatial)


@pytest.fixture
def pixel_network(monkeypatch, random_networks, tmp_path):
    monkeypatch.setattr(inception, "load", PixelNetwork)
    monkeypatch.setattr(inception, "NUM_FEATURES", FEATURES)
    monkeypatch.setattr(inception, "NUM_SPATIAL_FEATURES", SPATIAL_FEATURES)
    monkeypatch.setenv("OPEN_MAGVIT2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("open_magvit2.evaluation.provenance.metric_weights", lambda metrics: {})


def nhwc(images):
    return images.permute(0, 2, 3, 1).numpy()


@pytest.fixture
def files(tmp_path):
    """20 samples as npz, compressed npz and folder; a reference of 12 images, and of moments."""
    samples, real = make_images(20, seed=0), make_images(12, seed=1)
    labels = np.arange(20) % 4
    np.savez(tmp_path / "stored.npz", nhwc(samples), labels)
    np.savez_compressed(tmp_path / "compressed.npz", arr_0=nhwc(samples))
    (tmp_path / "folder").mkdir()
    for i, image in enumerate(samples):
        Image.fromarray(nhwc(image[None])[0]).save(tmp_path / "folder" / f"{i:06d}.png")
    np.savez(tmp_path / "real.npz", nhwc(real))
    return tmp_path


def setting(reference, **changes):
    return GenerationSetting(reference, CPU, 8, progress=False, **{"allow_few_images": True, **changes})


def evaluate(path, reference, chosen=ADM, **changes):
    images = open_images(path)
    return evaluate_images(images, samples_model(images), chosen, setting(reference, **changes))


def test_npz_compressed_npz_and_folder_hold_the_same_images(files):
    expected = make_images(20, seed=0)
    for name in ("stored.npz", "compressed.npz", "folder"):
        images = open_images(files / name)
        batches = list(images.batches(8))
        assert [len(index) for index, _ in batches] == [8, 8, 4]
        assert torch.cat([index for index, _ in batches]).tolist() == list(range(20)), name
        assert torch.equal(torch.cat([pixels for _, pixels in batches]), expected), name
    assert open_images(files / "stored.npz").labels.tolist() == [i % 4 for i in range(20)]


@pytest.mark.parametrize(
    ("labels", "got"),
    [(np.arange(3), "int64 [3]"), (np.zeros((2, 5), int), "int64 [2, 5]"), (np.zeros(2), "float64 [2]")],
)
def test_labels_that_do_not_fit_the_images_are_left_aside_with_a_warning(tmp_path, caplog, labels, got):
    np.savez(tmp_path / "odd.npz", np.zeros((2, 4, 4, 3), np.uint8), labels)
    assert open_images(tmp_path / "odd.npz").labels is None
    assert f"expected labels in arr_1, integers [2], got {got}." in caplog.text
    caplog.clear()
    (tmp_path / "images").mkdir()
    for number in range(2):
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "samples.json").write_text("{}")
    np.savez(tmp_path / "samples.npz", np.zeros((3, 4, 4, 3), np.uint8), np.arange(3))
    assert open_images(tmp_path).labels is None
    assert "samples.npz has 3 labels" in caplog.text


@pytest.mark.parametrize("name", ["stored", "compressed", "labels"])
def test_damaged_content_of_an_npz_is_one_error(tmp_path, name):
    """The list of contents at the end of the file is whole, what it lists is not: as a bad disk or copy leaves it."""
    path = tmp_path / f"{name}.npz"
    save = np.savez if name == "stored" else np.savez_compressed
    save(path, nhwc(make_images(20, seed=0)), np.arange(20))
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry.header_offset for entry in archive.infolist()}
    content = bytearray(path.read_bytes())
    begin = entries["arr_1.npy"] + 60 if name == "labels" else entries["arr_0.npy"] + 4000
    if name == "stored":
        content[:] = content[: len(content) // 2]
    else:
        content[begin : begin + 60] = b"\xff" * len(content[begin : begin + 60])
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}\.npz: .*(copy|copied)"):
        list(open_images(path).batches(8))


@pytest.mark.parametrize(
    "header", [b"", b"\x93NUMPY\x01\x00\x06\x00{'a', ", b"\x93NUMPY\x01\x00\x02\x00{}", b"NUMPY" * 9]
)
def test_a_damaged_header_of_an_array_is_one_error(tmp_path, header):
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        archive.writestr("arr_0.npy", header)
    with pytest.raises(ValueError, match=r"bad\.npz: the content of the npz file is damaged .*write it again"):
        open_images(tmp_path / "bad.npz")


def test_a_zip_file_of_other_things_is_no_npz_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        archive.writestr("arr_0", b"no array")
    with pytest.raises(ValueError, match="expected images under the key arr_0, got no keys"):
        open_images(tmp_path / "bad.npz")


def test_a_compressed_npz_that_was_cut_off_is_one_error(tmp_path):
    np.savez_compressed(tmp_path / "cut.npz", nhwc(make_images(20, seed=0)))
    content = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut\.npz: expected an npz file, .*copied whole"):
        open_images(tmp_path / "cut.npz")


def test_one_figure_whatever_holds_the_images(files, pixel_network):
    runs = [evaluate(files / name, files / "real.npz") for name in ("stored.npz", "compressed.npz", "folder")]
    first = runs[0].record["metrics"]
    assert first.keys() == {
        *("fid", "sfid", "inception_score", "inception_score_std", "inception_score_shuffled"),
        *("precision", "recall", "density", "coverage"),
    }
    for run in runs[1:]:
        assert run.record["metrics"] == pytest.approx(first, rel=1e-9)
    again = evaluate(files / "stored.npz", files / "real.npz")  # the reference's features were kept
    assert again.record["metrics"] == pytest.approx(first, rel=1e-9)
    kept = load_reference(files / "real.npz", torch.device("meta"), progress=False).pooled
    assert {value.device.type for value in (kept.mean, kept.covariance, kept.root)} == {"meta"}


def test_the_record_tells_samples_and_reference(files, pixel_network):
    found = evaluate(files / "stored.npz", files / "real.npz").record
    assert found["kind"] == "generation"
    assert found["samples"]["num_images"] == 20
    assert (found["samples"]["num_classes"], found["samples"]["per_class"]) == (4, [5, 5])
    assert found["samples"]["image_size"] == [32, 32]
    assert re.fullmatch("[0-9a-f]{64}", found["reference"]["sha256"])
    assert found["reference"]["num_images"] == 12
    assert found["reference"]["moments"] == "of its images"
    warnings = "\n".join(found["warnings"])
    assert "20 images, not the 50,000 of the protocol" in warnings
    assert "moments are of 12 images" in warnings


def test_moments_of_a_file_give_the_fid_of_its_images(files, pixel_network):
    reference = load_reference(files / "real.npz", CPU, progress=False)
    moments = {"mu": reference.pooled.mean.numpy(), "sigma": reference.pooled.covariance.numpy()}
    spatial = {"mu_s": reference.spatial.mean.numpy(), "sigma_s": reference.spatial.covariance.numpy()}
    np.savez(files / "all.npz", **moments, **spatial, arr_0=nhwc(make_images(12, seed=1)))
    np.savez(files / "moments.npz", **moments)
    expected = evaluate(files / "stored.npz", files / "real.npz").record["metrics"]
    found = evaluate(files / "stored.npz", files / "all.npz").record
    assert found["metrics"] == pytest.approx(expected, rel=1e-6)
    assert found["reference"]["moments"] == "of the file"
    found = evaluate(files / "stored.npz", files / "moments.npz").record
    assert found["metrics"]["fid"] == pytest.approx(expected["fid"], rel=1e-6)
    assert set(found["metrics_absent"]) == {"sfid", "precision_recall"}
    assert "mu_s" in found["metrics_absent"]["sfid"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": np.zeros((3, 4, 4, 3), np.uint8)}, "expected images under the key arr_0, got images"),
        (
            {"arr_0": np.zeros((3, 4, 4, 3), np.float32)},
            r"expected arr_0 uint8 \[N, H, W, 3\], got float32 \[3, 4, 4, 3\]",
        ),
        ({"arr_0": np.zeros((3, 3, 4, 4), np.uint8)}, r"got uint8 \[3, 3, 4, 4\]"),
        ({"arr_0": np.zeros((2, 4, 4, 3), np.uint8), "arr_1": np.array(["a", None])}, r"bad\.npz: .*Object arrays"),
    ],
)
def test_samples_of_another_form_are_refused(tmp_path, content, message):
    np.savez(tmp_path / "bad.npz", **content)
    with pytest.raises(ValueError, match=message):
        open_images(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"mean": np.zeros(2048)}, "expected moments under mu and sigma, or images under arr_0, got mean"),
        ({"mu": np.zeros(64), "sigma": np.eye(64)}, r"expected mu \[2048\] and sigma \[2048, 2048\] of floats"),
        ({"mu": np.full(2048, np.nan), "sigma": np.eye(2048)}, "not finite"),
        ({"mu": np.full(2048, None), "sigma": np.eye(2048)}, r"bad\.npz: .*Object arrays"),
    ],
)
def test_references_of_another_form_are_refused(tmp_path, content, message):
    np.savez(tmp_path / "bad.npz", **content)
    with pytest.raises(ValueError, match=message):
        load_reference(tmp_path / "bad.npz", CPU, progress=False)


@pytest.mark.parametrize("link", [False, True])
def test_what_is_no_file_among_samples_is_named_and_waits_for_nothing(tmp_path, link):
    def make(path):
        path.symlink_to("/dev/zero") if link else os.mkfifo(path)

    make(tmp_path / "pipe.npz")
    with pytest.raises(ValueError, match=r"expected an npz file or a folder of images, got .*pipe\.npz"):
        open_images(tmp_path / "pipe.npz")
    (tmp_path / "folder").mkdir()
    make(tmp_path / "folder/pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png' .*not a regular file; replace or delete it"):
        list(open_images(tmp_path / "folder").batches(8))


def test_deep_pixels_of_samples_are_scaled_as_everywhere(tmp_path):
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")
    (_, pixels), *_ = open_images(tmp_path).batches(1)
    assert pixels.unique().tolist() == [40_000 >> 8]


def test_other_mistakes_name_got_and_expected(files, pixel_network):
    with pytest.raises(ValueError, match="expected at least 2,049 generated images, got 20"):
        evaluate(files / "stored.npz", files / "real.npz", allow_few_images=False)
    (files / "broken.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="expected an npz file"):
        open_images(files / "broken.npz")
    Image.new("RGB", (40, 32)).save(files / "folder" / "wide.png")
    with pytest.raises(ValueError, match="expected images of one size, got 32 x 32 .* and 32 x 40"):
        list(open_images(files / "folder").batches(4))  # the other size is alone in its batch
    with pytest.raises(FileNotFoundError, match="is not there"):
        open_images(files / "nothing.npz")


def test_images_in_the_order_of_their_classes_are_reported(files, pixel_network, monkeypatch):
    for module in (inception_score, generation):
        monkeypatch.setattr(module, "GROUP_SIZE", 5)
    monkeypatch.setattr(inception_score.GenerationInceptionScore.__init__, "__defaults__", (5,))
    samples = make_images(20, seed=0)
    for name, labels in (("sorted", np.arange(20) // 5), ("shuffled", np.arange(20) % 4)):
        np.savez(files / f"{name}.npz", nhwc(samples), labels)
    ordered, shuffled = (evaluate(files / f"{name}.npz", files / "real.npz").record for name in ("sorted", "shuffled"))
    assert any("not in shuffled order" in text for text in ordered["warnings"])
    assert not any("not in shuffled order" in text for text in shuffled["warnings"])
    assert not generation._is_ordered(None, 20, 100.0, 101.0)
    assert generation._is_ordered(None, 20, 80.0, 101.0)  # nothing known of the classes


def test_an_unfinished_run_of_samples_is_refused(files):
    (files / "stored.npz").rename(files / "samples.npz")
    (files / "folder").rename(files / "images")
    for number, advice in ((30, "makes those that are missing"), (10, "delete the others")):
        (files / "samples.json").write_text(json.dumps({"num_images": number, "seed": 3}))
        for name in ("samples.npz", "images", "."):
            with pytest.raises(ValueError, match=f"expected the {number} images .* got 20: .*{advice}"):
                open_images(files / name)
    (files / "samples.json").write_text("{")
    with pytest.raises(ValueError, match=r"samples\.json is damaged"):
        open_images(files / "samples.npz")


@pytest.mark.parametrize("content", [{"num_images": 30, "seed": 3}, {"num_images": 20, "seed": 3}, [1], {}])
def test_what_scripts_sample_says_is_of_its_own_files_alone(files, content):
    (files / "samples.json").write_text(json.dumps(content))
    for name in ("stored.npz", "folder"):
        assert "seed" not in open_images(files / name).facts
    if "num_images" not in content:  # some other program's file of this name
        (files / "stored.npz").rename(files / "samples.npz")
        assert "seed" not in open_images(files / "samples.npz").facts


class Shades:
    """Makes images of a scale: the larger, the fewer different ones. Counts what it makes."""

    def __init__(self):
        self.number = 0

    def images(self, options):
        def make(labels, seeds):
            self.number += len(seeds)
            noise = torch.stack([make_images(1, seed=seed)[0] for seed in seeds]).float()
            return (128 + (noise - 128) / options["guidance"]).to(torch.uint8)

        made_by = {"sampling": {"kind": "Shades", **options}, "seed": 7, "generator_sha256": "0" * 64}
        return GeneratedImages(make, torch.arange(20) % 4, range(100, 120), made_by)


def test_images_of_a_generator_and_of_a_file_of_them_have_the_same_figures(files, pixel_network):
    images = Shades().images({"guidance": 1.0, "temperature": 1.0})
    (files / "g.ckpt").write_bytes(b"generator")
    model = {"method": "shades", "checkpoint_path": "g.ckpt", "checkpoint_sha256": "0", "weights_used": None}
    run = evaluate_images(images, {**model, "num_params": 343_000_000}, ADM, setting(files / "real.npz"))
    pixels = torch.cat([pixels for _, pixels in images.batches(6)])
    np.savez(files / "made.npz", nhwc(pixels))
    again = evaluate(files / "made.npz", files / "real.npz")
    assert run.record["metrics"] == pytest.approx(again.record["metrics"], rel=1e-9)
    assert run.record["samples"]["sampling"]["guidance"] == 1.0
    text = write.generation_files(files / "out", run)
    assert "| shades | 343M | 1 | 1 |" in text
    for name in ("fid", "inception_score", "precision", "recall"):
        assert f"{run.record['metrics'][name]:.2f} (20 images)" in text
    page = (files / "out" / "report.html").read_text()
    assert all(f"<span>{name}</span>" in page for name in ("fid", "precision", "recall", "coverage"))


def test_a_sweep_does_not_sample_a_finished_point_again(files, pixel_network):
    shades = Shades()
    points = sweep.points(["guidance=1,1.5,2", "temperature=1,1.1"])
    assert len(points) == 6
    model = {"method": "shades", "checkpoint_path": "g.ckpt", "checkpoint_sha256": "0", "weights_used": None}
    arguments = (shades.images, {**model, "num_params": None}, ADM, setting(files / "real.npz"), files / "sweep")
    first = sweep.run(points[:4], *arguments)
    assert shades.number == 4 * 24  # 20 images in batches of 8
    whole = sweep.run(points, *arguments)
    assert shades.number == 6 * 24
    assert whole["points"][:4] == first["points"]
    assert [point["options"] for point in whole["points"]] == points
    written = json.loads((files / "sweep" / "sweep.json").read_text())
    assert written["best_fid"] == min(written["points"], key=lambda point: point["metrics"]["fid"])["options"]
    assert all(point["sampling"]["guidance"] == point["options"]["guidance"] for point in written["points"])
    page = (files / "sweep" / "sweep.html").read_text()
    assert page.count("<svg ") == 3
    assert page.count("report.html") == 6
    (files / "sweep" / written["points"][0]["results"]).write_text("{damaged")
    sweep.run(points, *arguments)
    assert shades.number == 7 * 24


def test_a_sweep_without_fid_names_no_best_point(files, pixel_network):
    model = {"method": "shades", "checkpoint_path": "g.ckpt", "checkpoint_sha256": "0", "weights_used": None}
    rest = ADM.configured([], "inception_score"), setting(files / "real.npz"), files / "sweep"
    found = sweep.run(sweep.points(["guidance=1,2"]), Shades().images, {**model, "num_params": None}, *rest)
    assert found["best_fid"] is None
    page = (files / "sweep" / "sweep.html").read_text()
    assert "lowest FID" not in page
    assert page.count("<svg ") == 1  # of the Inception Score


def test_every_line_of_a_sweeps_charts_is_drawn_by_itself(monkeypatch):
    drawn = []
    monkeypatch.setattr(charts, "_curves", lambda title, x, y, lines: drawn.append(lines))
    temperatures = [[1.0, 1.0], [1.0, 1.1], *range(2, 15)]
    points = [
        {"options": {"guidance": g, "temperature": t}, "metrics": {"fid": 1.0, "inception_score": None}}
        for g, t in itertools.product((1.5, 2), temperatures)
    ]
    charts.sweep(points)
    (lines,) = drawn
    assert len(lines) == 15
    assert lines["temperature 1.0/1.1"] == [(1.5, 1.0), (2, 1.0)]
    monkeypatch.undo()
    (chart,) = charts.sweep(points)
    assert all(f"temperature {t}<" in chart.svg for t in (*range(2, 15), "1.0/1.0"))
    (swapped,) = charts.sweep([{**p, "options": dict(reversed(p["options"].items()))} for p in points[:2]])
    assert "1.0/1.1" in swapped.svg  # on the axis


def test_a_point_that_cannot_be_sampled_ends_a_sweep_before_the_first(files, pixel_network):
    shades = Shades()

    def images(options):
        if options["guidance"] < 0:
            raise ValueError(f"guidance must be at least 0, got {options['guidance']}")
        return shades.images(options)

    model = {"method": "shades", "checkpoint_path": "g.ckpt", "checkpoint_sha256": "0", "weights_used": None}
    rest = ({**model, "num_params": None}, ADM, setting(files / "real.npz"), files / "sweep")
    with pytest.raises(ValueError, match=r"at least 0, got -1"):
        sweep.run(sweep.points(["guidance=2,-1"]), images, *rest)
    assert shades.number == 0
    assert not (files / "sweep").exists()


def test_the_words_of_a_sweep():
    assert sweep.points(["guidance=1.9/2.0,3"]) == [{"guidance": [1.9, 2.0]}, {"guidance": 3.0}]
    whole = [point["top_k"] for point in sweep.points(["top_k=0,600"])]
    assert whole == [0, 600]
    assert all(isinstance(value, int) for value in whole)  # as that option must be
    for words in (["guidance"], ["guidance=a"], ["guidance=1,1"], ["guidance=1", "guidance=2"], []):
        with pytest.raises(ValueError, match="guidance"):
            sweep.points(words)


def test_the_published_table(tmp_path):
    kind, rows = table_rows.load(CONFIGS / "table_generation.yaml", CONFIGS)
    compared = table.compare(rows, tmp_path, tmp_path, None, kind)
    text = write.table_files(tmp_path, compared, kind)
    assert "| Open-MAGVIT2 AR-B | 343M | 1.9, 2 | 1 | 3.08 (published) | 258.26 (published) |" in text
    assert all(entry["state"] == "published" for entry in compared)


def test_the_command(files, pixel_network):
    command = [ROOT / "scripts" / "evaluate.py", "--reference", files / "real.npz", "--device", "cpu"]
    result = run_here(*command, "--samples", files / "stored.npz", "--allow-few-images", "--output", files / "out")
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (files / "out").iterdir()} == {"results.json", "row.md", "report.html"}
    page = (files / "out" / "report.html").read_text()
    assert page.count("<img") == 20
    assert "stored: generation" in page
    for flags, message in [
        (["--samples", files / "stored.npz"], "expected at least 2,049 generated images, got 20"),
        *(
            (["--samples", files / "stored.npz", *words], f"{words[0]}: for --generator alone")
            for words in (
                *(["--sweep", "guidance=1"], ["--sampling", "guidance=1"], ["--num-images", "5"], ["--seed", "1"]),
                *(["--classes", "3"], ["--class-names", "x"], ["--tokenizer", "x"], ["--weights", "raw"]),
                *(["--precision", "bf16"], ["--compile"], ["--grid", "4"], ["--head-width", "32"]),
            )
        ),
        (["--samples", files / "gone.npz"], "is not there"),
        (["--sweep", "guidance=1"], "needs --generator"),
        (
            ["--generator", "x", "--sweep", "top_k=1", "guidance=2", "--sampling", "guidance=7"],
            "guidance in --sweep and in --sampling",
        ),
        *((["--generator", "x", "--sampling", word], "got " + repr(word)) for word in ("guidance=", "guidance=: :")),
    ]:
        result = run_here(*command, *flags, "--output", files / "bad")
        assert result.returncode > 0
        assert message in result.stderr


@pytest.mark.long
def test_the_command_with_a_generator_and_a_sweep(shared, files, pixel_network):
    """The published form at toy size: the generator and its tokenizer are of one file, and sample for real."""
    generator = shared / "fixtures" / "published_ar_tiny.ckpt"
    command = [ROOT / "scripts" / "evaluate.py", "--generator", generator, "--grid", "4", "4", "--head-width", "32"]
    command += ["--num-images", "10", "--classes", "0", "1", "--batch-size", "5", "--device", "cpu"]
    command += ["--reference", files / "folder", "--allow-few-images"]
    result = run_here(*command, "--sampling", "guidance=2", "--output", files / "one")
    assert result.returncode == 0, result.stderr
    one = json.loads((files / "one" / "results.json").read_text())
    assert [group["guidance"] for group in one["samples"]["sampling"]["groups"]] == [2.0, 2.0]
    assert (one["samples"]["num_classes"], one["samples"]["per_class"]) == (2, [5, 5])
    assert one["model"]["checkpoint_sha256"] == sha256_of(generator)
    result = run_here(*command, "--sweep", "guidance=1,2,4", "--output", files / "sweep")
    assert result.returncode == 0, result.stderr
    points = json.loads((files / "sweep" / "sweep.json").read_text())["points"]
    assert [point["options"] for point in points] == [{"guidance": scale} for scale in (1.0, 2.0, 4.0)]
    assert len({point["metrics"]["fid"] for point in points}) == 3
    for name in ("fid", "inception_score", "precision", "recall"):
        assert points[1]["metrics"][name] == pytest.approx(one["metrics"][name], rel=1e-9)
    assert "<svg " in (files / "sweep" / "sweep.html").read_text()
    other = run_here(*command, "--head-width", "64", "--sweep", "guidance=1,2,4", "--output", files / "sweep")
    assert other.returncode == 0, other.stderr
    again = json.loads((files / "sweep" / "sweep.json").read_text())["points"]
    assert not {point["fingerprint"] for point in again} & {point["fingerprint"] for point in points}


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine to look at pages with")
@pytest.mark.parametrize("width", [1280, 400])
def test_the_pages_fit(files, pixel_network, width):
    shades = Shades()
    model = {"method": "shades", "checkpoint_path": "g.ckpt", "checkpoint_sha256": "0", "weights_used": None}
    points = sweep.points(["guidance=1,1.5,2", "temperature=1,1.1"])
    sweep.run(points, shades.images, {**model, "num_params": None}, ADM, setting(files / "real.npz"), files / "sweep")
    (report, *_) = (files / "sweep" / "points").rglob("report.html")
    for page in (files / "sweep" / "sweep.html", report):
        seen = look(page.read_text(), files, width)
        assert seen["page"] <= width
        assert seen["images"] == page.read_text().count("<img")
