"""Modules are described and rebuilt; a description chooses no code outside this package."""

from collections.abc import Sequence
from enum import Enum, IntEnum
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from open_magvit2.common.construction import build, check_fulfils, check_rebuilds, class_path, describe, differences
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.protocols import Quantizer
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer


class Part(nn.Module):
    """Keeps its arguments, one of which is a module."""

    def __init__(self, size: int, inner: nn.Module | None = None, names: tuple[str, ...] = ("a",)) -> None:
        super().__init__()
        self.size, self.inner, self.names = size, inner, names


class Forgets(nn.Module):
    """Does not keep its argument."""

    def __init__(self, size: int) -> None:
        super().__init__()


class Swallows(nn.Module):
    """Takes whatever comes."""

    def __init__(self, **options) -> None:
        super().__init__()


class Rotated(nn.Module):
    """Has weights, and a fixed random rotation that no file holds."""

    def __init__(self, blocks: Sequence[nn.Module] = (), named: dict | None = None) -> None:
        super().__init__()
        self.blocks, self.named = nn.ModuleList(blocks), nn.ModuleDict(named or {})
        self.weight = nn.Parameter(torch.empty(3, 3))
        nn.init.normal_(self.weight)
        rotation = torch.empty(3, 3).normal_(generator=torch.Generator().manual_seed(0))
        self.register_buffer("rotation", rotation, persistent=False)


class Scaled(nn.Module):
    """Keeps its argument changed."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = 2 * gain


class Mode(str, Enum):
    FAST = "fast"


class Level(IntEnum):
    LOW = 1


class Size(NamedTuple):
    height: int


class Lazy(nn.Module):
    """Takes its number of input channels from the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(3)


class Drawn(nn.Module):
    """Has a fixed random number that no file holds, another one in every process."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rotation", torch.randn(3), persistent=False)


class Activated(nn.Module):
    """Takes a layer of PyTorch."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation


class Counting(nn.Module):
    """Keeps a number that is no tensor."""

    def get_extra_state(self) -> dict:
        return {"calls": 1}


class Named(nn.Module):
    """Takes an argument by the names of its fields."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.layer = nn.Linear(size.height, 1)


class Bare(nn.Module):
    """Has no constructor."""


def test_a_module_without_a_constructor_has_no_arguments():
    assert describe(Bare()) == {"class_path": class_path(Bare), "init_args": {}}
    assert isinstance(build(describe(Bare()), [__name__]), Bare)


def test_fixed_random_numbers_are_drawn_again():
    made = Rotated()
    built = build(describe(made), [__name__])
    assert torch.equal(built.rotation, made.rotation)


def test_lists_and_dictionaries_of_modules_come_back():
    made = Rotated([Part(1), Part(2)], {"a": Part(3)})
    rebuilt = build(describe(made), [__name__])
    assert [part.size for part in (*rebuilt.blocks, rebuilt.named["a"])] == [1, 2, 3]


def test_layers_of_pytorch_are_arguments_and_named_when_a_file_is_opened():
    made = Activated(nn.LeakyReLU(0.3))
    check_rebuilds(made)
    assert build(describe(made), [__name__, "torch"]).activation.negative_slope == 0.3
    with pytest.raises(ValueError, match=r"LeakyReLU.*--allow-modules torch"):
        build(describe(made), [__name__])


def test_a_module_that_keeps_an_argument_changed_is_refused():
    check_rebuilds(Part(1))
    check_rebuilds(Rotated())
    with pytest.raises(ValueError, match=r"Scaled keeps gain = 2.0, and built from that it has 4.0: keep every"):
        check_rebuilds(Scaled())


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Lazy, "layer.weight, layer.bias get a shape with the first batch"),
        (Counting, "_extra_state: the extra state of a module is no tensor; keep it in buffers"),
        (lambda: Named(Size(2)), "Named cannot be"),
        (Drawn, "rotation of .*Drawn has other values each time that it is built.*persistent=True"),
    ],
)
def test_modules_that_cannot_be_built_again_are_named(part, message):
    with pytest.raises(ValueError, match=message):
        check_rebuilds(part())


def test_a_tree_of_modules_comes_back():
    description = describe(Part(3, Part(4, names=("b", "c"))))
    rebuilt = build(description, allowed_modules=[__name__])
    assert (rebuilt.size, rebuilt.inner.size, rebuilt.inner.inner) == (3, 4, None)
    assert describe(rebuilt) == description
    assert description["init_args"]["inner"]["class_path"] == class_path(Part)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (lambda: Forgets(3), r"Forgets has an argument 'size' but no attribute .* set self.size in __init__"),
        (lambda: Swallows(a=1), r"Swallows takes \*options: name its arguments"),
        (lambda: Part(object()), "Part.size is a object"),
        (lambda: Part(Mode.FAST), "Part.size is a Mode.*plain"),  # a str, but the file would name its class
        (lambda: Part(Level.LOW), "Part.size is a Level"),
        (lambda: Part(np.float64(2)), "Part.size is a float64"),
    ],
)
def test_modules_that_cannot_be_described_are_named(part, message):
    with pytest.raises(ValueError, match=message):
        describe(part())


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"class_path": f"{__name__}.Part"}, rf"{__name__}.Part, which is not part of open_magvit2.*--allow-modules"),
        ({"class_path": "os.system"}, "os.system, which is not part of open_magvit2"),
        ({"class_path": "open_magvit2.common.files.os"}, "no torch.nn.Module class defined there"),
        ({"class_path": "open_magvit2.common.errors.UserError"}, "no torch.nn.Module class defined there"),
        ({"class_path": "open_magvit2.image_tokenizer.model.nn"}, "no torch.nn.Module class defined there"),
        ({"class_path": "open_magvit2.image_tokenizer.model.LookupFreeQuantizer"}, "no torch.nn.Module class defined"),
        ({"class_path": "open_magvit2_evil.Part"}, "not part of open_magvit2"),
        ({"class_path": "open_magvit2.nowhere.Part"}, "does not exist here"),
        ({"class_path": class_path(LookupFreeQuantizer), "init_args": {"bits": 3}}, r"cannot be built with \['bits'\]"),
        ({"class_path": 7}, "expected a description with a class_path"),
        ("Part", "expected a description with a class_path"),
    ],
)
def test_descriptions_choose_no_other_code(description, message):
    with pytest.raises(ValueError, match=message):
        build(description)


def test_differences_are_paths_with_both_values():
    first, second = (
        describe(ImageTokenizer.convolutional(LookupFreeQuantizer(6, temperature=t), 8, (1, 2), 1, 4, adaptive))
        for t, adaptive in ((0.01, False), (0.02, True))
    )
    found = differences(first, second)
    assert found == [("decoder.adaptive_normalization", False, True), ("quantizer.temperature", 0.01, 0.02)]
    may_differ = {class_path(LookupFreeQuantizer): ("temperature",)}
    assert differences(first, second, may_differ) == found[:1]
    del second["init_args"]["decoder"]["init_args"]["adaptive_normalization"]  # an argument from before it existed
    assert differences(first, second, may_differ) == []


def test_missing_members_of_a_protocol_are_named():
    check_fulfils(LookupFreeQuantizer(6), Quantizer)
    with pytest.raises(ValueError, match="Part is no Quantizer: it lacks latent_channels, codebook_size, quantize"):
        check_fulfils(Part(1), Quantizer)
