"""Tiny torch networks around a quantiser, and their comparison with torch itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

import tvm_lowbit

SHAPE = (2, 3, 5, 5)
Quantiser = Callable[[torch.Tensor], torch.Tensor]


class Net(nn.Module):
    """A convolution of quantised weights on quantised activations, and the quantised activations themselves."""

    def __init__(self, activations: Quantiser, weights: Quantiser, padding: int = 1) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.activations, self.weights, self.padding = activations, weights, padding
        self.conv = nn.Conv2d(3, 6, 3, bias=False)
        self.conv.weight = nn.Parameter(torch.randn(self.conv.weight.shape, generator=generator) * 0.3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The convolution's result and the quantiser's."""
        q = self.activations(x)
        return nn.functional.conv2d(q, self.weights(self.conv.weight), padding=self.padding), q


def inputs(step: Any = 0.25, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> torch.Tensor:
    """Random values, values half-way between codes, and the floats on either side of those."""
    random = np.random.default_rng(seed)
    step = np.asarray(step, np.float32)
    step = step.reshape(-1, *[1] * (len(shape) - 2)) if step.ndim else step
    x = (random.normal(size=shape) * 2).astype(np.float32)
    middle = ((random.integers(-20, 20, size=shape) + 0.5) * step).astype(np.float32)
    beside = [np.nextafter(middle, np.float32(end)) for end in (99, -99)]
    return torch.from_numpy(np.concatenate([x, middle, *beside]).astype(np.float32))


def compiled(model: Any, x: torch.Tensor, **options: Any) -> tvm_lowbit.artifact.Artifact:
    """Build an exported program or module, and see that it computes what torch computes.

    The second output of a tuple is that of a quantiser: equal to the last bit of its scale's product.
    """
    with torch.no_grad():
        expected = model.module()(x) if isinstance(model, torch.export.ExportedProgram) else model(x)
    example = None if isinstance(model, torch.export.ExportedProgram) else (x,)
    artifact = tvm_lowbit.build(model, "host", example_inputs=example, **options)
    results = list(artifact.run(x.numpy()).outputs.values())
    expected = [expected] if isinstance(expected, torch.Tensor) else list(expected)
    for i, (result, reference) in enumerate(zip(results, expected, strict=True)):
        tolerance = 2e-7 if i == 1 else 1e-5
        np.testing.assert_allclose(result, reference.numpy(), rtol=tolerance, atol=tolerance)
    return artifact


def bits(artifact: Any) -> list[str]:
    """Widths of the low-bit layers."""
    return [row.bits for row in artifact.report.low_bit]


def reasons(artifact: Any) -> dict[str, str]:
    """Why layers stay float, by name."""
    return {row.name: row.reason for row in artifact.report.stays_float}
