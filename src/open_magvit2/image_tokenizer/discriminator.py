"""The PatchGAN discriminator (Isola et al., "Image-to-Image Translation with Conditional Adversarial Nets", 2017)."""

from torch import Tensor, nn

from open_magvit2.common.arguments import integer


class PatchDiscriminator(nn.Module):
    """Image [B, 3, H, W] in [-1, 1] -> patch logits [B, 1, h, w]: high where a patch looks real.

    4x4 convolutions of strides 2, ..., 2, 1, 1 with BatchNorm between them and LeakyReLU(0.2); three layers see
    patches of 70 x 70 pixels. Weights start from N(0, 0.02), BatchNorm weights from N(1, 0.02).

    Args:
        channels: filters of the first layer; they double up to eight times.
        num_layers: stride-2 layers.

    Raises:
        ValueError: for sizes out of range; in `forward`, for an image too small to leave a patch.
    """

    def __init__(self, channels: int = 64, num_layers: int = 3) -> None:
        super().__init__()
        integer(1, channels=channels)
        integer(0, num_layers=num_layers)
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        width = channels
        for layer in range(1, num_layers + 1):
            before, width = width, channels * min(2**layer, 8)
            stride = 2 if layer < num_layers else 1
            layers += [
                nn.Conv2d(before, width, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        layers.append(nn.Conv2d(width, 1, 4, stride=1, padding=1))
        self.layers = nn.Sequential(*layers)
        self.smallest_image = 3 * 2**num_layers if num_layers else 4
        self.layers.apply(_initialize)

    def forward(self, image: Tensor) -> Tensor:
        if min(image.shape[2:]) < self.smallest_image:
            raise ValueError(
                f"the discriminator needs images of at least {self.smallest_image} pixels a side, got "
                f"{tuple(image.shape[2:])}: use larger images or fewer discriminator layers"
            )
        return self.layers(image)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
