"""Export a tokenizer as two graphs, `tokenize` and `detokenize`, to ONNX or torch.export; any batch and any valid size.

A graph holds the weights and needs none of this package. Every export is checked against the eager model on images of
other batches and sizes than it was traced with: the indices must be equal, but for those of latents at the edge between
two codes, where another order of a sum decides.
"""

import importlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from open_magvit2.common.errors import UserError
from open_magvit2.common.files import write_atomically
from open_magvit2.common.images import rescaled
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.image_tokenizer.pretrained import load_tokenizer
from open_magvit2.image_tokenizer.published import published_state
from open_magvit2.image_tokenizer.weight_checks import NoAveragesError

Form = Literal["onnx", "torch"]
SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}
_LARGEST_DIFFERENCE = 0.02  # of pixels in [-1, 1]: rounding is a ten thousandth of it


class Exported(NamedTuple):
    """The files of an export, and how they compare with the eager model."""

    tokenize: Path  # images float32 [B, 3, H, W] in [-1, 1] -> indices int64 [B, *token_shape]
    detokenize: Path  # indices -> reconstruction float32 [B, 3, H, W], not clamped
    largest_difference: float  # of the reconstruction of equal indices, over the images of the check
    num_indices: int  # compared
    num_different: int  # of them; at most one in a thousand


class _Tokenize(nn.Module):
    def __init__(self, tokenizer: ImageTokenizer) -> None:
        super().__init__()
        self.encoder, self.quantizer, self.image_range = tokenizer.encoder, tokenizer.quantizer, tokenizer.image_range

    def forward(self, image: Tensor) -> Tensor:
        return self.quantizer.quantize(self.encoder(rescaled(image, (-1.0, 1.0), self.image_range)))[1]


class _Detokenize(nn.Module):
    def __init__(self, tokenizer: ImageTokenizer) -> None:
        super().__init__()
        self.decoder, self.quantizer, self.image_range = tokenizer.decoder, tokenizer.quantizer, tokenizer.image_range

    def forward(self, indices: Tensor) -> Tensor:
        codes = self.quantizer.indices_to_codes(indices)
        return rescaled(self.decoder(codes), self.image_range, (-1.0, 1.0))


def export(tokenizer: ImageTokenizer, folder: str | Path, form: Form = "onnx") -> Exported:
    """Write `tokenize` and `detokenize` of a tokenizer, and compare what was written with the tokenizer.

    Args:
        tokenizer: in eval mode, float32 on the CPU.
        folder: is made; takes tokenize.onnx and detokenize.onnx, or .pt2 files for `torch.export.load`.
        form: "onnx" (needs the packages of the extra `export`), or "torch".

    Raises:
        ValueError: for another form or class, or if a graph computes something else: more than one index in a thousand,
            or a pixel, differs from the tokenizer's.
        UserError: without the packages of the extra.
    """
    if form not in SUFFIX:
        raise ValueError(f"form must be one of {', '.join(SUFFIX)}, got {form!r}")
    if not isinstance(tokenizer, ImageTokenizer):
        raise ValueError(f"only an ImageTokenizer can be exported, got a {type(tokenizer).__name__}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rule = tokenizer.size_rule
    traced = rule.padded([3 * side for side in rule.multiple]) if rule.fixed is None else rule.fixed
    image = _images(2, traced)
    with torch.no_grad():
        indices = _Tokenize(tokenizer)(image)
    batch, axes, grid = torch.export.Dim("batch", min=1, max=4096), {}, {}
    if rule.fixed is None:
        cells = [torch.export.Dim(name, min=1, max=4096) for name in ("rows", "columns")]
        axes = {
            2 + axis: multiple * cell for axis, (multiple, cell) in enumerate(zip(rule.multiple, cells, strict=True))
        }
        grid = {1 + axis: cell for axis, cell in enumerate(cells)}
    paths = {}
    for name, module, example, dynamic in (
        ("tokenize", _Tokenize(tokenizer), image, {0: batch} | axes),
        ("detokenize", _Detokenize(tokenizer), indices, {0: batch} | grid),
    ):
        program = torch.export.export(module.eval(), (example,), dynamic_shapes=(dynamic,), strict=False)
        paths[name] = folder / f"{name}{SUFFIX[form]}"
        if form == "torch":
            torch.export.save(program, paths[name])
        else:
            _extra("onnxscript")
            torch.onnx.export(program, dynamo=True, verbose=False).save(paths[name])
    return _compare(tokenizer, paths["tokenize"], paths["detokenize"])


def save_published(checkpoint: str | Path, path: str | Path, allowed_modules: Sequence[str] = ()) -> bool:
    """Write a checkpoint of ours in the published form: `published.published_state` of its raw and averaged weights.

    The published form does not name the order of an index's bits: `load_tokenizer` reads a B file most significant bit
    first unless `bit_order` says otherwise.

    Returns:
        whether there are moving averages; without them, the file has the raw weights alone.

    Raises:
        FileNotFoundError, ValueError: as `load_tokenizer`, and for networks that the published form does not have.
    """
    options = {"allowed_modules": allowed_modules}
    raw = load_tokenizer(checkpoint, "raw", **options)
    try:
        averaged = load_tokenizer(checkpoint, "ema", **options)
    except NoAveragesError:
        averaged = None
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    torch.save(
        {"state_dict": published_state(raw, averaged), "global_step": raw.checkpoint_facts["global_step"]}, content
    )
    write_atomically(path, content.getvalue())
    return averaged is not None


def load(path: str | Path) -> Callable[[Tensor], Tensor]:
    """A function of one tensor that runs an exported graph: by onnxruntime on the CPU, or by torch."""
    path = Path(path)
    if path.suffix == SUFFIX["torch"]:
        return torch.export.load(path).module()
    onnxruntime = _extra("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda tensor: torch.from_numpy(session.run(None, {name: tensor.numpy()})[0])


def _extra(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"ONNX needs {name}, which is not installed: pip install '.[export]', or --form torch"
        ) from error


def _compare(tokenizer: ImageTokenizer, tokenize: Path, detokenize: Path) -> Exported:
    """Run the files on images of other batches and sizes than they were traced with."""
    rule, largest, number, different = tokenizer.size_rule, 0.0, 0, 0
    encode, decode = load(tokenize), load(detokenize)
    for batch, factors in ((1, (2, 4)), (3, (5, 3))):
        size = rule.fixed or rule.padded([f * side for f, side in zip(factors, rule.multiple, strict=True)])
        reconstruction, expected = tokenizer.reconstruct(_images(batch, size))
        different += int((encode(_images(batch, size)) != expected).sum())
        number += expected.numel()
        largest = max(largest, (decode(expected) - reconstruction).abs().max().item())
    if different > number / 1000:
        raise ValueError(f"{tokenize}: {different} of {number} indices differ from the tokenizer's")
    if not largest < _LARGEST_DIFFERENCE:
        raise ValueError(f"{detokenize}: pixels in [-1, 1] differ by up to {largest:.2g} from the tokenizer's")
    return Exported(tokenize, detokenize, largest, number, different)


def _images(batch: int, size: tuple[int, ...]) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
