"""The parameters that the list of published files states, against the manifests of the files."""

import published_weights as published
import pytest
import torch

from open_magvit2.common import construction
from open_magvit2.common import published_files as listed
from open_magvit2.evaluation import tokenizers
from open_magvit2.evaluation.tokenizers import _recognition
from open_magvit2.image_tokenizer import published as own

# published file -> (manifest, its codebook where the manifest is of another size)
MANIFESTS = {
    **{f"imagenet_{size}_{model}": (f"om2_{model}_{size}", None) for size in (128, 256) for model in "BL"},
    **{f"pretrain256_{codes}": (f"om2_pretrain_{codes}", None) for codes in (16384, 262144)},
    **{f"vqgan_imagenet_f16_{codes}": (f"taming_f16_{codes}", None) for codes in (1024, 16384)},
    **{f"vq-f{factor}": (f"ldm_vq_f{factor}", None) for factor in (4, 8, 16)},
    **{f"vq_ds{factor}_c2i": (f"llamagen_vq{factor}", None) for factor in (8, 16)},
    **{f"tokenizer_titok_{size}_imagenet": (f"titok_{size}", None) for size in ("l32", "b64", "s128")},
    **{f"IBQ_{codes}": ("ibq_16384", codes) for codes in (1024, 8192, 16384, 262144)},
    **{f"IBQ_pretrain_{codes}": ("ibq_pretrain_16384", codes) for codes in (16384, 262144)},
    "maskgit-vqgan-imagenet-f16-256": ("maskgit_pt", None),
    "imagenet_ucf": ("omni_rope", None),
    "imagenet_only": ("omni_rel", None),
    "vitvqgan-imagenet-base": ("vitvq_base", None),
}


def test_every_tokenizer_that_can_be_loaded_has_its_size():
    there = {file.name for file in listed.published() if file.millions is not None}
    loaded = {file.name for file in listed.published() if file.family in tokenizers.available()}
    assert there == loaded == MANIFESTS.keys()


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_size_is_that_of_the_networks(shared, name):
    manifest, codes = MANIFESTS[name]
    with torch.device("meta"):
        names = published.whole_manifest(shared / "spec" / "published", manifest)
        state = {key: torch.empty(shape) for key, (shape, _) in names.items()}
        if codes is not None:
            state["quantize.embedding.weight"] = torch.empty(codes, 256)
        read = getattr(_recognition.recognized(state), "read_architecture", own.read_architecture)
        tokenizer = construction.build(read(state))
    number = sum(parameter.numel() for parameter in tokenizer.parameters())
    assert number / 1e6 == pytest.approx(listed.find_published(name).millions, abs=0.0051)
