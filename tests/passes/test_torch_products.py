"""Products as torch.export writes them: 1-d, transposed and on the left, bipolar activations padded with 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tvm_lowbit
from relay_passes.integer_forms import MULTIPLYING


def fake(x: torch.Tensor, scale: float, low: int, high: int, zero: int = 0) -> torch.Tensor:
    """Per tensor."""
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, low, high)


class Sign(nn.Module):
    """-1 or 1, the latter for 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As XNOR networks write it."""
        return torch.where(x >= 0, 1.0, -1.0)


class Waves(nn.Module):
    """Every product once, over (N, 4, 10)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2)
        self.up = nn.ConvTranspose1d(6, 5, 4, stride=2, padding=1, bias=False)
        self.rows = nn.Linear(10, 7)
        self.left = nn.Parameter(torch.randn(3, 5))
        self.image = nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1)
        self.sign = Sign()
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4)
        for count in (3, 4, 5, 6, 7):
            self.register_buffer(f"step{count}", torch.linspace(0.11, 0.23, count))
            self.register_buffer(f"zero{count}", torch.zeros(count, dtype=torch.int32))

    def along(self, w: torch.Tensor, axis: int) -> torch.Tensor:
        """2 bits, a step for each index along an axis."""
        scale, zero = (getattr(self, f"{name}{w.shape[axis]}") for name in ("step", "zero"))
        return torch.fake_quantize_per_channel_affine(w, scale, zero, axis, -2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Quantisers between, all of other scales."""
        f = nn.functional
        x = self.sign(x)
        x = f.conv1d(x, self.along(self.first.weight, 0), self.first.bias, stride=2, padding=1, groups=2)
        x = fake(torch.relu(x), 0.371, 0, 7)
        x = f.conv_transpose1d(x, self.along(self.up.weight, 1), stride=2, padding=1)
        x = fake(x, 0.193, -8, 7, 2)
        x = f.linear(x, self.along(self.rows.weight, 0), self.rows.bias)
        x = fake(x, 0.417, -4, 3)
        x = torch.matmul(self.along(self.left, 0), x)
        x = fake(x, 0.213, -4, 3).reshape(-1, 3, 7, 1)
        w = self.along(self.image.weight, 1)
        x = f.conv_transpose2d(x, w, self.image.bias, stride=2, padding=1, output_padding=1)
        return fake(x, 0.0731, -8, 7)


@pytest.mark.parametrize("exported", [False, True], ids=["module", "exported_program"])
def test_every_product(exported: bool) -> None:
    """Outputs equal bit for bit: they are codes times a step."""
    network, example = Waves().eval(), (torch.zeros(2, 4, 10),)
    model: Any = torch.export.export(network, example) if exported else network
    artifact = tvm_lowbit.build(model, "host", example_inputs=None if exported else example)
    assert [row.bits for row in artifact.report.low_bit] == ["W2A1", "W2A3", "W2A4", "W2A3", "W2A3"]
    assert not MULTIPLYING & {row.op for row in artifact.report.stays_float}
    x = torch.randn(4, 4, 10, generator=torch.Generator().manual_seed(1))
    (found,) = artifact.run(x.numpy()).outputs.values()
    with torch.no_grad():
        expected = network(x).numpy()
    assert len(np.unique(expected)) > 8
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
