"""Tokens of any shape through shards: a row of tokens by command line, clips in Python. (Grids: test_own_parts.py.)"""

import numpy as np
import torch
from as_a_user import User
from my_project.clips import ClipTokenizer
from my_project.sequences import SequenceDecoder, SequenceEncoder
from PIL import Image

from open_magvit2.common.construction import describe
from open_magvit2.common.images import to_float, to_uint8
from open_magvit2.data.sources.token_shards import TokenShards
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.image_tokenizer.pretrained import TOKENIZER_KEY
from open_magvit2.protocols import Sample
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer
from open_magvit2.tokens.writing import make_index, tokenize


def test_a_row_of_tokens_an_image(tmp_path):
    torch.manual_seed(0)
    tokenizer = ImageTokenizer(SequenceEncoder(), SequenceDecoder(), LookupFreeQuantizer(6))
    state = {f"tokenizer.{name}": value for name, value in tokenizer.state_dict().items()}
    torch.save({TOKENIZER_KEY: describe(tokenizer), "state_dict": state}, tmp_path / "rows.ckpt")
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.effect_noise((16, 16), 60 + number).convert("RGB").save(tmp_path / f"photos/{number}.png")
    user, common = User(tmp_path), ("tokenize_images.py", "--checkpoint", "rows.ckpt", "--weights", "raw")
    common += ("--allow-modules", "my_project", "--device", "cpu", "--batch-size", "1")
    user.run(*common, "--images", "photos", "--image-size", "16", "--output", "tokens")
    user.run(*common, "--tokens", "tokens", "--output", "decoded")
    tokens, _ = TokenShards(tmp_path / "tokens").read(range(3))
    assert tokens.shape == (3, 5)
    for number in range(3):
        pixels, decoded = (
            torch.from_numpy(np.array(Image.open(tmp_path / folder))).permute(2, 0, 1)
            for folder in (f"photos/{number}.png", f"decoded/{number}.png.png")
        )
        reconstruction, indices = tokenizer.reconstruct(to_float(pixels)[None])
        assert torch.equal(tokens[number], indices[0])
        assert (decoded.int() - to_uint8(reconstruction)[0].int()).abs().max() <= 1


class Clips(torch.utils.data.Dataset):
    """Four clips of 5 frames, 8 x 12."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(index)
        clip = torch.randint(0, 256, (3, 5, 8, 12), generator=generator).to(torch.uint8)
        return Sample(image=clip, label=index % 2, path=f"{index}.mp4", index=index, skipped="")


def test_tokens_of_clips(tmp_path):
    torch.manual_seed(0)
    tokenizer, clips = ClipTokenizer().eval(), Clips()
    (tmp_path / "clips.ckpt").write_bytes(b"its SHA-256 names the tokenizer")
    paths = [clips[index]["path"] for index in range(4)]
    index = make_index(tokenizer, paths, (5, 8, 12), tmp_path / "clips.ckpt", shard_size=3)
    common = {"device": torch.device("cpu"), "batch_size": 1, "progress": False}
    assert tokenize(tokenizer, clips, paths, index, tmp_path / "tokens", **common) == 4
    shards = TokenShards(tmp_path / "tokens")
    assert shards.index.modality == "video"
    tokens, labels = shards.read(range(4))
    assert labels.tolist() == [0, 1, 0, 1]
    expected = torch.cat([tokenizer.tokenize(to_float(clips[index]["image"])[None]) for index in range(4)])
    assert torch.equal(tokens, expected)
    assert tokens.shape == (4, 3, 2, 3)
