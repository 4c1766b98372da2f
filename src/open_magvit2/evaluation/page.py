"""report.html: the figures of an evaluation with pictures and charts on one self-contained page."""

import json
from html import escape
from pathlib import Path
from typing import Any

from torch import Tensor

from open_magvit2.evaluation import beside, charts
from open_magvit2.evaluation.gallery import AMPLIFICATION, Picture, data_address
from open_magvit2.evaluation.page_style import STYLE

# What a figure means, in a few words and with the direction that is better; the rest of the names explain themselves.
_MEANINGS = {
    "rfid": "Frechet distance to the originals, lower is better",
    "rfid_u8": "the same on 8-bit pixels",
    "rfid_tf": "the same, 8-bit pixels and TensorFlow's resize",
    "ris": "Inception score of the reconstructions",
    "psnr_image": "dB, mean over images: the one to quote",
    "psnr_image_trunc": "dB, mean over images, truncated pixels",
    "psnr_batch4": "dB, one error per 4 images, as in the paper",
    "psnr_batch8": "dB, one error per 8 images",
    "psnr_global": "dB, one error over all images",
    "ssim_image": "rounded pixels, higher is better",
    "ssim_paper": "truncated pixels, as in the paper",
    "lpips_alex": "AlexNet, lower is better",
    "lpips_vgg": "VGG-16, lower is better",
    "l1": "mean absolute error on [-1, 1]",
    "mse": "mean squared error on [-1, 1]",
    "clamp_fraction": "share of values outside [-1, 1]",
    "bits_per_pixel": "cost of the tokens",
    "codebook_utilization": "share of the codes that occur",
    "codebook_used": "codes that occur",
    "codebook_entropy": "bits a token carries, by its frequency alone",
    "codebook_perplexity": "codes of a uniform codebook of that entropy",
    "codebook_bit_balance": "rarer value of the least balanced bit, 0.5 is best",
    "codebook_bit_entropy": "bits a single bit carries, 1 is best",
    "codebook_bit_mutual_information": "bits that two bits share, 0 is best",
}


def render(
    results: dict[str, Any],
    method: str,
    rows: dict[str, Tensor],
    details: dict[str, dict[str, Tensor]],
    pictures: list[Picture],
) -> str:
    """The page as HTML.

    Args:
        results: as `report.write_results` returns them.
        method: title of the page.
        rows, details: of the `Evaluation`.
        pictures: of the gallery.
    """
    body = "".join(
        [
            _head(results, method),
            _notices(results),
            _cards(results),
            _gallery(pictures),
            _charts(results, rows, details),
            _table(results),
            _provenance(results),
        ]
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(method)}: reconstruction</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _head(results: dict[str, Any], method: str) -> str:
    protocol = results["protocol"]
    facts = [
        f"protocol <b>{escape(protocol['name'])}</b>",
        escape(protocol["transform"]),
        f"{results['num_images']:,} images",
        f"{results['model']['codebook_size']:,} codes",
        escape(Path(results["model"]["checkpoint_path"]).name)
        + f" ({escape(results['model']['weights_used'])} weights)",
    ]
    doubts = "".join(f'<p class="notice error">{escape(doubt)}</p>' for doubt in beside.doubts(results))
    return f"<header><h1>{escape(method)}</h1><p>{' &middot; '.join(facts)}</p>{doubts}</header>"


def _notices(results: dict[str, Any]) -> str:
    """Errors, warnings and absent metrics, before any figure."""
    sanity = results["sanity"]
    items = [("error", text) for text in sanity.get("errors", [])]
    items += [("warning", text) for text in sanity.get("warnings", [])]
    items += [("absent", f"{name} is absent: {reason}") for name, reason in results["metrics_absent"].items()]
    return "".join(f'<p class="notice {kind}">{escape(text)}</p>' for kind, text in items)


def _cards(results: dict[str, Any]) -> str:
    """The figures the protocol quotes, and the honest PSNR beside them."""
    protocol, suffix = results["protocol"], f"_{results['subset']}" if results["subset"] else ""
    wanted = [protocol["rfid"], protocol["psnr"], "psnr_image", protocol["ssim"], "lpips_alex", "codebook_utilization"]
    cards, number = [], beside.images(results)
    for name in dict.fromkeys(n for n in wanted if n):
        value = results["metrics"].get(name + suffix)
        if name + suffix not in results["metrics"] and name not in results["metrics_absent"]:
            continue
        meaning = escape(_MEANINGS.get(name, "")) + (f"; of {number}" if number else "")
        cards.append(
            f'<div class="card"><span>{_breakable(name + suffix)}</span><strong>{_number(name, value)}</strong>'
            f"<small>{meaning}</small></div>"
        )
    return f'<section class="cards">{"".join(cards)}</section>'


