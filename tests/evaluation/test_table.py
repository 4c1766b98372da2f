"""The comparison of several tokenizers: measured, reused, published, failed, each as such in all three files."""

import csv
import dataclasses
import json
import re

import pytest
import torch
import yaml
from commands import ROOT, run_here
from small_checkpoint import save_small_checkpoint

from open_magvit2.common import published_files
from open_magvit2.data.dataset import TransformedDataset
from open_magvit2.data.sources.synthetic import SyntheticImages
from open_magvit2.evaluation import originals, provenance, table, table_rows
from open_magvit2.evaluation import protocol as protocols
from open_magvit2.evaluation.report import comparison, kinds, markdown, page, record, write
from open_magvit2.evaluation.run import Setting

CONFIGS = ROOT / "configs" / "evaluation"
METRICS = "psnr,codebook_usage"
BASE = {"tokens": "8x8", "train_data": "nothing", "codebook_size": 64, "image_size": 32, "protocol": "paper"}
OURS = {**BASE, "family": "open_magvit2", "published": {"rfid": 1.53, "psnr": 21.5, "codebook_utilization": 1.0}}
ROWS = [
    {**OURS, "method": "Small | one", "checkpoint": "small.ckpt", "remark": "PSNR per batch"},
    {**OURS, "method": "Broken", "checkpoint": "broken.ckpt"},
    {**OURS, "method": "Not here", "checkpoint": "elsewhere.ckpt"},
    {**BASE, "method": "Foreign", "checkpoint": "foreign.pt", "published": {"rfid": 2.19, "psnr": None}},
    {**BASE, "method": "Unreleased", "never_released": True, "published": {"rfid": 1.28}, "image_size": 64},
]


@pytest.fixture
def place(tmp_path):
    """A table's YAML and a folder of checkpoints: one good, one cut short, one of a family nobody wrote."""
    path = save_small_checkpoint(tmp_path / "checkpoints" / "small.ckpt")
    (path.parent / "broken.ckpt").write_bytes(path.read_bytes()[:1000])
    (path.parent / "foreign.pt").write_bytes(b"who knows")
    (tmp_path / "table.yaml").write_text(yaml.safe_dump({"rows": ROWS}))
    return tmp_path


def setting(number=5, limit=None):
    def images(resize, size):
        dataset = TransformedDataset(
            SyntheticImages(number, max(size), split="validation"), originals.make_transform(resize, size)
        )
        return dataset, provenance.drawn(f"drawn {size}", number)

    return Setting(images, torch.device("cpu"), limit, 4, check="off", progress=False)


def compare(place, *, metrics=METRICS, changes=(), given=None, **options):
    kind, rows = table_rows.load(place / "table.yaml", CONFIGS, list(changes), metrics, **options)
    return table.compare(rows, place / "out", place / "checkpoints", given, kind)


def test_every_row_says_where_its_figures_come_from(place):
    compared = compare(place, given=setting())
    small, broken, missing, foreign, unreleased = compared
    assert [row["state"] for row in compared] == ["evaluated", "failed", "published", "published", "published"]

    results = json.loads((place / "out" / small["results"]).read_text())
    assert small["figures"]["psnr"] == {
        "value": results["metrics"]["psnr_batch4"],
        "source": "measured",
        "name": "psnr_batch4",
        "published": 21.5,
        "standard_error": None,  # of a mean over groups of images, not over images
    }
    assert small["figures"]["codebook_utilization"]["value"] == results["metrics"]["codebook_utilization"]
    assert small["figures"]["rfid"]["source"] == "published"  # not among the metrics: the authors' stays, and says so
    assert small["measured"]["num_images"] == 5
    assert (place / "out" / small["results"]).with_name("report.html").is_file()

    assert "broken.ckpt" in broken["error"]
    assert broken["figures"]["rfid"] == {"value": 1.53, "source": "published", "name": "rfid"}
    assert "elsewhere.ckpt is not in" in missing["notes"][0]
    assert "cannot be loaded yet" in foreign["notes"][0]
    assert foreign["figures"]["psnr"]["value"] is None
    assert "never released" in unreleased["notes"][0]


