"""A small residual network whose weights and activations pass learned-step quantisers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

EDGE_BITS = 8  # input, stem weights, pooled features and classifier weights

# The grey levels k/16 are exact multiples of 1/240, so none of them starts on a rounding boundary (1/255 would
# put the middle grey at 127.5).
INPUT_STEP = 1 / 240

MIN_STEP = 1e-6


class Quantiser(nn.Module):
    """Uniform quantiser with learned step (LSQ, Esser et al. 2020).

    Maps ``x`` to ``(round(clip(x / step + offset, low, high)) - offset) * step``. Evaluation mode computes exactly
    that formula and is what gets exported; training mode adds the straight-through gradient.

    Parameters
    ----------
    low, high : int
        Range of the integers.
    offset : float
        0.5 for bipolar weights, else 0.
    channels : int or None
        One step per slice of the first axis, stored as (channels, 1, 1, 1); None for a single step, shape ().
    step : float or None
        Initial step. None fits it to the first tensor seen in training mode.
    batched : bool
        Whether the first axis counts images, as it does for activations.
    """

    def __init__(
        self,
        low: int,
        high: int,
        *,
        offset: float = 0.0,
        channels: int | None = None,
        step: float | None = None,
        batched: bool = False,
    ) -> None:
        super().__init__()
        self.batched = batched
        self.low, self.high, self.offset = float(low), float(high), offset
        self.per_channel = channels is not None
        shape = () if channels is None else (channels, 1, 1, 1)
        self.step = nn.Parameter(torch.full(shape, 1.0 if step is None else step))
        self.fitted = step is not None

    def _levels(self, x: Tensor, step: Tensor) -> Tensor:
        scaled = x / step
        if self.offset:
            scaled = scaled + self.offset
        return scaled.clamp(self.low, self.high)

    def _values(self, levels: Tensor, step: Tensor) -> Tensor:
        return (levels - self.offset if self.offset else levels) * step

    @torch.no_grad()
    def fit_step(self, x: Tensor) -> None:
        """Set each step to the one of 100 candidates with the least squared error on `x`."""
        axes = tuple(range(1 if self.per_channel else 0, x.ndim))
        largest = x.abs().amax(dim=axes, keepdim=self.per_channel) / (self.high - self.offset)
        best = torch.full_like(self.step, math.inf)
        for candidate in range(1, 101):
            step = (largest * (candidate / 100)).clamp(min=MIN_STEP)
            error = (self._values(self._levels(x, step).round(), step) - x).square().sum(axes, self.per_channel)
            self.step.copy_(torch.where(error < best, step, self.step))
            best = torch.minimum(error, best)
        self.fitted = True

    def forward(self, x: Tensor) -> Tensor:
        """Quantise `x`; shape and dtype stay."""
        if not self.training:
            return self._values(self._levels(x, self.step).round(), self.step)
        if not self.fitted:
            self.fit_step(x.detach())
        # All elements that share a step pull at it; LSQ divides by the root of their number (per image) and range.
        shared = x[0].numel() if self.batched or self.per_channel else x.numel()
        scale = 1.0 / math.sqrt(shared * max(self.high, 1.0))
        step = self.step * scale + (self.step - self.step * scale).detach()
        levels = self._levels(x, step)
        return self._values(levels + (levels.round() - levels).detach(), step)


def activation_quantiser(bits: int | None, step: float | None = None) -> nn.Module:
    """Return an unsigned per-tensor quantiser, or the identity for `bits` None."""
    return nn.Identity() if bits is None else Quantiser(0, 2**bits - 1, step=step, batched=True)


def weight_quantiser(bits: int | None, channels: int | None) -> nn.Module:
    """Return a signed quantiser (one bit: bipolar, values +-step/2), or the identity for `bits` None."""
    if bits is None:
        return nn.Identity()
    if bits == 1:
        return Quantiser(0, 1, offset=0.5, channels=channels)
    return Quantiser(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, channels=channels)


class QuantConv(nn.Conv2d):
    """3x3 convolution without bias, padding 1, with quantised weights (one step per output channel)."""

    def __init__(self, inputs: int, outputs: int, bits: int | None) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=False)
        self.weight_quant = weight_quantiser(bits, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `x`, shape (N, inputs, H, W), to (N, outputs, H, W)."""
        return functional.conv2d(x, self.weight_quant(self.weight), padding=self.padding)


class QuantLinear(nn.Linear):
    """Linear layer with bias and quantised weights (one step for all)."""

    def __init__(self, inputs: int, outputs: int, bits: int | None) -> None:
        super().__init__(inputs, outputs)
        self.weight_quant = weight_quantiser(bits, None)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x`, shape (N, inputs), to (N, outputs)."""
        return functional.linear(x, self.weight_quant(self.weight), self.bias)


class ConvUnit(nn.Sequential):
    """Convolution, batch normalisation, ReLU and activation quantiser."""

    def __init__(self, inputs: int, outputs: int, weight_bits: int | None, act_bits: int | None) -> None:
        super().__init__()
        self.conv = QuantConv(inputs, outputs, weight_bits)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.act = activation_quantiser(act_bits)


class ResidualBlock(nn.Module):
    """Two convolutions around an identity shortcut that carries quantised activations."""

    def __init__(self, channels: int, weight_bits: int | None, act_bits: int | None) -> None:
        super().__init__()
        self.unit = ConvUnit(channels, channels, weight_bits, act_bits)
        self.conv = QuantConv(channels, channels, weight_bits)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.act = activation_quantiser(act_bits)

    def forward(self, x: Tensor) -> Tensor:
        """Transform quantised `x`, shape (N, channels, H, W), keeping its shape."""
        y: Tensor = self.act(self.relu(self.bn(self.conv(self.unit(x))) + x))
        return y


class DigitsNet(nn.Sequential):
    """The example network: images (N, 1, 8, 8) float32 to logits (N, 10) float32.

    Parameters
    ----------
    weight_bits, act_bits : int or None
        Precision of the inner layers. With None the network has no weight (activation) quantisers at all, otherwise
        its edges run at eight bits.
    """

    def __init__(self, weight_bits: int | None = None, act_bits: int | None = None) -> None:
        super().__init__()
        edge_weight_bits = None if weight_bits is None else EDGE_BITS
        edge_act_bits = None if act_bits is None else EDGE_BITS
        self.input_quant = activation_quantiser(edge_act_bits, INPUT_STEP)
        self.stem = ConvUnit(1, 32, edge_weight_bits, act_bits)
        self.block1 = ResidualBlock(32, weight_bits, act_bits)
        self.maxpool = nn.MaxPool2d(2)
        self.widen = ConvUnit(32, 64, weight_bits, act_bits)
        self.block2 = ResidualBlock(64, weight_bits, act_bits)
        self.avgpool = nn.AvgPool2d(4)
        self.pool_quant = activation_quantiser(edge_act_bits)
        self.flatten = nn.Flatten()
        self.classifier = QuantLinear(64, 10, edge_weight_bits)

    def steps(self) -> list[nn.Parameter]:
        """Return the learned steps, shape () or (channels, 1, 1, 1) each."""
        return [module.step for module in self.modules() if isinstance(module, Quantiser)]

    @torch.no_grad()
    def keep_steps_positive(self) -> None:
        """Project the learned steps to positive values; to be called after every optimiser step."""
        for step in self.steps():
            step.clamp_(min=MIN_STEP)
