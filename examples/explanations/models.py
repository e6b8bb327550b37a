"""The networks that are explained: plain stacks with the learned-step quantisers of `examples/digits`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from digits.model import EDGE_BITS, INPUT_STEP, MIN_STEP, Quantiser, QuantLinear, activation_quantiser, weight_quantiser
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Scheme:
    """Bits of weights and activations of the inner layers; input, first and last weights have eight, or all none."""

    weights: int | None
    activations: int | None

    @property
    def edge(self) -> int | None:
        """Of the input and of the first and last layer's weights."""
        return None if self.weights is None else EDGE_BITS


SCHEMES: Mapping[str, Scheme] = MappingProxyType(
    {"fp32": Scheme(None, None), "w2a2": Scheme(2, 2), "w1a2": Scheme(1, 2), "w1a1": Scheme(1, 1)}
)


class Conv(nn.Conv2d):
    """Convolution with bias and quantised weights, one step per output channel."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        bits: int | None,
        *,
        stride: int = 1,
        padding: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, padding=padding)
        self.weight_quant = weight_quantiser(bits, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `x`, shape (N, inputs, H, W)."""
        return functional.conv2d(x, self.weight_quant(self.weight), self.bias, self.stride, self.padding)


class AsPicture(nn.Module):
    """Sequences (N, channels, length) as pictures of one row, for two-dimensional convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, channels, 1, length)."""
        return x.unsqueeze(2)


class Network(nn.Sequential):
    """Layers in a row, with what training needs of their quantisers."""

    def steps(self) -> list[nn.Parameter]:
        """Return the learned steps."""
        return [module.step for module in self.modules() if isinstance(module, Quantiser)]

    @torch.no_grad()
    def keep_steps_positive(self) -> None:
        """Project the learned steps to positive values; to be called after every optimiser step."""
        for step in self.steps():
            step.clamp_(min=MIN_STEP)


def dna_network(scheme: Scheme, filters: int = 50, width: int = 11, hidden: int = 50, tasks: int = 3) -> Network:
    """The DeepLIFT paper's: one-hot (N, 4, length) to logits (N, 3).

    Two convolutions, the mean over all positions, a dense layer; with a quantiser after every ReLU and of the mean.
    """
    net = Network()
    net.picture, net.input_quant = AsPicture(), activation_quantiser(scheme.edge, INPUT_STEP)
    net.conv1 = Conv(4, filters, (1, width), scheme.edge)
    net.relu1, net.act1 = nn.ReLU(), activation_quantiser(scheme.activations)
    net.conv2 = Conv(filters, filters, (1, width), scheme.weights)
    net.relu2, net.act2 = nn.ReLU(), activation_quantiser(scheme.activations)
    net.pool, net.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    net.pool_quant = activation_quantiser(scheme.edge)
    net.dense1 = QuantLinear(filters, hidden, scheme.weights)
    net.relu3, net.act3 = nn.ReLU(), activation_quantiser(scheme.activations)
    net.dense2 = QuantLinear(hidden, tasks, scheme.edge)
    return net


def digit_network(scheme: Scheme) -> Network:
    """After the DeepLIFT paper's for MNIST, of 8 x 8 pixels: images (N, 1, 8, 8) to logits (N, 10).

    Two convolutions, the second with stride 2 and 64 channels, and a hidden dense layer; no pooling.
    """
    net = Network()
    net.input_quant = activation_quantiser(scheme.edge, INPUT_STEP)
    net.conv1 = Conv(1, 32, (3, 3), scheme.edge, padding=(1, 1))
    net.relu1, net.act1 = nn.ReLU(), activation_quantiser(scheme.activations)
    net.conv2 = Conv(32, 64, (3, 3), scheme.weights, stride=2, padding=(1, 1))
    net.relu2, net.act2 = nn.ReLU(), activation_quantiser(scheme.activations)
    net.flatten = nn.Flatten()
    net.dense1 = QuantLinear(64 * 4 * 4, 128, scheme.weights)
    net.relu3, net.act3 = nn.ReLU(), activation_quantiser(scheme.activations)
    net.dense2 = QuantLinear(128, 10, scheme.edge)
    return net


MODELS: Mapping[str, Callable[[Scheme], Network]] = MappingProxyType({"digits": digit_network, "dna": dna_network})
