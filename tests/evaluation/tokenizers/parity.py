"""Checks of a family against what the authors' code computes, and of its names against their files' names."""

import json
from collections.abc import Callable
from pathlib import Path

import published_weights as published
import pytest
import torch
from torch import Tensor

from open_magvit2.common import construction
from open_magvit2.evaluation.tokenizers import _recognition
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.image_tokenizer.published import averaged_name


def check_golden(
    folder: Path,
    name: str,
    tokenizer: ImageTokenizer,
    value_range: tuple[float, float],
    latent_layout: Callable[[Tensor], Tensor] = lambda latent: latent,
) -> None:
    """Indices equal; latent and reconstruction, computed in float64, to 1e-9.

    The goldens `.f32` are of float32, whose rounding is in them: they are compared to 1e-5 of their largest value.

    Args:
        folder: of the goldens.
        name: of one.
        tokenizer: with its deterministic weights.
        value_range: of its networks' images, in which the goldens are.
        latent_layout: from our latent to the authors'.
    """
    golden = json.loads((folder / "goldens.json").read_text())[name]
    is_rounded = name.endswith(".f32")
    low, high = value_range
    tokenizer = tokenizer.double()
    image = published.input_image(golden["input"], low, high).sub(low).div(high - low).mul(2).sub(1)
    with torch.no_grad():
        latent = latent_layout(tokenizer.encode(image))
        reconstruction, indices = tokenizer.reconstruct(image)
    reconstruction = (reconstruction + 1) / 2 * (high - low) + low
    assert published.hash_of_indices(indices) == golden["indices_sha256"]
    assert indices.flatten()[:12].tolist() == golden["indices_head"]
    for values, expected in ((latent, golden["latent"]), (reconstruction, golden["recon"])):
        assert list(values.shape) == expected["shape"]
        probe = torch.tensor(expected["probe"], dtype=torch.float64)
        bound = 1e-5 * probe.abs().max().item() if is_rounded else 1e-9
        assert torch.allclose(published.probe(values), probe, rtol=0, atol=bound)
        assert values.mean().item() == pytest.approx(expected["mean"], abs=1e-6 if is_rounded else 1e-12)
        assert values.std().item() == pytest.approx(expected["std"], abs=1e-6 if is_rounded else 1e-12)


def check_names(folder: Path, model: str, family_name: str) -> ImageTokenizer:
    """Exactly one family fits a manifest, and each of its names is one tensor of ours of its shape, or ignored.

    Returns:
        the tokenizer, without memory.
    """
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, (shape, _) in published.whole_manifest(folder, model).items()}
        fitting = [name for name, family in _recognition.families().items() if family.fits(state)]
        assert fitting == [family_name]
        family = _recognition.families()[family_name]
        tokenizer = construction.build(family.read_architecture(state))
        again = construction.build(construction.describe(tokenizer))
    shapes = {name: value.shape for name, value in tokenizer.state_dict().items()}
    assert {name: value.shape for name, value in again.state_dict().items()} == shapes
    names = {family.published_name(name, state): value for name, value in tokenizer.state_dict().items()}
    assert len(names) == len(tokenizer.state_dict())
    assert names.keys() <= state.keys()
    assert all(state[name].shape == value.shape for name, value in names.items())
    averages = {averaged_name(name) for name in names} if getattr(family, "HAS_AVERAGES", False) else set()
    assert averages <= state.keys()
    rest = state.keys() - names.keys() - averages
    assert not [name for name in rest if not family.IGNORED.match(name)]
    assert not [name for name in names if family.IGNORED.match(name)]
    return tokenizer
