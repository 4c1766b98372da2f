"""The evaluation loop: batches -> metrics -> figures, the same for any batch size and number of ranks.

`evaluate` feeds it with the reconstructions of a tokenizer; `measure` takes batches of any origin.
"""

import contextlib
import itertools
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from open_magvit2.common.distributed import all_gather_object, all_reduce_sum, rank, world_size
from open_magvit2.common.errors import UserError
from open_magvit2.common.images import to_float, to_uint8
from open_magvit2.common.precision import float32
from open_magvit2.common.progress_bar import progress_bar
from open_magvit2.evaluation.jpeg_files import as_files
from open_magvit2.evaluation.metrics import merged
from open_magvit2.evaluation.pixels import image_by_image
from open_magvit2.evaluation.sanity import Sanity, SanityError, check_first_batch, check_metrics, check_utilization
from open_magvit2.protocols import EvaluationBatch, Metric, Sample, Tokenizer

Check = Literal["stop", "record", "off"]
_MOST_CHECKED = 16  # images of each rank, enough to tell a mistake from a difficult picture before the long run
_FEWEST_CHECKED = 4
_MOST_KEPT = 64  # reconstructions of a rank, which a report may show


@dataclass
class Evaluation:
    """The result of a pass over a dataset, over all ranks."""

    metrics: dict[str, float] = field(default_factory=dict)  # the figures of all metrics by their own names
    standard_errors: dict[str, float] = field(default_factory=dict)  # of those that are means over images
    rows: dict[str, Tensor] = field(default_factory=dict)  # per-image columns float64 [N], in the dataset's order
    details: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # by metric, what a report draws besides
    reconstructions: dict[int, Tensor] = field(default_factory=dict)  # uint8 [3, H, W] by index, of a small set
    samples: dict[int, tuple[str, int]] = field(default_factory=dict)  # (path, label) of every image by index
    num_images: int = 0
    token_axes: int | None = None  # of an image's indices: 1 for a sequence, 2 for a grid; None without tokens
    tokens_per_image: list[int] | None = None  # shape of an image's indices; None where images differ in size
    image_size: list[int] | None = None  # [H, W]; None where images differ
    seconds: float = 0.0  # of the loop
    compute_seconds: float = 0.0  # of the final computation (the matrix root of rFID, for one)
    images_per_s: float = 0.0  # of the loop, over all ranks
    sanity: dict[str, Any] = field(default_factory=dict)  # findings of the first-batch checks, if there were any


