"""The whole evaluation through the library: results.json in its schema, the Markdown row, and the page."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ROOT
from small_tokenizers import CoarseTokenizer, IdentityTokenizer, SequenceTokenizer, make_images, make_loader

from open_magvit2.evaluation import provenance
from open_magvit2.evaluation.protocol import Protocol
from open_magvit2.evaluation.report import charts, gallery, markdown, page, record, write
from open_magvit2.evaluation.run import Setting, evaluate_tokenizer, subset_suffix

NUMBER = 13
PROTOCOL = Protocol(
    "paper",
    metrics=("psnr", "ssim", "l1", "codebook_usage", "clamp_fraction", "bits_per_pixel"),
    psnr="psnr_batch4",
    ssim="ssim_paper",
)


def evaluate(tmp_path, tokenizer=None, protocol=PROTOCOL, limit=None, check="stop", size=32, number=NUMBER, method=""):
    checkpoint = tmp_path / "model|1.ckpt"
    checkpoint.write_bytes(b"weights")
    tokenizer = tokenizer or CoarseTokenizer()
    samples = [
        {**{k: v[0] for k, v in batch.items()}, "label": -1} for batch in make_loader(make_images(number, size), 1)
    ]
    facts = provenance.drawn("thirteen images", number)
    model = provenance.model(tokenizer, "coarse", checkpoint, method, "nothing")
    setting = Setting(lambda resize, size: (samples, facts), torch.device("cpu"), limit, 4, check=check, progress=False)
    return evaluate_tokenizer(tokenizer, model, protocol, (size, size), setting)


def write_record(tmp_path, run):
    return record.write_json(tmp_path / "results.json", run.record)


@pytest.fixture
def written(tmp_path):
    summary = write.run_files(tmp_path / "out", evaluate(tmp_path, method="Coarse <tokenizer>"))
    return tmp_path / "out", summary


def test_a_run_that_ends_before_its_page_leaves_no_results(tmp_path, monkeypatch):
    """A table takes what has results for finished, and links to the page."""
    run = evaluate(tmp_path)
    monkeypatch.setattr(page, "render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write.run_files(tmp_path / "out", run)
    assert (tmp_path / "out" / "row.md").is_file()
    assert not (tmp_path / "out" / "results.json").exists()


def test_results_have_the_schema(written):
    folder, summary = written
    found = json.loads((folder / "results.json").read_text())
    assert found == record.read(folder / "results.json")
    assert found["kind"] == "reconstruction"
    assert found["schema_version"] == record.SCHEMA_VERSION
    assert found["status"] == "ok"
    assert found["num_images"] == NUMBER
    assert found["tokens_per_image"] == [8, 8]
    assert found["token_type"] == "2D"
    assert found["metrics"]["psnr_batch4"] < found["metrics"]["psnr_image"]
    assert found["metrics_std_err"]["psnr_image"] > 0
    assert found["protocol"]["name"] == "paper"
    assert found["protocol"]["image_size"] == 32
    assert re.fullmatch("[0-9a-f]{64}", found["model"]["checkpoint_sha256"])
    assert re.fullmatch("[0-9a-f]{64}", found["dataset"]["pixel_fingerprint"])
    assert found["runtime"]["world_size"] == 1
    assert found["versions"]["torch"]
    assert found["command"]
    assert found["sanity"]["pair_match"] == 1.0
    assert any("not the 50,000 of the protocol" in text for text in found["warnings"])
    assert "psnr_image" in summary
    rows = np.load(folder / "per_image.npz")
    assert rows["psnr_image"].mean() == pytest.approx(found["metrics"]["psnr_image"], rel=1e-12)
    (folder / "results.json").write_text(json.dumps({**found, "schema_version": 1}))
    with pytest.raises(ValueError, match="schema 2, got 1"):
        record.read(folder / "results.json")


def test_without_a_name_the_family_and_the_file_are_the_method(tmp_path):
    assert markdown.row(write_record(tmp_path, evaluate(tmp_path))).startswith(
        "| coarse model\\|1 | 2D | 8x8 | nothing |"
    )


def test_a_name_with_a_line_break_stays_in_its_row(tmp_path):
    row = markdown.row(write_record(tmp_path, evaluate(tmp_path, method="two\nlines")))
    assert row.startswith("| two lines | 2D |")


def test_markdown_row_has_the_fields_columns(written):
    header, line, row = (written[0] / "row.md").read_text().strip().split("\n")
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
    assert len(cells) == header.count("|") - 1 == line.count("|") - 1
    assert cells[:6] == ["Coarse <tokenizer>", "2D", "8x8", "nothing", "512", "-"]
    found = json.loads((written[0] / "results.json").read_text())["metrics"]
    assert cells[6] == f"{found['psnr_batch4']:.2f} (batch of 4, 13 images)"
    assert cells[7] == f"{100 * found['codebook_utilization']:.1f} % (13 images)"
    assert cells[8] == "model\\|1.ckpt"


def test_the_page_is_whole_and_self_contained(written):
    page = (written[0] / "report.html").read_text()
    assert page.count("<img") == 3 * page.count("<figcaption title=") == 3 * 12
    assert "Coarse &lt;tokenizer&gt;" in page
    assert page.count("<svg ") == 5
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    for group in ("Best", "Median", "Worst"):
        assert f"<h3>{group}</h3>" in page
    assert "psnr_<wbr>batch8" in page
    assert "share of the codes that occur; of 13 images" in page


def test_a_subset_is_named(tmp_path):
    found = evaluate(tmp_path, limit=8).record
    assert found["num_images"] == 8
    assert found["subset"] == "8"
    assert {"psnr_image_8", "psnr_batch4_8"} <= found["metrics"].keys()
    assert "psnr_image" not in found["metrics"]
    row = markdown.row(record.write_json(tmp_path / "r.json", found))
    assert "(batch of 4, 8 images)" in row
    assert "% (8 images)" in row
    assert subset_suffix(5000) == "_5k"
    whole = evaluate(tmp_path, limit=NUMBER).record
    assert whole["subset"] is None
    assert not any("asked for" in text for text in whole["warnings"])


def test_a_limit_above_the_number_of_images_is_said(tmp_path):
    found = evaluate(tmp_path, limit=1000).record
    assert found["num_images"] == NUMBER
    assert "1,000 images were asked for, there are 13: all were evaluated" in found["warnings"]


def test_a_row_of_the_protocols_number_of_images_says_only_which_psnr(tmp_path):
    protocol = dataclasses.replace(PROTOCOL, num_images=NUMBER, psnr="psnr_image")
    row = markdown.row(write_record(tmp_path, evaluate(tmp_path, protocol=protocol, method="x")))
    assert "| x |" in row
    assert " (per image) |" in row
    assert " images" not in row


def test_a_changed_protocol_and_a_failed_check_are_said(tmp_path):
    class Negative(CoarseTokenizer):
        def detokenize(self, indices):
            return -super().detokenize(indices)

    run = evaluate(tmp_path, Negative(), PROTOCOL.changed(tf32=True), check="record", method="negative")
    assert run.record["status"] == "check_failed"
    assert run.record["protocol"]["name"] == "custom"
    assert any("not the protocol paper: tf32 False -> True" in text for text in run.record["warnings"])
    write.run_files(tmp_path / "out", run)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "negative of the image" in page
    assert '<p class="notice error">check failed</p>' in page
    assert '<p class="notice error">custom protocol: paper with other tf32</p>' in page
    row = (tmp_path / "out" / "row.md").read_text()
    assert "| negative (check failed, custom protocol: paper with other tf32) |" in row


def test_weights_that_were_loaded_are_recorded_not_those_asked_for(tmp_path):
    assert PROTOCOL.weights == "ema"
    found = evaluate(tmp_path).record  # its loader says nothing of weights
    assert found["model"]["weights_used"] == "raw"
    assert any("the tokenizer has no ema weights" in text for text in found["warnings"])
    tokenizer = CoarseTokenizer()
    tokenizer.checkpoint_facts = {"weights": "ema"}
    found = evaluate(tmp_path, tokenizer).record
    assert found["model"]["weights_used"] == "ema"
    assert not any("weights" in text for text in found["warnings"])


def test_tokens_in_a_row(tmp_path):
    run = evaluate(tmp_path, SequenceTokenizer(), method="one row")
    assert run.record["tokens_per_image"] == [64]
    assert run.record["metrics"]["bits_per_pixel"] == 9 / 16
    write.run_files(tmp_path / "out", run)
    assert "| one row | 1D | 64 | nothing | 512 |" in (tmp_path / "out" / "row.md").read_text()


def test_native_size_and_perfect_images(tmp_path):
    protocol = Protocol("native", resize="none", metrics=("psnr", "ssim"))
    run = evaluate(tmp_path, protocol=protocol, size=30)
    assert run.record["tokens_per_image"] == [8, 8]
    assert run.record["runtime"]["batch_size"] == 1
    run = evaluate(tmp_path, IdentityTokenizer())
    write.run_files(tmp_path / "out", run)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["metrics"]["psnr_image"] is None
    assert "no finite values" in (tmp_path / "out" / "report.html").read_text()


def test_three_images(tmp_path):
    run = evaluate(tmp_path, number=3)
    write.run_files(tmp_path / "out", run)
    assert (tmp_path / "out" / "report.html").read_text().count("<figcaption title=") == 3


def test_metrics_without_weights_are_absent_with_the_reason(tmp_path, no_networks):
    run = evaluate(tmp_path, protocol=Protocol("paper", metrics=("psnr", "rfid")))
    found = write_record(tmp_path, run)
    assert "rfid" not in found["metrics"]
    assert "pt_inception" in found["metrics_absent"]["rfid"]
    assert "| - |" in markdown.row(found)


def test_the_gallery_shows_no_image_twice():
    for number in (1, 2, 3, 5, 12, 100):
        rows = {"psnr_image": torch.randn(number, generator=torch.Generator().manual_seed(number))}
        chosen = gallery.choose(rows)
        shown = [i for indices in chosen.values() for i in indices]
        assert len(shown) == len(set(shown)) == min(12, number if number < 3 else number // 3 * 3)
        assert rows["psnr_image"][chosen["best"][0]] == rows["psnr_image"].max()
    assert gallery.choose({"l1": torch.ones(3)}) == {}


def test_charts_say_what_they_show():
    chart = charts.histogram("PSNR", torch.tensor([1.0, 2.0, np.inf, np.inf]), "dB")
    assert "2 infinite left out" in chart.svg
    assert "mean 1.50" in chart.svg
    assert "2 images from 1.00 to 2.00 dB" in chart.description
    counts = torch.tensor([5, 2, 1, 1])
    assert "4 of 8 codes used, 1 cover half" in charts.code_usage(counts, 8).description
    assert charts.usage_bins(counts, 8) == [4, 2, 1, 1]  # never, once, 2 to 3 times, 4 to 7 times
    assert "4 codes never occur, the most used one 5 times" in charts.code_histogram(counts, 8).description
    assert "from 0.100 to 0.500" in charts.bit_balance(torch.tensor([0.5, 0.1])).description
    assert page._number(32 * 12 / 256**2, "bits_per_pixel") == "0.0059"  # of TiTok-L
    information = torch.tensor([[1.0, 0.25], [0.25, 1.0]])
    assert "at most 0.25 bits" in charts.mutual_information(information).description


def test_a_page_with_five_charts_names_nothing_twice_that_is_referred_to(written):
    page = (written[0] / "report.html").read_text()
    referred = set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'xlink:href="#([^"]+)"', page))
    assert referred
    assert all(page.count(f'id="{name}"') == 1 for name in referred)
    assert set(re.findall(r"#0[0-9a-c]0[0-9a-c]0[0-9a-c]", page)) == set()  # every placeholder became a colour


def test_templates_come_with_the_package():
    import tomllib

    folder = Path(record.__file__).parent
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    (pattern,) = declared["open_magvit2.evaluation.report"]
    assert {"page.html", "table.html", "style.css"} <= {path.name for path in folder.glob(pattern)}
