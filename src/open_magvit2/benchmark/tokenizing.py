"""Tokenize and detokenize: images a second, of the networks and of the command; what bfloat16 does to real photos."""

import math
from functools import partial

import torch
from torch import Tensor

from open_magvit2.benchmark import models, tokenizing_files
from open_magvit2.benchmark.failures import OUT_OF_MEMORY, unless_out_of_memory
from open_magvit2.benchmark.settings import Row, Settings, not_measured
from open_magvit2.benchmark.timing import clock_name, interleaved
from open_magvit2.common.images import to_float, to_uint8
from open_magvit2.common.precision import inference, without_bfloat16_units
from open_magvit2.data.dataset import TransformedDataset
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.transforms import ResizeCenterCrop
from open_magvit2.image_tokenizer.pretrained import load_tokenizer
from open_magvit2.protocols import Tokenizer

TITLE = "Tokenize and detokenize"

_FULL_BATCHES, _SMALL_BATCHES = (1, 8, 32, 128), (1,)
_PRECISIONS = ("fp32", "bf16")
_FULL_PHOTOS, _SMALL_PHOTOS = 1000, 16  # few on a CPU, which may be slow in bfloat16
_SLOW = not_measured("no bfloat16 units here: it takes many times longer")
_PHOTO_SIZE, _PHOTO_BATCH = 128, 8


def measure(settings: Settings) -> list[Row]:
    """Speed by batch and precision, and of the whole command; with a checkpoint and photos, what bfloat16 changes."""
    rows = []
    for case in models.cases(settings):
        for batch in _FULL_BATCHES if settings.full else _SMALL_BATCHES:
            too_large = {"table": "Speed", "model": case.name, "batch": batch, "work": OUT_OF_MEMORY}
            rows += unless_out_of_memory(partial(_speed, case, batch, settings)) or [too_large]
        too_large = {"table": tokenizing_files.TABLE, "model": case.name, "work": OUT_OF_MEMORY}
        rows += unless_out_of_memory(partial(tokenizing_files.measure, case, settings)) or [too_large]
    if settings.checkpoint is not None and settings.images is not None:
        rows.append(_bf16(settings))
    return rows


def _speed(case: models.Case, batch: int, settings: Settings) -> list[Row]:
    tokenizer = models.make_tokenizer(case, settings.device)
    image = to_float(models.make_pixels(batch, case.image_size, settings.device))
    indices = tokenizer.tokenize(image)

    def tokenize(precision: str) -> None:
        with inference(settings.device, precision):
            tokenizer.tokenize(image)

    def detokenize(precision: str) -> None:
        with inference(settings.device, precision):
            tokenizer.detokenize(indices)

    works = {"tokenize": tokenize, "detokenize": detokenize}
    precisions = ("fp32",) if without_bfloat16_units(settings.device) else _PRECISIONS
    functions = {
        (work, precision): lambda function=function, precision=precision: function(precision)
        for work, function in works.items()
        for precision in precisions
    }
    times = interleaved(functions, settings.device, settings.repeats)
    unit = clock_name(settings.device)
    return [
        {
            "table": "Speed",
            "model": case.name,
            "batch": batch,
            "work": work,
            **{
                f"{p} [images / {unit}]": batch / times[work, p].median if (work, p) in times else _SLOW
                for p in _PRECISIONS
            },
        }
        for work in works
    ]


@torch.no_grad()
def _bf16(settings: Settings) -> Row:
    """What changes when a trained tokenizer runs under bfloat16 autocast."""
    tokenizer = load_tokenizer(settings.checkpoint, device=settings.device)
    photos = TransformedDataset(ImageFolder(settings.images), ResizeCenterCrop(_PHOTO_SIZE))
    number = min(_FULL_PHOTOS if settings.full else _SMALL_PHOTOS, len(photos))
    positions = [i * len(photos) // number for i in range(number)]
    changed, num_tokens = 0, 0
    psnr: dict[str, list[float]] = {"fp32": [], "bf16": [], "bf16 decoder": []}
    for start in range(0, len(positions), _PHOTO_BATCH):
        pixels = torch.stack([photos[i]["image"] for i in positions[start : start + _PHOTO_BATCH]]).to(settings.device)
        indices = {precision: _tokens(tokenizer, pixels, precision, settings) for precision in _PRECISIONS}
        changed += int((indices["fp32"] != indices["bf16"]).sum())
        num_tokens += indices["fp32"].numel()
        for name, tokens, precision in (
            ("fp32", "fp32", "fp32"),
            ("bf16", "bf16", "bf16"),
            ("bf16 decoder", "fp32", "bf16"),
        ):
            with inference(settings.device, precision):
                again = to_uint8(tokenizer.detokenize(indices[tokens]))
            psnr[name] += _psnr(pixels, again)
    means = {name: sum(values) / len(values) for name, values in psnr.items()}
    return {
        "table": "bfloat16 autocast against float32",
        "photos": len(positions),
        "size": _PHOTO_SIZE,
        "codes": tokenizer.codebook_size,
        "tokens changed [%]": 100 * changed / num_tokens,
        "PSNR fp32 [dB]": round(means["fp32"], 3),
        "bf16 throughout [dB]": round(means["bf16"] - means["fp32"], 4),
        "bf16 decoder alone [dB]": round(means["bf16 decoder"] - means["fp32"], 4),
    }


def _tokens(tokenizer: Tokenizer, pixels: Tensor, precision: str, settings: Settings) -> Tensor:
    with inference(settings.device, precision):
        return tokenizer.tokenize(to_float(pixels))


def _psnr(pixels: Tensor, again: Tensor) -> list[float]:
    """Of every image, in dB."""
    errors = (pixels.double() - again.double()).square().flatten(1).mean(dim=1)
    return [10 * math.log10(255**2 / max(error, 1e-12)) for error in errors.tolist()]