@torch.inference_mode()
def evaluate(
    tokenizer: Tokenizer,
    loader: Iterable[Sample],
    metrics: dict[str, Metric],
    device: torch.device | str = "cpu",
    tf32: bool = False,
    progress: bool = True,
    check: Check = "stop",
    jpeg_quality: int | None = None,
) -> Evaluation:
    """Reconstruct every image of a loader and measure the reconstructions; a collective call under DDP.

    Args:
        tokenizer: on `device`, in evaluation mode, with the weights to evaluate already in place.
        loader: this rank's batches of Samples: image uint8 [B, 3, H, W], index [B]. The indices of all ranks
            together must be 0 .. N-1, each once; ranks may hold different numbers of images.
        metrics: by name; they are reset first.
        tf32: allow TF32 on the GPU.
        check: what to do when the first batch shows a known mistake (`sanity.check_first_batch`): stop with an error,
            record it in the result and go on, or do not look.
        jpeg_quality: let metrics see originals and reconstructions after a JPEG file; None: as they are. The tokenizer
            always gets the originals themselves.

    Raises:
        SanityError: if the first-batch checks fail on any rank and `check` is "stop"; it names the likely cause.
        ValueError: if images are counted twice or missing, or indices lie outside the codebook.
        UserError: of several ranks, for an image that one of them cannot read or measure; the others wait in vain.
    """
    device, sanity = torch.device(device), {}
    begin = time.perf_counter()
    with float32(device.type, tf32):
        batches = iter(loader)
        if check != "off":
            first: list[Sample] = []
            # An eighth of a small set, so that the check costs little compared with the pass.
            number = min(_MOST_CHECKED, max(_FEWEST_CHECKED, _num_images(loader) // 8))
            with _on_this_rank():
                while sum(len(b["image"]) for b in first) < number and (batch := next(batches, None)) is not None:
                    first.append(batch)
            sanity = _check(tokenizer, first, number, metrics, device, stop=check == "stop")
            batches = itertools.chain(first, batches)
        total = len(loader) if isinstance(loader, Sized) else None
        bar = progress_bar(batches, desc="evaluate", unit="batch", total=total, disable=not progress or rank() > 0)
        kept: dict[int, Tensor] = {}
        seen: dict[int, tuple[str, int]] = {}
        not_finite = torch.zeros((), dtype=torch.int64, device=device)
        made = _reconstructions(tokenizer, bar, device, kept, seen, not_finite, jpeg_quality)
        result = measure(made, metrics, device, begin)
    result.reconstructions = kept
    for samples in all_gather_object(seen):
        result.samples |= samples
    result.sanity = sanity
    if number := int(all_reduce_sum(not_finite)):  # pixels of 8 bits hide it from PSNR and SSIM
        text = f"{number:,} of {result.num_images:,} reconstructions are not finite: damaged weights, or an overflow"
        sanity["errors"] = [*sanity.get("errors", []), text]
    if sanity.get("warnings") is not None and result.tokens_per_image and "codebook_utilization" in result.metrics:
        num_tokens = result.num_images * math.prod(result.tokens_per_image)
        sanity["warnings"] += check_utilization(result.metrics["codebook_utilization"], num_tokens)
    return result


@torch.inference_mode()
def measure(
    batches: Iterable[tuple[EvaluationBatch, str]],
    metrics: dict[str, Metric],
    device: torch.device,
    begin: float | None = None,
) -> Evaluation:
    """Let metrics see batches on a device, and compute their figures over all ranks; a collective call under DDP.

    Args:
        batches: this rank's, on `device`, each with the path of its first image for error messages.
        metrics: by name; they are reset first.
        begin: `time.perf_counter()` at the start of the run; by default now.
    """
    result = Evaluation()
    begin = begin or time.perf_counter()
    for metric in metrics.values():
        metric.reset()
    shapes: set[tuple[tuple[int, ...], tuple[int, ...] | None]] = set()  # of images, and of their tokens
    num_images = 0
    with _on_this_rank():
        for batch, path in batches:
            try:
                for metric in metrics.values():
                    metric.update(batch)
            except ValueError as error:  # e.g. an image smaller than a metric's window
                raise ValueError(f"{error}: in a batch that begins with {path!r}") from error
            num_images += len(batch.output)
            tokens = None if batch.indices is None else tuple(batch.indices.shape[1:])
            shapes.add((tuple(batch.output.shape[2:]), tokens))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    # The sum over ranks also makes their clocks stop together.
    result.num_images = int(all_reduce_sum(torch.tensor(num_images, device=device)))
    result.seconds = time.perf_counter() - begin
    for name, metric in metrics.items():  # in the same order on all ranks
        result.metrics = merged(result.metrics, metric.compute(), name)
        # Beyond the protocol a metric may offer rows, standard errors and details; a report shows what there is.
        result.rows |= getattr(metric, "rows", {})
        if hasattr(metric, "standard_errors"):
            result.standard_errors |= metric.standard_errors()
        if getattr(metric, "details", None):
            result.details[name] = metric.details
    result.compute_seconds = time.perf_counter() - begin - result.seconds
    result.images_per_s = result.num_images / result.seconds
    result.token_axes = next((len(tokens) for _, tokens in shapes if tokens is not None), None)
    if len(shapes) == 1:
        image_size, tokens = shapes.pop()
        result.image_size, result.tokens_per_image = list(image_size), None if tokens is None else list(tokens)
    return result


@contextlib.contextmanager
def _on_this_rank() -> Iterator[None]:
    """Errors inside are those of one rank: of several, a `UserError`, so that none goes on without the others."""
    try:
        yield
    except ValueError as error:
        if world_size() == 1:
            raise
        raise UserError(f"{error} (on rank {rank()}; the other ranks end with it)") from error


def _num_images(loader: Iterable[Sample]) -> int:
    """Images of this rank, at most; of a stream, as many as any set has."""
    return len(loader) * (getattr(loader, "batch_size", None) or 1) if isinstance(loader, Sized) else sys.maxsize


def _reconstructions(
    tokenizer: Tokenizer,
    batches: Iterable[Sample],
    device: torch.device,
    kept: dict[int, Tensor],
    seen: dict[int, tuple[str, int]],
    not_finite: Tensor,
    jpeg_quality: int | None,
) -> Iterator[tuple[EvaluationBatch, str]]:
    is_small = True
    for batch in batches:
        image = to_float(batch["image"].to(device, non_blocking=True))
        if "reconstruction" in batch:  # made elsewhere
            reconstruction, indices = to_float(batch["reconstruction"].to(device, non_blocking=True)), None
        else:
            reconstruction, indices = image_by_image(tokenizer.reconstruct, image)
        not_finite += (~reconstruction.isfinite()).flatten(1).any(dim=1).sum()
        index = torch.as_tensor(batch["index"]).to(device, non_blocking=True)
        labels = torch.as_tensor(batch["label"]).tolist() if "label" in batch else [-1] * len(index)
        seen.update(zip(index.tolist(), zip(map(str, batch["path"]), labels, strict=True), strict=True))
        is_small = is_small and len(kept) + len(index) <= _MOST_KEPT
        if is_small:
            kept.update(zip(index.tolist(), to_uint8(reconstruction).cpu(), strict=True))
        else:
            kept.clear()
        if jpeg_quality is not None:
            image, reconstruction = as_files(image, reconstruction, jpeg_quality)
        yield EvaluationBatch(reconstruction.to(torch.float32), index, image, indices), batch["path"][0]


def _check(
    tokenizer: Tokenizer,
    batches: list[Sample],
    number: int,
    metrics: dict[str, Metric],
    device: torch.device,
    stop: bool,
) -> dict[str, Any]:
    """Check the first images of every rank; all ranks stop, or none does."""
    sanity = Sanity()
    if batches:
        size = batches[0]["image"].shape[-2:]
        same_size = [batch["image"] for batch in batches if batch["image"].shape[-2:] == size]
        image = to_float(torch.cat(same_size)[:number].to(device))
        sanity = check_first_batch(tokenizer, image)
        sanity.errors += check_metrics(metrics, image[:2])
    errors = list(dict.fromkeys(error for errors in all_gather_object(sanity.errors) for error in errors))
    if errors and stop:
        raise SanityError("the first batch looks wrong:\n  " + "\n  ".join(errors))
    return {**asdict(sanity), "errors": errors}
