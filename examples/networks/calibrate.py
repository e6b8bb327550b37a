"""Seeded weights, and the statistics and steps that one seeded batch of images gives."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from networks.quantise import QuantisedWeights, Quantiser

BATCH = 4


def images(size: int, seed: int, count: int = 1) -> Tensor:
    """Seeded images ``(count, 3, size, size)`` of about unit variance: blobs and some noise."""
    generator = torch.Generator().manual_seed(seed)
    blobs = torch.randn(count, 3, size // 8 + 1, size // 8 + 1, generator=generator)
    noise = torch.randn(count, 3, size, size, generator=generator)
    return functional.interpolate(blobs, size=(size, size), mode="bilinear") + 0.3 * noise


@torch.no_grad()
def calibrate(network: nn.Module, size: int, seed: int) -> nn.Module:
    """The network in evaluation mode, with weights, batch norms and steps as if it were trained.

    One pass over a batch: each batch norm takes its statistics, then each quantiser behind it its step, so that no
    layer is dead and codes use their range.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, QuantisedWeights):
            fan_in = module.weight[0].numel()
            module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * (2 / fan_in) ** 0.5)
            module.fit_steps()
            if getattr(module, "bias", None) is not None:
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
        elif isinstance(module, nn.BatchNorm2d):
            count = module.num_features
            # A few scales are negative, as training leaves them.
            signs = 1 - 2 * (torch.rand(count, generator=generator) < 0.05).float()
            module.weight.copy_((0.5 + torch.rand(count, generator=generator)) * signs)
            module.bias.copy_(torch.randn(count, generator=generator) * 0.3)
            module.momentum = 1.0
            module.train()
        elif isinstance(module, Quantiser):
            module.calibrating = True
    network(images(size, seed, BATCH))
    for module in network.modules():
        if isinstance(module, Quantiser):
            module.calibrating = False
    return network.eval()