@pytest.mark.long
def test_a_second_call_reuses_what_is_the_same_and_nothing_else(place, monkeypatch):
    first = compare(place, given=setting())[0]
    evaluated = []
    real = table.evaluate_checkpoint
    monkeypatch.setattr(
        table, "evaluate_checkpoint", lambda *arguments: (evaluated.append(arguments[0].name), real(*arguments))[1]
    )
    second = compare(place, given=setting())[0]
    assert "small.ckpt" not in evaluated
    assert second == {**first, "state": "reused"}

    def evaluates(**options):
        evaluated.clear()
        compare(place, **{"given": setting(), **options})
        return "small.ckpt" in evaluated

    assert evaluates(given=setting(number=6))  # other images
    assert evaluates(given=setting(limit=3))  # fewer of them
    assert evaluates(changes=["weights=raw"])  # another protocol
    assert evaluates(metrics="psnr")
    assert not evaluates()
    content = torch.load(place / "checkpoints" / "small.ckpt", weights_only=True)
    content["state_dict"] = content["current_model_state"]
    torch.save(content, place / "checkpoints" / "small.ckpt")
    assert evaluates()  # another file under the same name


def test_earlier_results_serve_where_file_and_images_are_not_here(place):
    first = compare(place, given=setting())[0]
    (place / "checkpoints" / "small.ckpt").unlink()
    reused = compare(place)[0]
    assert reused == {**first, "state": "reused"}
    assert compare(place, changes=["precision=bf16"])[0]["state"] == "published"
    other = {**reused, "measured": {**reused["measured"], "fingerprint": "another"}}
    assert "different images" in markdown.legend([reused, other])
    assert "different images" not in markdown.legend([reused, {**other, "image_size": 64}])
    assert compare(place, given=setting(number=6))[0]["state"] == "published"
    path = place / "out" / first["results"]
    path.write_text(json.dumps({n: v for n, v in json.loads(path.read_text()).items() if n != "dataset"}))
    assert compare(place)[0]["state"] == "published"
    (place / "out" / first["results"]).write_text("{ cut short")
    assert compare(place)[0]["state"] == "published"


def test_results_without_a_figure_are_reused_until_its_weights_come(
    place, no_networks, random_network_files, monkeypatch
):
    rows = compare(place, metrics="psnr,lpips_alex", given=setting())
    assert "left out: lpips_alex" in rows[0]["notes"]
    reasons = markdown.left_out([rows[0], *rows])  # once, however many rows lack the figure
    assert len(reasons) == 1
    assert reasons[0].startswith("lpips_alex: alexnet-owt-7be5be79.pth")
    text = write.table_files(place / "out", rows)
    assert text.count("alexnet-owt") == (place / "out" / "table.html").read_text().count("alexnet-owt") > 0
    assert text.index("## Left out") < text.index("alexnet-owt")
    assert compare(place, metrics="psnr,lpips_alex", given=setting())[0]["state"] == "reused"
    monkeypatch.setattr(table, "_are_here_now", lambda reason: "alexnet" in reason)
    assert compare(place, metrics="psnr,lpips_alex", given=setting())[0]["state"] == "evaluated"


def test_the_first_images_check_is_a_rows_own_error(place):
    given = setting()
    stopping = dataclasses.replace(given, check="stop")
    small = compare(place, given=stopping)[0]
    assert small["state"] == "failed"
    assert "SanityError" in small["error"]


def test_the_error_of_a_row_advises_what_changes_that_row_alone(place):
    save_small_checkpoint(place / "checkpoints" / "small.ckpt", image_size=16)
    (row, *_) = compare(place, given=setting())
    assert row["state"] == "failed"
    assert "cross_resolution: true in the row's YAML" in row["error"]
    assert "--allow" not in row["error"]


def test_the_files_mark_every_figure(place):
    compared = compare(place, given=setting())
    write.table_files(place / "out", compared)
    assert json.loads((place / "out" / "table.json").read_text())["rows"] == compared
    text = (place / "out" / "table.md").read_text()
    assert text.index("## 32 x 32") < text.index("## 64 x 64")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    psnr = f"{compared[0]['figures']['psnr']['value']:.2f}"
    assert f"**{psnr}** (measured, batch of 4, 5 images)" in lines[2]
    assert "1.53 (published)" in lines[2]
    assert f"psnr 21.50 ({compared[0]['figures']['psnr']['value'] - 21.5:+.2f} here)" in text
    assert lines[2].startswith("| Small \\| one | 2D | 8x8 | nothing | 64 |")
    assert "broken.ckpt (failed)" in lines[3]
    assert "never released" in text
    html = (place / "out" / "table.html").read_text()
    assert html.count('class="mark measured"') == 2
    assert html.count('class="mark published"') == 1 + 3 + 3 + 1 + 1
    assert f'href="{compared[0]["results"].replace("results.json", "report.html")}"' in html
    assert not re.search(r'(src|href)="http', html)  # it opens offline


