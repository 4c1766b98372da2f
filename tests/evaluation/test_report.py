"""The whole evaluation through the library: results.json in its schema, the Markdown row, and the page."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from small_tokenizers import CoarseTokenizer, IdentityTokenizer, make_images, make_loader

from open_magvit2.evaluation import charts, gallery, provenance, report, results
from open_magvit2.evaluation.protocol import Protocol

NUMBER = 13
PROTOCOL = Protocol(
    "paper",
    metrics=("psnr", "ssim", "l1", "codebook_usage", "clamp_fraction", "bits_per_pixel"),
    psnr="psnr_batch4",
    ssim="ssim_paper",
)


def evaluate(tmp_path, tokenizer=None, protocol=PROTOCOL, limit=None, check="stop", size=32, number=NUMBER):
    checkpoint = tmp_path / "model|1.ckpt"
    checkpoint.write_bytes(b"weights")
    tokenizer = tokenizer or CoarseTokenizer()
    samples = [
        {**{k: v[0] for k, v in batch.items()}, "label": -1} for batch in make_loader(make_images(number, size), 1)
    ]
    facts = provenance.drawn("thirteen images", number)
    model = provenance.model(tokenizer, "coarse", checkpoint, "ema")
    loading = results.Loading(limit, batch_size=4)
    device = torch.device("cpu")
    return results.run(tokenizer, samples, protocol, device, facts, model, size, loading, check, progress=False)


@pytest.fixture
def written(tmp_path):
    run = evaluate(tmp_path)
    summary = report.write(tmp_path / "out", run, "Coarse <tokenizer>", "nothing")
    return tmp_path / "out", summary


def test_results_have_the_schema(written):
    folder, summary = written
    found = json.loads((folder / "results.json").read_text())
    assert found["schema_version"] == 1
    assert found["status"] == "ok"
    assert found["num_images"] == NUMBER
    assert found["tokens_per_image"] == [8, 8]
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
    assert any("not the 50,000 of the protocol" in text for text in found["sanity"]["warnings"])
    assert "psnr_image" in summary
    rows = np.load(folder / "per_image.npz")
    assert rows["psnr_image"].mean() == pytest.approx(found["metrics"]["psnr_image"], rel=1e-12)


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
    assert page.count("<svg") == 5
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    for group in ("Best", "Median", "Worst"):
        assert f"<h3>{group}</h3>" in page
    assert "psnr_<wbr>batch8" in page
    assert "share of the codes that occur; of 13 images" in page


def test_a_subset_is_named(tmp_path):
    found = evaluate(tmp_path, limit=8).results
    assert found["num_images"] == 8
    assert found["subset"] == "8"
    assert "psnr_image_8" in found["metrics"]
    assert "psnr_image" not in found["metrics"]
    assert "psnr_batch4_8" in report.HEADER + str(found["metrics"])
    row = report.markdown_row(report.write_results(tmp_path / "r.json", found), "x")
    assert "(batch of 4, 8 images)" in row
    assert "% (8 images)" in row
    assert results.subset_suffix(5000) == "_5k"
    whole = evaluate(tmp_path, limit=NUMBER).results
    assert whole["subset"] is None
    assert not any("asked for" in text for text in whole["sanity"]["warnings"])


def test_a_limit_above_the_number_of_images_is_said(tmp_path):
    found = evaluate(tmp_path, limit=1000).results
    assert found["num_images"] == NUMBER
    assert "1,000 images were asked for, there are 13: all were evaluated" in found["sanity"]["warnings"]


def test_a_row_of_the_protocols_number_of_images_says_only_which_psnr(tmp_path):
    protocol = dataclasses.replace(PROTOCOL, num_images=NUMBER, psnr="psnr_image")
    row = report.markdown_row(
        report.write_results(tmp_path / "r.json", evaluate(tmp_path, protocol=protocol).results), "x"
    )
    assert "| x |" in row
    assert " (per image) |" in row
    assert " images" not in row


def test_a_changed_protocol_and_a_failed_check_are_said(tmp_path):
    class Negative(CoarseTokenizer):
        def detokenize(self, indices):
            return -super().detokenize(indices)

    run = evaluate(tmp_path, Negative(), PROTOCOL.changed(tf32=True), check="record")
    assert run.results["status"] == "sanity_failed"
    assert run.results["protocol"]["name"] == "custom"
    assert any("not the protocol paper: tf32 False -> True" in text for text in run.results["sanity"]["warnings"])
    report.write(tmp_path / "out", run, "negative")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "negative of the image" in page
    assert '<p class="notice error">check failed</p>' in page
    assert '<p class="notice error">custom protocol: paper with other tf32</p>' in page
    row = (tmp_path / "out" / "row.md").read_text()
    assert "| negative (check failed, custom protocol: paper with other tf32) |" in row


def test_native_size_and_perfect_images(tmp_path):
    protocol = Protocol("native", resize="none", metrics=("psnr", "ssim"))
    run = evaluate(tmp_path, protocol=protocol, size=30)
    assert run.results["tokens_per_image"] == [8, 8]
    assert run.results["runtime"]["batch_size"] == 1
    run = evaluate(tmp_path, IdentityTokenizer())
    report.write(tmp_path / "out", run, "identity")
    assert json.loads((tmp_path / "out" / "results.json").read_text())["metrics"]["psnr_image"] is None
    assert "no finite values" in (tmp_path / "out" / "report.html").read_text()


def test_three_images(tmp_path):
    run = evaluate(tmp_path, number=3)
    report.write(tmp_path / "out", run, "three")
    assert (tmp_path / "out" / "report.html").read_text().count("<figcaption title=") == 3


def test_metrics_without_weights_are_absent_with_the_reason(tmp_path, no_networks):
    run = evaluate(tmp_path, protocol=Protocol("paper", metrics=("psnr", "rfid")))
    found = report.write_results(tmp_path / "results.json", run.results)
    assert "rfid" not in found["metrics"]
    assert "pt_inception" in found["metrics_absent"]["rfid"]
    assert "| - |" in report.markdown_row(found, "x")


def test_the_gallery_shows_no_image_twice():
    for number in (1, 2, 3, 5, 12, 100):
        rows = {"psnr_image": torch.randn(number, generator=torch.Generator().manual_seed(number))}
        chosen = gallery.choose(rows)
        shown = [i for indices in chosen.values() for i in indices]
        assert len(shown) == len(set(shown)) == min(12, number if number < 3 else number // 3 * 3)
        assert rows["psnr_image"][chosen["best"][0]] == rows["psnr_image"].max()
    assert gallery.choose({"l1": torch.ones(3)}) == {}


def test_charts_say_what_they_show():
    assert "2 infinite left out" in charts.histogram(torch.tensor([1.0, 2.0, np.inf, np.inf]), "dB")
    assert "4 of 8 codes used, 1 cover half" in charts.code_usage(torch.tensor([5, 2, 1, 1]), 8)
    histogram = charts.code_histogram(torch.tensor([5, 2, 1, 1]), 8)
    assert "4 codes never occur, the most used one 5 times" in histogram
    heights = [float(height) for height in re.findall(r'height="([\d.]+)"/>', histogram)]
    assert heights == pytest.approx([h * heights[0] / 4 for h in (4, 2, 1, 1)], abs=0.1)  # never, 1, 2 to 3, 4 to 7
    assert charts.bit_balance(torch.tensor([0.5, 0.1])).count('class="bar"') == 2
    assert charts.mutual_information(torch.eye(3)).count('class="bar"') == 9


def test_nothing_of_the_report_names_this_machine():
    for path in Path(report.__file__).parent.rglob("*.py"):
        assert "/work" not in path.read_text()
