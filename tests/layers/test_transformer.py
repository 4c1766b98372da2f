"""The vision transformer's form of the block against PyTorch's own layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from open_magvit2.layers.attention import SelfAttention
from open_magvit2.layers.transformer import GEGLU, TransformerBlock

WIDTH, HEADS = 24, 3


@pytest.mark.parametrize("activation", ["gelu", "tanh"])
def test_a_block_with_layer_norms_and_biases_is_pytorchs_encoder_layer(activation):
    torch.manual_seed(0)
    ours = TransformerBlock(
        WIDTH, HEADS, hidden=40, norm="layer", feed_forward=activation, qkv_bias=True, out_bias=True
    ).double()
    function = {"gelu": F.gelu, "tanh": torch.tanh}[activation]
    theirs = nn.TransformerEncoderLayer(WIDTH, HEADS, 40, 0.0, function, norm_first=True, batch_first=True).double()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    names = {"attention_norm": "norm1", "feed_forward_norm": "norm2", "attention.out": "self_attn.out_proj"}
    names |= {"feed_forward.up": "linear1", "feed_forward.down": "linear2", "attention.qkv": "self_attn.in_proj"}
    state = {}
    for name, value in ours.state_dict().items():
        module, kind = name.rsplit(".", 1)
        state[f"{names[module]}{'_' if module == 'attention.qkv' else '.'}{kind}"] = value
    theirs.load_state_dict(state)
    features = torch.randn(2, 7, WIDTH, dtype=torch.float64)
    assert torch.allclose(ours(features), theirs(features), rtol=0, atol=1e-12)


def test_heads_may_be_wider_or_narrower_than_the_width():
    attention = SelfAttention(WIDTH, 2, head_width=10)
    assert attention.qkv.weight.shape == (60, WIDTH)
    assert attention.out.weight.shape == (WIDTH, 20)
    assert attention(torch.randn(2, 5, WIDTH)).shape == (2, 5, WIDTH)
    with pytest.raises(ValueError, match="5 heads do not divide a width of 24"):
        SelfAttention(WIDTH, 5)


def test_geglu_gates_the_first_half_by_the_second():
    layer = GEGLU(4, 6)
    features = torch.randn(3, 4)
    values, gate = (features @ layer.up.weight.T)[:, :6], (features @ layer.up.weight.T)[:, 6:]
    assert torch.allclose(layer(features), (values * F.gelu(gate)) @ layer.down.weight.T, atol=1e-6)