def test_a_common_protocol_stands_next_to_each_rows_own(place):
    kind, rows = table_rows.load(place / "table.yaml", CONFIGS, [], METRICS)
    common = table_rows.load(place / "table.yaml", CONFIGS, [], METRICS, common="titok")[1]
    compared = table.compare(rows, place / "out", place / "checkpoints", setting(), kind, common)
    text = write.table_files(place / "out", compared)
    own, other = compared[0]["figures"]["psnr"], compared[0]["common"]
    assert (compared[0]["protocol"], other["protocol"]) == ("paper", "titok")
    utilization = other["figures"]["codebook_utilization"]
    assert utilization["source"] == "measured"
    assert (
        f"| Small \\| one | 8x8 | PSNR | paper (5 images) | 21.50 | {own['value']:.2f} | {own['value'] - 21.5:+.2f} |"
        in text
    )
    assert "Measured, titok" in text
    lines = list(csv.DictReader((place / "out" / "table.csv").read_text().splitlines()))
    assert [line["method"] for line in lines] == [row["method"] for row in ROWS]
    assert float(lines[0]["psnr"]) == own["value"]
    assert float(lines[0]["codebook_utilization_common_protocol"]) == utilization["value"]
    assert int(lines[0]["num_params"]) > 0
    latex = (place / "out" / "table.tex").read_text()
    assert f"\\textbf{{{own['value']:.2f}}}" in latex
    assert f"\n% PSNR {own['value']:.2f} of Small | one: measured, batch of 4, 5 images\n" in latex
    assert latex.count(" & ") == 6 * 7
    assert latex.count("\\midrule") == 2
    assert "data:image/jpeg" in (place / "out" / "table.html").read_text()
    pictures = (place / "out" / compared[0]["results"]).with_name("pictures.npz")
    pictures.write_bytes(pictures.read_bytes()[:2000])
    write.table_files(place / "out", compared)
    assert "data:image/jpeg" not in (place / "out" / "table.html").read_text()


def test_the_csv_has_every_metric_and_says_which_one_a_figure_is(place):
    """One row quotes psnr_batch4, the other psnr_image: each has both."""
    rows = [{**ROWS[0], "protocol": "paper"}, {**ROWS[0], "method": "Other", "protocol": "ldm"}]
    (place / "table.yaml").write_text(yaml.safe_dump({"rows": rows}))
    found = compare(place, given=setting(), changes=["rfid=null", "ssim=null"])
    lines = list(csv.DictReader(comparison.to_csv(kinds.RECONSTRUCTION, found).splitlines()))
    assert [line["psnr_metric"] for line in lines] == ["psnr_batch4", "psnr_image"]
    for line, entry in zip(lines, found, strict=True):
        metrics = {name: float(line[f"metrics.{name}"]) for name in entry["measured"]["metrics"]}
        assert metrics == entry["measured"]["metrics"]
        assert float(line["psnr"]) == metrics[line["psnr_metric"]]
        assert line["num_images"] == "5"


def test_bits_per_pixel_are_of_the_images_that_were_measured(place):
    entry = compare(place, given=setting())[0]
    assert comparison.bits_per_pixel(entry) == 8 * 8 * 6 / 32**2
    own_sizes = {**entry, "image_size": 256, "measured": {**entry["measured"], "image_size": None}}
    assert comparison.bits_per_pixel(own_sizes) is None


def test_figures_of_different_image_sizes_are_in_charts_of_their_own(place):
    rows = [{**ROWS[2], "image_size": size, "method": name} for size in (32, 64) for name in ("A", "B")]
    (place / "table.yaml").write_text(yaml.safe_dump({"rows": rows}))
    html = page.render_table(kinds.RECONSTRUCTION, compare(place), "now")
    titles = re.findall("<h3>(rFID against bits per pixel.*?)</h3>", html)
    assert titles == [f"rFID against bits per pixel, {size} x {size}" for size in (32, 64)]


def test_numbers_among_the_facts_are_text_like_those_of_the_file_that_is_loaded(place):
    """`tokens: 32` of a 1-D tokenizer needs no quotation marks."""
    (place / "table.yaml").write_text(yaml.safe_dump({"rows": [{**ROWS[2], "tokens": 32}]}))
    text = write.table_files(place / "out", compare(place))
    assert "- Not here, 32: elsewhere.ckpt is not in" in text


