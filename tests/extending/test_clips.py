"""The image tokenizer's blocks make a tokenizer of clips: the convolution, causal in time or not, is an argument."""

import pytest
import torch
from my_project.clips import ClipTokenizer

from open_magvit2.layers.convolution import CausalConvolution3d, convolution_3d
from open_magvit2.protocols import Tokenizer

SIZE = (5, 12, 8)  # frames, height, width


@pytest.mark.parametrize("convolution", [CausalConvolution3d, convolution_3d])
def test_a_clip_tokenizer_trains_and_its_tokens_decode_to_its_reconstruction(convolution):
    tokenizer = ClipTokenizer(convolution=convolution).double()
    assert isinstance(tokenizer, Tokenizer)
    clip = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    output, _, losses = tokenizer(clip)
    (output.square().mean() + losses["commitment"]).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tokenizer.parameters())
    indices = tokenizer.tokenize(clip)
    assert indices.shape == (2, *tokenizer.token_shape(SIZE)) == (2, 3, 3, 2)
    reconstruction, same = tokenizer.reconstruct(clip)
    assert reconstruction.shape == clip.shape
    assert torch.equal(same, indices)
    assert torch.allclose(tokenizer.detokenize(indices), reconstruction, rtol=0, atol=1e-12)


def test_sizes_of_clips_are_checked():
    with pytest.raises(ValueError, match=r"\(2 plus 1\) x 4 x 4, got 4 x 12 x 8"):
        ClipTokenizer().token_shape((4, 12, 8))
