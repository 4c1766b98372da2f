"""Building blocks against independent formulas."""

import pytest
import torch
import torch.nn.functional as F

from open_magvit2.layers.convolution import CausalConvolution3d, convolution_2d, convolution_3d
from open_magvit2.layers.normalization import AdaptiveGroupNorm, group_norm
from open_magvit2.layers.resampling import Upsample, depth_to_space, downsample
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
    features = torch.randn(2, 8, 3, 3, dtype=torch.float64) * 1e-3  # so small that 1e-5 instead of 1e-6 shows
    grouped = features.view(2, 4, -1)
    expected = (grouped - grouped.mean(2, keepdim=True)) / (grouped.var(2, unbiased=False, keepdim=True) + 1e-6).sqrt()
    assert torch.allclose(group_norm(8, 4).double()(features), expected.view_as(features), atol=1e-12)


def test_adaptive_group_norm_follows_its_formula():
    norm = AdaptiveGroupNorm(8, 5, num_groups=4).double()
    features, codes = torch.randn(2, 8, 6, 6, dtype=torch.float64), torch.randn(2, 5, 3, 3, dtype=torch.float64)
    scale = codes.flatten(2).std(dim=2).square().add(1e-6).sqrt() @ norm.scale.weight.T + norm.scale.bias
    bias = codes.mean(dim=(2, 3)) @ norm.bias.weight.T + norm.bias.bias
    expected = F.group_norm(features, 4, eps=1e-6) * scale[..., None, None] + bias[..., None, None]
    assert torch.allclose(norm(features, codes), expected, atol=1e-12)


def test_adaptive_group_norm_is_the_same_for_codes_in_half_precision():
    norm = AdaptiveGroupNorm(8, 5, num_groups=4)
    features, codes = torch.randn(2, 8, 6, 6), torch.randn(2, 5, 3, 3).sign()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(norm(features, codes.bfloat16()), norm(features, codes))
    halved = norm.bfloat16()(features.bfloat16(), codes.bfloat16())  # a whole model in bfloat16
    assert halved.dtype == torch.bfloat16


@pytest.mark.parametrize("out_channels", [8, 16])
def test_residual_block_is_the_identity_path_plus_the_residual(out_channels):
    block = ResidualBlock(8, out_channels, norm_groups=4).double()
    features = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    torch.nn.init.zeros_(block.conv2.weight)
    expected = features if out_channels == 8 else F.conv2d(features, block.shortcut.weight)
    assert torch.allclose(block(features), expected, atol=1e-12)
    assert block.conv1.bias is None
    assert block.conv2.bias is None


@pytest.mark.parametrize(("convolution", "axes"), [(convolution_2d, 2), (convolution_3d, 3), (CausalConvolution3d, 3)])
def test_the_same_blocks_serve_images_and_clips(convolution, axes):
    size, grid = (5, 6, 8)[-axes:], (3, 2, 4)[-axes:]
    features, codes = torch.randn(2, 8, *size), torch.randn(2, 5, *grid)
    block = ResidualBlock(8, 16, norm_groups=4, convolution=convolution)
    assert block(features).shape == (2, 16, *size)
    assert AdaptiveGroupNorm(8, 5, num_groups=4)(features, codes).shape == features.shape
    factors = (1, 2, 2)[-axes:]  # space alone
    down = downsample(8, convolution, factors)(features)
    assert down.shape == (2, 8, *(5, 3, 4)[-axes:])
    assert Upsample(8, convolution, factors)(down).shape == features.shape


def test_depth_to_space_takes_any_axes_and_factors():
    features = torch.randn(2, 2 * 1 * 3 * 4, 2, 3, 5)
    clip = depth_to_space(features, (2, 1, 3))
    assert clip.shape == (2, 4, 4, 3, 15)
    for time in range(2):
        for column in range(3):
            first = (time * 3 + column) * 4
            assert torch.equal(clip[:, :, time::2, :, column::3], features[:, first : first + 4])


def test_a_causal_convolution_sees_no_later_frame_and_takes_an_image_for_a_clip_of_one():
    convolution = CausalConvolution3d(3, 4, kernel_size=3, stride=(2, 1, 1)).double()
    clip = torch.randn(1, 3, 9, 6, 6, dtype=torch.float64)
    changed = clip.clone()
    changed[:, :, 5:] += 1.0
    output = convolution(clip)
    assert output.shape == (1, 4, 5, 6, 6)
    different = (output != convolution(changed)).flatten(3).any(3).any(1)[0]
    assert different.tolist() == [False, False, False, True, True]  # frames 0, 2, 4, 6, 8
    image = F.conv2d(clip[:, :, 0], convolution.weight[:, :, -1], convolution.bias, padding=1)
    assert torch.allclose(convolution(clip[:, :, :1])[:, :, 0], image, rtol=0, atol=1e-12)


def test_sizes_an_axis_are_checked():
    with pytest.raises(ValueError, match=r"2 of them, one an axis, got \(3, 3, 3\)"):
        convolution_2d(1, 1, (3, 3, 3))
    with pytest.raises(ValueError, match="got 0"):
        convolution_3d(1, 1, 0)