def test_a_file_that_two_rows_share_is_evaluated_once_under_one_protocol(place, monkeypatch):
    """As vq-f8 is, which two groups of authors measured."""
    rows = [ROWS[0], {**ROWS[0], "method": "Again", "protocol": "titok", "published": {"rfid": 1.14}}]
    (place / "table.yaml").write_text(yaml.safe_dump({"rows": rows}))
    evaluated = []
    real = table.evaluate_checkpoint
    monkeypatch.setattr(
        table, "evaluate_checkpoint", lambda *arguments: (evaluated.append(arguments[0].name), real(*arguments))[1]
    )
    first, second = compare(place, given=setting(), common="paper")
    assert evaluated == ["small.ckpt"]
    assert first["figures"]["psnr"]["value"] == second["figures"]["psnr"]["value"]
    assert (first["results"], second["method"]) == (second["results"], "Again")
    assert [row["figures"]["rfid"]["value"] for row in (first, second)] == [1.53, 1.14]


def test_a_row_says_what_was_loaded_and_that_it_is_another_model(place):
    """Recognised from the tensors, whatever the row, and the name of the file, promise."""
    rows = [{**ROWS[0], "file": "imagenet_256_B"}, {**ROWS[0], "codebook_size": 18, "tokens": "4x4"}]
    (place / "table.yaml").write_text(yaml.safe_dump({"rows": rows}))
    first, second = compare(place, given=setting())
    parameters = first["measured"]["num_params"]
    assert first["measured"]["family"] == "open_magvit2"
    loaded = f"open_magvit2 of {parameters / 1e6:.2f} M parameters"
    words = f"not the model that the row names: the file holds {loaded}; imagenet_256_B has 65.49 M"
    assert words in first["notes"]
    assert {"tokens is 8x8, the table's file says 4x4", "codebook size is 64, the table's file says 18"} <= set(
        second["notes"]
    )
    assert (second["facts"]["tokens"], second["facts"]["codebook_size"]) == ("8x8", 64)
    text = write.table_files(place / "out", [first, second])
    assert words in text
    assert text.count(f"{loaded}; ema weights; file ") == 2

    model = {"family": "open_magvit2", "num_params": 115_134_115}
    assert table._other_model("imagenet_256_L", model) is None
    told = table._other_model("imagenet_256_B", model)
    assert "the size of imagenet_256_L, pretrain256_262144; imagenet_256_B has" in told


def test_rows_of_one_name_are_told_apart(place):
    rows = [{**ROWS[2], "checkpoint": name} for name in ("a.ckpt", "b.ckpt")]
    rows += [{**ROWS[3], "image_size": size} for size in (32, 64)] + [ROWS[1]]
    (place / "table.yaml").write_text(yaml.safe_dump({"rows": rows}))
    compared = compare(place)
    named = comparison.names_of_rows(compared)
    expected = ["Not here (a.ckpt)", "Not here (b.ckpt)", "Foreign (32)", "Foreign (64)", "Broken"]
    assert [named[id(row)] for row in compared] == expected
    assert "- Not here (b.ckpt), 8x8: b.ckpt is not in" in markdown.comparison(kinds.RECONSTRUCTION, compared)


def test_the_table_of_the_field_loads_and_can_be_cut_to_a_size():
    kind, rows = table_rows.load(CONFIGS / "table.yaml", CONFIGS)
    assert kind == "reconstruction"
    assert (len(rows), len(table_rows.load(CONFIGS / "table.yaml", CONFIGS, image_size=(128, 128))[1])) == (31, 3)
    ours = {row.checkpoint for row in rows if row.family == "open_magvit2"}
    assert ours >= {f"imagenet_{size}_{model}.ckpt" for size in (128, 256) for model in "BL"}
    assert {row.method for row in rows if row.checkpoint is None} == {"ViT-VQGAN", "MAGVIT-v2", "BSQ-ViT"}
    assert {row.method for row in rows if row.never_released} == {"ViT-VQGAN", "MAGVIT-v2"}
    files = {file.name: file for file in published_files.published()}
    assert all(files[row.file].family == row.family and files[row.file].licence for row in rows if row.file)
    assert {row.family for row in rows if row.family} == {
        *("vqgan", "llamagen", "maskgit", "titok", "vit_vqgan", "omnitokenizer", "ibq", "open_magvit2", "bsq_vit")
    }
    figures = {(row.method, row.facts["tokens"], row.size): row.published["rfid"] for row in rows}
    assert figures["Open-MAGVIT2 L", "16x16", (256, 256)] == 1.17
    assert protocols.load("paper", CONFIGS) == next(row for row in rows if row.method == "Open-MAGVIT2 B").protocol


