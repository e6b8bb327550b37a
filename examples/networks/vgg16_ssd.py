"""VGG-16 with an SSD head: six feature maps, two 8-bit convolutions on each (Liu et al. 2016, SSD300)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from networks.quantise import Layers

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
# Channels of the 1 x 1 convolution, of the 3 x 3 one behind it, its stride and padding.
EXTRAS = ((256, 512, 2, 1), (128, 256, 2, 1), (128, 256, 1, 0), (128, 256, 1, 0))
BOXES = (4, 6, 6, 6, 4, 4)
CLASSES = 21


class VggSsd(nn.Module):
    """The detector; returns box offsets ``(N, boxes, 4)`` and class scores ``(N, boxes, 21)``."""

    def __init__(self, layers: Layers, size: int) -> None:
        super().__init__()
        self.image = layers.edge_quantiser("signed")
        parts: list[nn.Module] = []
        sources: list[nn.Module] = []
        tapped: list[int] = []
        inputs = 3
        for stage, (full, count) in enumerate(STAGES):
            for i in range(count):
                outputs = layers.channels(full)
                first = stage == i == 0
                parts.append(layers.block(inputs, outputs, 3, edge=first))
                inputs = outputs
            if stage == 3:  # conv4_3 is the first feature map
                sources.append(nn.Sequential(*parts))
                tapped.append(inputs)
                parts = []
            # SSD pools the third stage with the ceiling (75 to 38 pixels), and keeps the extents of the fifth.
            parts.append(nn.MaxPool2d(3, 1, 1) if stage == 4 else nn.MaxPool2d(2, 2, ceil_mode=stage == 2))
        wide = layers.channels(1024)
        parts += [layers.block(inputs, wide, 3, dilation=6), layers.block(wide, wide, 1)]
        sources.append(nn.Sequential(*parts))
        tapped.append(wide)
        inputs = wide
        extent = -(-(size // 2 // 2) // 2) // 2
        for narrow, full, stride, padding in EXTRAS:
            if extent + 2 * padding < 3:
                break  # small inputs have fewer feature maps
            extent = (extent + 2 * padding - 3) // stride + 1
            middle, outputs = layers.channels(narrow), layers.channels(full)
            extra = [layers.block(inputs, middle, 1), layers.block(middle, outputs, 3, stride, padding=padding)]
            sources.append(nn.Sequential(*extra))
            tapped.append(outputs)
            inputs = outputs
        self.sources = nn.ModuleList(sources)
        rows = list(zip(tapped, BOXES, strict=False))
        self.offsets = nn.ModuleList(layers.head(channels, boxes * 4, 3) for channels, boxes in rows)
        self.scores = nn.ModuleList(layers.head(channels, boxes * CLASSES, 3) for channels, boxes in rows)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """All boxes of all feature maps."""
        x = self.image(x)
        offsets, scores = [], []
        for source, offset, score in zip(self.sources, self.offsets, self.scores, strict=True):
            x = source(x)
            offsets.append(offset(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4))
            scores.append(score(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, CLASSES))
        return torch.cat(offsets, 1), torch.cat(scores, 1)


def vgg16_ssd(layers: Layers, size: int) -> nn.Module:
    """The detector for images of ``size`` pixels; SSD's own size is 300."""
    return VggSsd(layers, size)
