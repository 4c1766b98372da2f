"""The kinds of records, and how each is shown: the columns of its row and its table, the cards of its page.

A new kind is an entry of `KINDS`. `templates/page.html` shows what a record has: figures, pictures, charts. Content of
one kind alone is a block there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Column:
    """A column of a row and of a table.

    A figure is measured under the column's name, or under the one that the protocol gives for it (psnr: psnr_batch4).
    """

    name: str  # of the value in a table's YAML and JSON
    title: str  # heading
    form: str = "{}"  # how a value is written, e.g. "{:.2f}"
    optional: bool = False  # a YAML row may leave it out

    def written(self, value: Any) -> str:
        """A value of the column as tables show it; a dash for none."""
        return "-" if value in (None, "-") else self.form.format(value)


@dataclass(frozen=True)
class Kind:
    """How records of a kind are shown."""

    title: str  # of its pages, behind the method
    table_title: str  # of a comparison
    facts: tuple[Column, ...]  # columns of what was evaluated
    figures: tuple[Column, ...]  # columns of figures, published or measured
    further: tuple[Column, ...]  # figures that a comparison shows in a table of their own
    cards: tuple[str, ...]  # further figures that a page shows large
    describe: Callable[[dict[str, Any]], dict[str, Any]]  # the values of those `facts` that a record tells

    @property
    def titles(self) -> list[str]:
        """Headings of a row."""
        return ["Method", *(column.title for column in (*self.facts, *self.figures)), "Checkpoint"]


# Fields of a protocol that name a figure; its `precision` is that of networks, not a figure.
_CHOSEN_BY_PROTOCOL = ("rfid", "psnr", "ssim")


def figure_name(column: Column, protocol: dict[str, Any]) -> str | None:
    """Which figure a protocol quotes in a column; None: its authors give none."""
    return protocol.get(column.name, column.name) if column.name in _CHOSEN_BY_PROTOCOL else column.name


def checkpoint_name(record: dict[str, Any]) -> str:
    """The name of the evaluated file, and that it was trained at another size."""
    model, name = record["model"], Path(record["model"]["checkpoint_path"]).name
    return f"{name} (trained at {model['train_image_size']})" if record["protocol"].get("cross_resolution") else name


def _describe_reconstruction(record: dict[str, Any]) -> dict[str, Any]:
    tokens, model = record["tokens_per_image"], record["model"]
    if model["codebook_size"] is None:
        kind = "-" if model["weights_used"] is None else "continuous"  # nothing is known of pictures made elsewhere
        return {"token_type": kind, "tokens": "-", "train_data": model["train_data"], "codebook_size": "-"}
    return {
        "token_type": record["token_type"],
        "tokens": "x".join(map(str, tokens)) if tokens else "varies",
        "train_data": model["train_data"],
        "codebook_size": model["codebook_size"],
    }


RECONSTRUCTION = Kind(
    title="reconstruction",
    table_title="Comparison of tokenizers",
    facts=(
        Column("token_type", "Token Type", optional=True),
        Column("tokens", "#Tokens"),
        Column("train_data", "Train Data"),
        Column("codebook_size", "Codebook Size", "{:,}", optional=True),
    ),
    figures=(
        Column("rfid", "rFID", "{:.2f}"),
        Column("psnr", "PSNR", "{:.2f}"),
        Column("codebook_utilization", "Codebook Utilization", "{:.1%}"),
    ),
    further=(
        Column("ssim", "SSIM", "{:.4f}"),
        Column("lpips_alex", "LPIPS (AlexNet)", "{:.4f}"),
        Column("lpips_vgg", "LPIPS (VGG)", "{:.4f}"),
    ),
    cards=("psnr_image", "ssim", "lpips_alex"),
    describe=_describe_reconstruction,
)


def _describe_generation(record: dict[str, Any]) -> dict[str, Any]:
    sampling, num_params = record.get("samples", {}).get("sampling"), record["model"].get("num_params")
    told = {} if num_params is None else {"num_params": f"{num_params / 1e6:.0f}M"}
    # Settings are of all sub-tokens, or a list of one each.
    groups = (sampling or {}).get("groups") or [sampling or {}]
    for name in ("guidance", "temperature"):
        values = [f"{group[name]:g}" for group in groups if isinstance(group.get(name), int | float)]
        if values:
            told[name] = ", ".join(values if len(set(values)) > 1 else values[:1])
    return told


GENERATION = Kind(
    title="generation",
    table_title="Comparison of generators",
    facts=(
        Column("num_params", "#Params", optional=True),
        Column("guidance", "Guidance", optional=True),
        Column("temperature", "Temperature", optional=True),
    ),
    figures=(
        Column("fid", "FID", "{:.2f}"),
        Column("inception_score", "IS", "{:.2f}"),
        Column("precision", "Precision", "{:.2f}"),
        Column("recall", "Recall", "{:.2f}"),
    ),
    further=(Column("sfid", "sFID", "{:.2f}"),),
    cards=("sfid", "density", "coverage"),
    describe=_describe_generation,
)

KINDS: dict[str, Kind] = {"reconstruction": RECONSTRUCTION, "generation": GENERATION}

# Of which PSNR a figure is.
QUALIFIERS = {
    "psnr_image": "per image",
    "psnr_image_trunc": "per image, truncated",
    "psnr_batch4": "batch of 4",
    "psnr_batch8": "batch of 8",
    "psnr_global": "all images at once",
}
