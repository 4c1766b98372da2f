"""Building blocks against independent formulas."""

import pytest
import torch
import torch.nn.functional as F

from open_magvit2.layers.normalization import AdaptiveGroupNorm, group_norm
from open_magvit2.layers.resampling import depth_to_space
from open_magvit2.layers.residual import ResidualBlock


def test_depth_to_space_puts_block_positions_before_channels():
    features = torch.randn(2, 12, 4, 5)
    image = depth_to_space(features)
    assert image.shape == (2, 3, 8, 10)
    for row in range(2):
        for column in range(2):
            block = features[:, (row * 2 + column) * 3 : (row * 2 + column + 1) * 3]
            assert torch.equal(image[:, :, row::2, column::2], block)


def test_group_norm_has_the_published_eps():
    features = torch.randn(2, 8, 3, 3) * 1e-3  # so small that 1e-5 instead of 1e-6 shows
    grouped = features.view(2, 4, -1)
    expected = (grouped - grouped.mean(2, keepdim=True)) / (grouped.var(2, unbiased=False, keepdim=True) + 1e-6).sqrt()
    assert torch.allclose(group_norm(8, 4)(features), expected.view_as(features), atol=1e-5)


def test_adaptive_group_norm_follows_its_formula():
    norm = AdaptiveGroupNorm(8, 5, num_groups=4)
    features, codes = torch.randn(2, 8, 6, 6), torch.randn(2, 5, 3, 3)
    scale = codes.flatten(2).std(dim=2).square().add(1e-6).sqrt() @ norm.scale.weight.T + norm.scale.bias
    bias = codes.mean(dim=(2, 3)) @ norm.bias.weight.T + norm.bias.bias
    expected = F.group_norm(features, 4, eps=1e-6) * scale[..., None, None] + bias[..., None, None]
    assert torch.allclose(norm(features, codes), expected, atol=1e-5)


def test_adaptive_group_norm_is_the_same_for_codes_in_half_precision():
    norm = AdaptiveGroupNorm(8, 5, num_groups=4)
    features, codes = torch.randn(2, 8, 6, 6), torch.randn(2, 5, 3, 3).sign()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(norm(features, codes.bfloat16()), norm(features, codes))
    halved = norm.bfloat16()(features.bfloat16(), codes.bfloat16())  # a whole model in bfloat16
    assert halved.dtype == torch.bfloat16


@pytest.mark.parametrize("out_channels", [8, 16])
def test_residual_block_is_the_identity_path_plus_the_residual(out_channels):
    block = ResidualBlock(8, out_channels, norm_groups=4)
    features = torch.randn(2, 8, 5, 5)
    torch.nn.init.zeros_(block.conv2.weight)
    expected = features if out_channels == 8 else F.conv2d(features, block.shortcut.weight)
    assert torch.allclose(block(features), expected, atol=1e-6)
    assert block.conv1.bias is None
    assert block.conv2.bias is None