def test_a_published_psnr_is_compared_with_the_same_psnr():
    """The figures of groups of four images lie 0.6 to 0.9 dB below those of single images."""
    rows = [row for row in table_rows.load(CONFIGS / "table.yaml", CONFIGS)[1] if row.published.get("psnr")]
    of_four = {(row.method, row.size) for row in rows if "PSNR over groups of four" in row.remark}
    assert of_four == {(row.method, row.size) for row in rows if row.protocol.psnr == "psnr_batch4"}


def test_one_protocol_can_be_put_in_the_place_of_every_rows_own():
    own = table_rows.load(CONFIGS / "table.yaml", CONFIGS)[1]
    assert {row.protocol.name for row in own} == {
        "paper",
        "seed_voken",
        "taming",
        "ldm",
        "llamagen",
        "titok",
        "vitvq",
        "omnitokenizer",
    }
    common = table_rows.load(CONFIGS / "table.yaml", CONFIGS, common="paper")[1]
    assert all(row.protocol == protocols.load("paper", CONFIGS) for row in common)


def test_by_command_line_a_failed_row_fails_the_command_but_not_the_table(place):
    command = [ROOT / "scripts" / "evaluate.py", "--table", place / "table.yaml", "--device", "cpu"]
    command += ["--output", place / "out", "--metrics", METRICS]
    assert "0 of 5 rows measured" in run_here(*command, "--checkpoints", place / "nowhere").stdout
    result = run_here(*command, "--checkpoints", place / "checkpoints", "--built-in", "5")
    assert result.returncode == 1
    assert "1 of 5 rows measured" in result.stdout
    states = [row["state"] for row in json.loads((place / "out" / "table.json").read_text())["rows"]]
    assert states == ["evaluated", "failed", "published", "published", "published"]


FAMILY = """
import torch
from small_tokenizers import CoarseTokenizer, SequenceTokenizer

class Continuous(CoarseTokenizer):
    codebook_size = None

    def reconstruct(self, image):
        return image * 0.9, None

def load(checkpoint):
    kind = torch.load(checkpoint, weights_only=True)
    return {"grid": CoarseTokenizer, "row": SequenceTokenizer, "continuous": Continuous}[kind]()
"""


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A table of two tokenizers of somebody's own family, which has no EMA weights: one of a grid, one of a row."""
    (tmp_path / "somebody").mkdir()
    (tmp_path / "somebody" / "tokenizer.py").write_text(FAMILY)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for kind in ("grid", "row", "continuous"):
        torch.save(kind, tmp_path / "checkpoints" / f"{kind}.pt")
    common = {**BASE, "codebook_size": 512, "family": "somebody.tokenizer"}
    rows = [
        {**common, "method": "Foreign grid", "checkpoint": "grid.pt"},
        {**common, "method": "Foreign row", "checkpoint": "row.pt", "token_type": "1D", "tokens": "64"},
    ]
    (tmp_path / "table.yaml").write_text(yaml.safe_dump({"rows": rows}))
    return tmp_path


def test_a_family_without_ema_weights_and_one_of_1d_tokens_through_the_command_line(foreign):
    command = [ROOT / "scripts" / "evaluate.py", "--table", foreign / "table.yaml", "--device", "cpu"]
    command += ["--checkpoints", foreign / "checkpoints", "--built-in", "5", "--metrics", f"{METRICS},bits_per_pixel"]
    assert run_here(*command, "--output", foreign / "out").returncode == 0
    grid, row = json.loads((foreign / "out" / "table.json").read_text())["rows"]
    assert grid["state"] == row["state"] == "evaluated"
    assert (row["facts"]["token_type"], row["facts"]["tokens"]) == ("1D", "64")
    assert row["figures"] == grid["figures"]  # the same tokens in another order
    for entry in (grid, row):
        results = record.read(foreign / "out" / entry["results"])
        assert results["protocol"]["weights"] == "ema"
        assert results["model"]["weights_used"] == entry["measured"]["weights_used"] == "raw"
    for name in ("table.md", "table.html"):
        text = (foreign / "out" / name).read_text()
        assert "raw weights" in text
        assert "ema" not in text
    text = (foreign / "out" / row["results"]).with_name("report.html").read_text()
    assert "Open-MAGVIT2" not in text
    assert "(raw weights)" in text


