"""The pages in a real browser at the widths of a desk and of a telephone: nothing sticks out, and the slider slides."""

import json
import re
import shutil
import subprocess

import pytest
import torch
from small_tokenizers import CoarseTokenizer, make_images

from open_magvit2.evaluation import provenance
from open_magvit2.evaluation.protocol import Protocol
from open_magvit2.evaluation.report import kinds, page, write
from open_magvit2.evaluation.run import Setting, evaluate_tokenizer

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine to look at pages with")

# Writes what it sees into the page, which the browser then prints.
MEASURE = """<script>
const page = document.documentElement, seen = {viewport: innerWidth, page: page.scrollWidth, images: 0};
for (const image of document.images) seen.images += image.naturalWidth > 0;
const slider = document.querySelector('.compare input');
if (slider) {
  const over = document.querySelector('.over');
  seen.before = getComputedStyle(over).clipPath;
  slider.value = 20;
  slider.dispatchEvent(new Event('input'));
  seen.after = getComputedStyle(over).clipPath;
}
document.title = 'seen ' + JSON.stringify(seen);
</script></body>"""


def look(html, folder, width):
    """What the browser sees of a page in a frame of a width (its own windows are not narrower than 500)."""
    (folder / "page.html").write_text(html.replace("</body>", MEASURE))
    (folder / "frame.html").write_text(
        f'<iframe id="f" src="page.html" style="width:{width}px;height:900px;border:0"></iframe><script>'
        "onload = () => document.title = document.getElementById('f').contentDocument.title</script>"
    )
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        "--virtual-time-budget=9000",
    ]
    options += [f"--user-data-dir={folder / 'profile'}", "--dump-dom", (folder / "frame.html").as_uri()]
    printed = subprocess.run([BROWSER, *options], capture_output=True, text=True, timeout=1800, check=True).stdout
    found = re.search("<title>seen (.*)</title>", printed)
    assert found, printed[:2000]
    return json.loads(found.group(1))


@pytest.fixture(scope="module")
def report_page(tmp_path_factory):
    """Of six images, with long names and warnings."""
    folder = tmp_path_factory.mktemp("report")
    checkpoint = folder / ("a_rather_long_name_of_a_checkpoint_" * 3 + ".ckpt")
    checkpoint.write_bytes(b"weights")
    tokenizer = CoarseTokenizer()
    samples = [
        {"image": image, "index": i, "label": -1, "path": f"n02110063/{'n02110063_malamute' * 3}_{i}.JPEG"}
        for i, image in enumerate(make_images(6))
    ]
    protocol = Protocol("paper", metrics=("psnr", "ssim", "codebook_usage", "clamp_fraction"))
    model = provenance.model(tokenizer, "coarse", checkpoint, "A tokenizer with a long name")
    facts = provenance.drawn("six images", 6)
    setting = Setting(lambda resize, size: (samples, facts), torch.device("cpu"), progress=False)
    write.run_files(folder, evaluate_tokenizer(tokenizer, model, protocol, (32, 32), setting))
    return (folder / "report.html").read_text()


@pytest.mark.parametrize("width", [1280, 400])
def test_the_report_fits_and_its_slider_slides(report_page, tmp_path, width):
    seen = look(report_page, tmp_path, width)
    assert seen["viewport"] == width
    assert seen["page"] <= width
    assert seen["images"] == report_page.count("<img")
    assert seen["before"] == "inset(0px 0px 0px 50%)"
    assert seen["after"] == "inset(0px 0px 0px 20%)"


@pytest.mark.parametrize("width", [1280, 400])
def test_the_comparison_fits(tmp_path, width):
    figures = {
        name: {"value": 0.9, "source": "published", "name": name} for name in ("rfid", "psnr", "codebook_utilization")
    }
    row = {
        **{"method": "Open-MAGVIT2 B (128 model)", "facts": {"token_type": "2D", "tokens": "32x32"}, "image_size": 256},
        **{"checkpoint": "a_long_name_of_a_file_" * 4 + ".ckpt"},
        **{"figures": figures, "state": "published", "notes": ["a" * 90, "words " * 40], "error": None},
        **{"results": None, "never_released": False, "protocol": "paper"},
    }
    row["facts"] |= {"train_data": "ImageNet 256", "codebook_size": 262144}
    rows = [row, {**row, "error": "ValueError: " + "b" * 90, "state": "failed"}]
    html = page.render_table(kinds.RECONSTRUCTION, rows, "2025-01-01")
    assert look(html, tmp_path, width)["page"] <= width
