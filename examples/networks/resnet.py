"""ResNet-18 with both sides of each join quantised, and ResNet-50 with joins of convolutions as they are."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from networks.quantise import Layers


class Basic(nn.Module):
    """Two 3 x 3 convolutions; one signed quantiser on both branches of the join, as Brevitas' ResNet shares it."""

    expansion = 1

    def __init__(self, layers: Layers, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        quantiser = layers.quantiser()
        first = layers.block(inputs, channels, 3, stride)
        self.body = nn.Sequential(first, layers.conv(channels, channels, 3), nn.BatchNorm2d(channels), quantiser)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != channels:
            self.shortcut = nn.Sequential(layers.conv(inputs, channels, 1, stride), nn.BatchNorm2d(channels), quantiser)
        self.activation = layers.activation()

    def forward(self, x: Tensor) -> Tensor:
        """Join, ReLU, quantise."""
        return self.activation(self.body(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions; the join adds what batch norm gives, unquantised."""

    expansion = 4

    def __init__(self, layers: Layers, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        outputs = channels * self.expansion
        self.body = nn.Sequential(
            layers.block(inputs, channels, 1),
            layers.block(channels, channels, 3, stride),
            layers.conv(channels, outputs, 1),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(layers.conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        self.activation = layers.activation()

    def forward(self, x: Tensor) -> Tensor:
        """Join, ReLU, quantise."""
        return self.activation(self.body(x) + self.shortcut(x))


def _resnet(layers: Layers, block: Callable[..., nn.Module], counts: tuple[int, ...], expansion: int) -> nn.Module:
    stem = layers.channels(64)
    parts: list[nn.Module] = [
        layers.edge_quantiser("signed"),
        layers.conv(3, stem, 7, 2, edge=True),
        nn.BatchNorm2d(stem),
        layers.activation(),
        nn.MaxPool2d(3, 2, 1),
    ]
    inputs = stem
    for stage, count in enumerate(counts):
        channels = layers.channels(64 << stage)
        for i in range(count):
            parts.append(block(layers, inputs, channels, 2 if stage and i == 0 else 1))
            inputs = channels * expansion
    parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), layers.edge_quantiser("signed"), layers.linear(inputs, 1000)]
    return nn.Sequential(*parts)


def resnet18(layers: Layers, size: int) -> nn.Module:
    """He et al. 2016, table 1, 18 layers."""
    return _resnet(layers, Basic, (2, 2, 2, 2), Basic.expansion)


def resnet50(layers: Layers, size: int) -> nn.Module:
    """He et al. 2016, table 1, 50 layers; strides in the 3 x 3 convolutions, as torchvision has them."""
    return _resnet(layers, Bottleneck, (3, 4, 6, 3), Bottleneck.expansion)