def test_an_autoencoder_without_tokens_is_a_row_as_any_other(foreign):
    """An upper bound: its row has no codebook to give."""
    rows = yaml.safe_load((foreign / "table.yaml").read_text())["rows"]
    row = {name: value for name, value in rows[0].items() if name != "codebook_size"}
    row |= {"method": "Continuous", "checkpoint": "continuous.pt", "tokens": "-"}
    (foreign / "table.yaml").write_text(yaml.safe_dump({"rows": [rows[0], row]}))
    command = [ROOT / "scripts" / "evaluate.py", "--table", foreign / "table.yaml", "--device", "cpu"]
    command += ["--checkpoints", foreign / "checkpoints", "--built-in", "5", "--metrics", "psnr,bits_per_pixel"]
    result = run_here(*command, "--output", foreign / "out")
    assert result.returncode == 0, result.stderr
    assert "| Continuous | continuous | - | nothing | - |" in result.stdout
    latex = (foreign / "out" / "table.tex").read_text()
    assert "Continuous & continuous & - & nothing & - &" in latex
    lines = list(csv.DictReader((foreign / "out" / "table.csv").read_text().splitlines()))
    assert [line["codebook_size"] for line in lines] == ["512", "-"]


GENERATION = kinds.Kind(
    title="generation",
    table_title="Comparison of generators",
    facts=(kinds.Column("type", "Type"), kinds.Column("num_params", "#Para.", "{:,}")),
    figures=(kinds.Column("gfid", "gFID", "{:.2f}"), kinds.Column("is", "IS", "{:.1f}")),
    further=(),
    cards=("recall",),
    describe=lambda found: {"type": found["model"]["type"], "num_params": found["model"]["num_params"]},
)


def test_records_of_another_kind_need_only_a_list_of_columns(tmp_path, monkeypatch):
    """A record of generated images through results.json, row, page and table."""
    monkeypatch.setitem(kinds.KINDS, "generation", GENERATION)
    protocol = dataclasses.replace(protocols.load("paper", CONFIGS), num_images=100)
    model = {"method": "AR-B", "type": "AR", "num_params": 343, "weights_used": "raw", "checkpoint_path": "a/AR_B.ckpt"}
    path = tmp_path / "out" / "AR-B" / "results.json"
    found = record.write_json(
        path,
        {
            **record.envelope("generation", [], ["100 images are few"]),
            "metrics": {"gfid": 3.081, "is": 258.26, "recall": 0.5},
            "metrics_std_err": {},
            "metrics_absent": {"precision": "no reference images"},
            "subset": None,
            "num_images": 100,
            "protocol": {**protocol.as_dict(), "image_size": 256, "transform": "cfg 2.0"},
            "dataset": {"fingerprint": "none", "fingerprint_mode": "none"},
            "model": {**model, "checkpoint_sha256": "0" * 64},
        },
    )
    assert markdown.header(GENERATION).startswith("| Method | Type | #Para. | gFID | IS | Checkpoint |\n")
    assert markdown.row(found) == "| AR-B | AR | 343 | 3.08 | 258.3 | AR_B.ckpt |"
    html = page.render(found)
    for text in ("AR-B: generation", "258.26", "recall", "100 images are few", "precision is absent"):
        assert text in html

    row = {
        "type": "AR",
        "num_params": 343,
        "image_size": 256,
        "protocol": "paper",
        "published": {"gfid": 3.08, "is": 258},
    }
    rows = [{**row, "method": "AR-B", "checkpoint": "AR_B.ckpt"}, {**row, "method": "AR-L", "checkpoint": "AR_L.ckpt"}]
    (tmp_path / "table.yaml").write_text(yaml.safe_dump({"kind": "generation", "rows": rows}))
    kind, loaded = table_rows.load(tmp_path / "table.yaml", CONFIGS, ["num_images=100"])
    found["protocol"] |= loaded[0].protocol.as_dict()
    record.write_json(path, found)
    compared = table.compare(loaded, tmp_path / "out", tmp_path, None, kind)
    assert [entry["state"] for entry in compared] == ["reused", "published"]
    text = write.table_files(tmp_path / "out", compared, kind)
    assert "| AR-B | AR | 343 | **3.08** (measured) | **258.3** (measured) | AR_B.ckpt |" in text
    assert "| AR-L | AR | 343 | 3.08 (published) | 258.0 (published) | AR_L.ckpt |" in text
    assert "Comparison of generators" in (tmp_path / "out" / "table.html").read_text()
