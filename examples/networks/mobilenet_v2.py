"""MobileNetV2: depthwise convolutions, linear bottlenecks, joins of signed codes (Sandler et al. 2018, table 2)."""

from __future__ import annotations

from torch import Tensor, nn

from networks.quantise import Layers

# Expansion, channels, repetitions, stride.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; both sides of a join are quantised, and so is its sum."""

    def __init__(self, layers: Layers, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        parts = [layers.block(inputs, hidden, 1, function=nn.ReLU6)] if expansion > 1 else []
        parts.append(layers.block(hidden, hidden, 3, stride, groups=hidden, function=nn.ReLU6))
        parts += [layers.conv(hidden, outputs, 1), nn.BatchNorm2d(outputs), layers.quantiser()]
        self.body = nn.Sequential(*parts)
        self.join = layers.quantiser() if stride == 1 and inputs == outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """The projection, joined to the input where shapes allow."""
        y = self.body(x)
        return y if self.join is None else self.join(x + y)


def mobilenet_v2(layers: Layers, size: int) -> nn.Module:
    """The network at width 1."""
    stem, last = layers.channels(32), layers.channels(1280)
    parts: list[nn.Module] = [
        layers.edge_quantiser("signed"),
        layers.conv(3, stem, 3, 2, edge=True),
        nn.BatchNorm2d(stem),
        layers.activation(nn.ReLU6),
    ]
    inputs = stem
    for expansion, full, count, stride in STAGES:
        outputs = layers.channels(full)
        for i in range(count):
            parts.append(InvertedResidual(layers, inputs, outputs, stride if i == 0 else 1, expansion))
            inputs = outputs
    parts += [layers.block(inputs, last, 1, function=nn.ReLU6), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*parts, layers.edge_quantiser("signed"), layers.linear(last, 1000))
