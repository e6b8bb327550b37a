"""Quantised layers in plain torch, and the factory that gives each layer of a network its widths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional

EDGE_BITS = 8  # the input, the first layer's and the last layers' weights
# Values that a step is fitted to, and steps that are tried.
SAMPLE = 20_000
CANDIDATES = 40


@dataclass(frozen=True)
class Scheme:
    """Widths of the layers between the 8-bit ends; several are taken in turn."""

    name: str
    help: str
    weights: tuple[int, ...]
    activations: tuple[int, ...]

    @property
    def bipolar(self) -> bool:
        """Whether activations are signs; the sign is then the only non-linearity, as in a BNN."""
        return self.activations == (1,)


_ROWS = (
    Scheme("w2a2", "2-bit weights and activations", (2,), (2,)),
    Scheme("w1a1", "bipolar weights and activations, signs for ReLUs", (1,), (1,)),
    Scheme("w1a2", "bipolar weights, 2-bit activations", (1,), (2,)),
    Scheme("w4a4", "4-bit weights and activations", (4,), (4,)),
    Scheme("mixed", "from layer to layer other widths", (2, 4, 1, 3, 8, 5), (4, 2, 3, 5)),
)
SCHEMES: Mapping[str, Scheme] = MappingProxyType({row.name: row for row in _ROWS})


class Quantiser(nn.Module):
    """Quantises activations, one step for the tensor.

    Parameters
    ----------
    bits : int
        Width of the codes.
    kind : str
        ``unsigned``, ``signed``, ``affine`` (unsigned codes with a zero point) or ``bipolar`` (``-step`` and ``step``).
    """

    def __init__(self, bits: int, kind: str) -> None:
        super().__init__()
        self.bits, self.kind = bits, kind
        self.low, self.high = (-(1 << bits - 1), (1 << bits - 1) - 1) if kind == "signed" else (0, (1 << bits) - 1)
        self.step, self.zero = 1.0, 0
        self.calibrating = False

    def _fit(self, x: Tensor) -> None:
        """Choose the step that leaves the least squared error on a sample, so that codes use their range."""
        sample = x.detach().flatten()
        sample = sample[:: max(1, sample.numel() // SAMPLE)]
        if self.kind == "bipolar":
            self.step = float(sample.abs().mean())
            return
        largest = float(sample.abs().max()) / self.high
        if self.kind == "affine":
            largest = float(sample.max() - sample.min()) / self.high
        errors = {}
        for candidate in range(CANDIDATES):
            # Down to an eighth, and no round share: averages of a few codes would lie on boundaries between codes.
            self.step = float(torch.tensor(largest * 2 ** (-3 * (candidate + 1 / 3) / CANDIDATES)))
            self.zero = self._zero(sample)
            errors[float((self.values(sample) - sample).square().sum())] = self.step
        self.step = errors[min(errors)]
        self.zero = self._zero(sample)

    def _zero(self, sample: Tensor) -> int:
        lowest = -float(sample.min()) / self.step
        return min(max(round(lowest), self.low), self.high) if self.kind == "affine" else 0

    def values(self, x: Tensor) -> Tensor:
        """The quantised values; shape and dtype stay."""
        if self.kind == "bipolar":
            step = torch.tensor(self.step)
            return torch.where(x >= 0, step, -step)
        return torch.fake_quantize_per_tensor_affine(x, self.step, self.zero, self.low, self.high)

    def forward(self, x: Tensor) -> Tensor:
        """Quantise; in calibration, fit the step first."""
        if self.calibrating:
            self._fit(x)
        return self.values(x)


class QuantisedWeights(nn.Module):
    """What a convolution and a dense layer with quantised weights share: steps per output channel.

    Codes are narrow (-7..7 at 4 bits), as is Brevitas' default, but at 2 bits, where that would leave three codes of
    four; 1 bit is bipolar with the mean magnitude as the step, as in XNOR-Net.
    """

    weight: Tensor
    bits: int
    step: Tensor

    @property
    def high(self) -> int:
        """The largest code."""
        return (1 << self.bits - 1) - 1

    @property
    def low(self) -> int:
        """The smallest code."""
        return -2 if self.bits == 2 else -self.high

    def fit_steps(self) -> None:
        """Set the steps from the weights."""
        magnitudes = self.weight.detach().abs().flatten(1)
        if self.bits == 1:
            self.step = magnitudes.mean(1)
        elif self.bits == 2:
            self.step = magnitudes.mean(1) * 1.1  # about the least squared error for Gaussian weights
        else:
            self.step = magnitudes.amax(1) / self.high

    def quantised(self) -> Tensor:
        """The weights' values on their grids."""
        if self.bits == 1:
            step = self.step.reshape(-1, *[1] * (self.weight.ndim - 1))
            return torch.where(self.weight >= 0, step, -step)
        zeros = torch.zeros(len(self.step), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(self.weight, self.step, zeros, 0, self.low, self.high)


class QuantisedConv(nn.Conv2d, QuantisedWeights):
    """A convolution whose weights are quantised."""

    def __init__(self, bits: int, *args: int, **geometry: object) -> None:
        super().__init__(*args, **geometry)  # type: ignore[arg-type] - each convolution has its own
        self.bits = bits
        self.register_buffer("step", torch.ones(self.out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the quantised weights."""
        weights = self.quantised()
        return functional.conv2d(x, weights, self.bias, self.stride, self.padding, self.dilation, self.groups)


class QuantisedLinear(nn.Linear, QuantisedWeights):
    """A dense layer whose weights are quantised."""

    def __init__(self, bits: int, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.bits = bits
        self.register_buffer("step", torch.ones(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply with the quantised weights."""
        return functional.linear(x, self.quantised(), self.bias)


class Layers:
    """Makes a network's layers; each takes the next width of the scheme.

    Parameters
    ----------
    scheme : Scheme
        Widths between the ends.
    width : float
        Multiplies channels; tests build narrow networks.
    """

    def __init__(self, scheme: Scheme, width: float = 1.0) -> None:
        self.scheme, self.width = scheme, width
        self._convolutions = self._quantisers = 0

    def channels(self, full: int) -> int:
        """Channels of a layer that has ``full`` of them in the full-size network; at least 4."""
        return max(4, int(full * self.width))

    def conv(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        edge: bool = False,
    ) -> nn.Module:
        """A convolution, padded to keep extents unless told otherwise; at the ``edge`` 8 bits, and a bias if last."""
        bits = EDGE_BITS if edge else self.scheme.weights[self._convolutions % len(self.scheme.weights)]
        self._convolutions += not edge
        padding = dilation * (kernel // 2) if padding is None else padding
        geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": False}
        return QuantisedConv(bits, inputs, outputs, kernel, **geometry)

    def head(self, inputs: int, outputs: int, kernel: int) -> nn.Module:
        """A last convolution: 8-bit weights, a bias."""
        return QuantisedConv(EDGE_BITS, inputs, outputs, kernel, padding=kernel // 2)

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        """A last dense layer: 8-bit weights, a bias."""
        return QuantisedLinear(EDGE_BITS, inputs, outputs)

    def quantiser(self, kind: str = "signed") -> nn.Module:
        """A quantiser of the scheme's next width; bipolar in a bipolar scheme."""
        if self.scheme.bipolar:
            return Quantiser(1, "bipolar")
        bits = self.scheme.activations[self._quantisers % len(self.scheme.activations)]
        self._quantisers += 1
        return Quantiser(bits, kind)

    def edge_quantiser(self, kind: str) -> nn.Module:
        """The quantiser of an image, or of what the classifier reads: 8 bits."""
        return Quantiser(EDGE_BITS, kind)

    def activation(self, function: type[nn.Module] = nn.ReLU) -> nn.Module:
        """An activation and its quantiser; in a bipolar scheme a sign alone."""
        if self.scheme.bipolar:
            return self.quantiser()
        return nn.Sequential(function(), self.quantiser("affine" if function is nn.SiLU else "unsigned"))

    def block(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        function: type[nn.Module] = nn.ReLU,
        **more: int,
    ) -> nn.Module:
        """Convolution, batch norm, activation, quantiser."""
        conv = self.conv(inputs, outputs, kernel, stride, **more)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), self.activation(function))