def _gallery(pictures: list[Picture]) -> str:
    """Pictures by group; the slider uncovers the reconstruction over the original."""
    if not pictures:
        return ""
    parts = [
        "<h2>Images</h2><p>By PSNR. Drag the slider: original left of it, reconstruction right. Below, what the "
        f"reconstruction changed, {AMPLIFICATION} times enlarged around grey.</p>"
    ]
    for group in dict.fromkeys(picture.group for picture in pictures):
        figures = [_figure(picture) for picture in pictures if picture.group == group]
        parts.append(f'<h3>{escape(group.capitalize())}</h3><div class="gallery">{"".join(figures)}</div>')
    return f"<section>{''.join(parts)}</section>"


def _figure(picture: Picture) -> str:
    name, place = escape(Path(picture.path).name), escape(picture.path)
    figures = [
        f"<span>{label} {picture.figures[key]:.{digits}f}</span>"
        for key, label, digits in _OF_A_PICTURE
        if key in picture.figures
    ]
    height, width = picture.original.shape[-2:]
    return (
        f'<figure><div class="compare" style="aspect-ratio:{width}/{height}">'
        f'<img src="{data_address(picture.original)}" alt="original of {name}">'
        f'<img class="over" src="{data_address(picture.reconstruction)}" alt="reconstruction of {name}">'
        '<i class="left">original</i><i class="right">reconstruction</i>'
        '<input type="range" min="0" max="100" value="50" aria-label="original or reconstruction" '
        "oninput=\"this.parentNode.style.setProperty('--cut',this.value+'%')\"></div>"
        f'<img class="difference" src="{data_address(picture.difference())}" alt="difference of {name}" loading="lazy">'
        f'<figcaption title="{place}"><b>{" ".join(figures)}</b><br>{_breakable(Path(picture.path).name)}</figcaption>'
        "</figure>"
    )


_OF_A_PICTURE = (("psnr_image", "PSNR", 2), ("ssim_image", "SSIM", 3), ("lpips_alex", "LPIPS", 3))


def _charts(results: dict[str, Any], rows: dict[str, Tensor], details: dict[str, dict[str, Tensor]]) -> str:
    usage = details.get("codebook_usage", {})
    drawn = []
    if "psnr_image" in rows:
        drawn.append(("PSNR of the images", charts.histogram(rows["psnr_image"], "dB")))
    if "sorted_counts" in usage:
        counts, size = usage["sorted_counts"], results["model"]["codebook_size"]
        drawn.append(("How often codes occur", charts.code_histogram(counts, size)))
        drawn.append(("Use of the codes", charts.code_usage(counts, size)))
    if "bit_means" in usage:
        drawn.append(("Balance of the bits", charts.bit_balance(usage["bit_means"])))
        drawn.append(("Mutual information of the bits", charts.mutual_information(usage["bit_mutual_information"])))
    if not drawn:
        return ""
    figures = "".join(f'<figure class="chart"><figcaption>{title}</figcaption>{svg}</figure>' for title, svg in drawn)
    return f'<section><h2>Distributions</h2><div class="charts">{figures}</div></section>'


def _table(results: dict[str, Any]) -> str:
    """Every figure with its standard error and meaning."""
    suffix = f"_{results['subset']}" if results["subset"] else ""
    lines = []
    for name, value in results["metrics"].items():
        plain = name.removesuffix(suffix) if suffix else name
        error = results["metrics_std_err"].get(name)
        plus_minus = f" &plusmn; {error:.2g}" if error else ""
        lines.append(
            f"<tr><th>{_breakable(name)}</th><td>{_number(plain, value)}{plus_minus}</td>"
            f"<td>{escape(_MEANINGS.get(plain, ''))}</td></tr>"
        )
    return (
        "<section><h2>All figures</h2><p>&plusmn; is the standard error of a mean over images.</p>"
        f"<table class='figures'>{''.join(lines)}</table></section>"
    )


def _provenance(results: dict[str, Any]) -> str:
    """Everything else of results.json, folded."""
    parts = []
    for key in ("protocol", "dataset", "model", "metric_weights", "runtime", "versions", "git", "command", "sanity"):
        text = escape(json.dumps(results.get(key), indent=2))
        parts.append(f"<details><summary>{key.replace('_', ' ')}</summary><pre>{text}</pre></details>")
    return f"<section><h2>Made from</h2>{''.join(parts)}</section>"


def _breakable(name: str) -> str:
    """A name that may be broken after its underscores, and only there."""
    return escape(name).replace("_", "_<wbr>")


def _number(name: str, value: float | None) -> str:
    """A figure with as many digits as it deserves."""
    if value is None:
        return "&ndash;"
    if name == "codebook_utilization":
        return f"{value:.1%}"
    if name in ("codebook_used", "codebook_perplexity"):
        return f"{value:,.0f}"
    if name.startswith(("rfid", "ris", "psnr", "bits", "codebook_entropy")):
        return f"{value:.2f}"
    return f"{value:.4f}"
