"""A detector as YOLOv5s: SiLU, Concat, nearest upsampling, SPPF with max pools, three 8-bit heads.

Branches of a C3 block share the quantiser in front of their Concat, and SPPF's pools hand codes on; where maps of
different depth meet, their codes have different steps and the Concat is quantised anew.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from networks.quantise import Layers

ANCHORS, CLASSES = 3, 80
# YOLOv5s is half as wide as the channels below and a third as deep as the original.
WIDTH = 0.5


class Conv(nn.Module):
    """Convolution, batch norm, SiLU, and a quantiser: its own or one it shares."""

    def __init__(
        self,
        layers: Layers,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        quantiser: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv = layers.conv(inputs, outputs, kernel, stride)
        self.norm = nn.BatchNorm2d(outputs)
        self.activation: nn.Module = nn.Identity() if layers.scheme.bipolar else nn.SiLU()
        self.quantiser = quantiser if quantiser is not None else layers.quantiser("affine")

    def forward(self, x: Tensor) -> Tensor:
        """Codes' values."""
        return self.quantiser(self.activation(self.norm(self.conv(x))))


class Bottleneck(nn.Module):
    """Two convolutions, joined to the input or not; the result passes the quantiser it is given."""

    def __init__(self, layers: Layers, channels: int, joined: bool, quantiser: nn.Module) -> None:
        super().__init__()
        self.first = Conv(layers, channels, channels, 1)
        self.second = Conv(layers, channels, channels, 3, quantiser=None if joined else quantiser)
        self.join = quantiser if joined else None

    def forward(self, x: Tensor) -> Tensor:
        """The second convolution's codes, or the quantised sum with the input's."""
        y = self.second(self.first(x))
        return y if self.join is None else self.join(x + y)


class C3(nn.Module):
    """Two branches, one through bottlenecks, concatenated."""

    def __init__(self, layers: Layers, inputs: int, outputs: int, count: int, joined: bool = True) -> None:
        super().__init__()
        hidden = outputs // 2
        shared = layers.quantiser("affine")
        self.first = Conv(layers, inputs, hidden, 1)
        self.second = Conv(layers, inputs, hidden, 1, quantiser=shared)
        inner = [Bottleneck(layers, hidden, joined, layers.quantiser("affine")) for _ in range(count - 1)]
        self.body = nn.Sequential(*inner, Bottleneck(layers, hidden, joined, shared))
        self.last = Conv(layers, 2 * hidden, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The block."""
        return self.last(torch.cat([self.body(self.first(x)), self.second(x)], 1))


class Sppf(nn.Module):
    """Three max pools in a row, concatenated with what they start from."""

    def __init__(self, layers: Layers, channels: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.first, self.last = Conv(layers, channels, hidden, 1), Conv(layers, 4 * hidden, channels, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """The block."""
        pools = [self.first(x)]
        for _ in range(3):
            pools.append(self.pool(pools[-1]))
        return self.last(torch.cat(pools, 1))


class Yolo(nn.Module):
    """Backbone, neck and heads; returns the three heads' maps ``(N, anchors * (5 + classes), h, w)``."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        c64, c128, c256, c512, c1024 = (2 * layers.channels(int(c * WIDTH / 2)) for c in (64, 128, 256, 512, 1024))
        self.image = layers.edge_quantiser("signed")
        self.stem = nn.Sequential(layers.conv(3, c64, 6, 2, padding=2, edge=True), nn.BatchNorm2d(c64))
        self.stem_activation = layers.activation(nn.SiLU)
        self.stages = nn.ModuleList(
            (
                nn.Sequential(Conv(layers, c64, c128, 3, 2), C3(layers, c128, c128, 1)),
                nn.Sequential(Conv(layers, c128, c256, 3, 2), C3(layers, c256, c256, 2)),
                nn.Sequential(Conv(layers, c256, c512, 3, 2), C3(layers, c512, c512, 3)),
                nn.Sequential(Conv(layers, c512, c1024, 3, 2), C3(layers, c1024, c1024, 1), Sppf(layers, c1024)),
            )
        )
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.lateral = nn.ModuleList((Conv(layers, c1024, c512, 1), Conv(layers, c512, c256, 1)))
        self.down = nn.ModuleList((Conv(layers, c256, c256, 3, 2), Conv(layers, c512, c512, 3, 2)))
        self.requantise = nn.ModuleList(layers.quantiser("affine") for _ in range(4))
        self.merge = nn.ModuleList(
            (
                C3(layers, 2 * c512, c512, 1, joined=False),
                C3(layers, 2 * c256, c256, 1, joined=False),
                C3(layers, 2 * c256, c512, 1, joined=False),
                C3(layers, 2 * c512, c1024, 1, joined=False),
            )
        )
        self.heads = nn.ModuleList(layers.head(c, ANCHORS * (5 + CLASSES), 1) for c in (c256, c512, c1024))

    def _merge(self, i: int, *maps: Tensor) -> Tensor:
        return self.merge[i](self.requantise[i](torch.cat(maps, 1)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Heads from the finest map to the coarsest."""
        x = self.stages[0](self.stem_activation(self.stem(self.image(x))))
        fine = self.stages[1](x)
        middle = self.stages[2](fine)
        top = self.lateral[0](self.stages[3](middle))
        side = self.lateral[1](self._merge(0, self.up(top), middle))
        small = self._merge(1, self.up(side), fine)
        medium = self._merge(2, self.down[0](small), side)
        large = self._merge(3, self.down[1](medium), top)
        return self.heads[0](small), self.heads[1](medium), self.heads[2](large)


def yolov5(layers: Layers, size: int) -> nn.Module:
    """The detector; ``size`` is a multiple of 32."""
    return Yolo(layers)
