"""Operators of torch in float: what the front end makes of them equals torch, whatever their options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.ao.quantization.fx._decomposed  # registers the operators
import torch.nn.functional as F
from torch import nn

import tvm_lowbit

Q = torch.ops.quantized_decomposed
IMAGE = (2, 4, 7, 9)
EVEN = (2, 4, 6, 8)
ROW = (2, 4, 15)


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, call: Any) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: torch.Tensor) -> Any:
        """Call it."""
        return self.call(x)


class ConstantLeft(nn.Module):
    """A constant times the input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        return torch.matmul(self.weight, x)


def norm(kind: Any, **options: Any) -> Any:
    layer = kind(4, **options)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    return layer


# Functions that make one network a shape: each of its outputs is one operator's.
NETWORKS: dict[str, tuple[tuple[int, ...], Any]] = {
    "conv1d": (
        ROW,
        lambda: [
            nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2),
            nn.Conv1d(4, 8, 3, groups=2),
            nn.Conv1d(4, 4, 4, padding="same"),
            nn.ConvTranspose1d(4, 6, 3, stride=2),
            nn.MaxPool1d(3, 2, 1),
            nn.AvgPool1d(3, 2, 1),
            nn.AdaptiveAvgPool1d(5),
            nn.Upsample(scale_factor=2),
        ],
    ),
    "conv2d": (
        IMAGE,
        lambda: [
            nn.Conv2d(4, 6, 3, stride=(2, 1), padding=(1, 2)),
            nn.Conv2d(4, 6, 3, groups=2, bias=False),
            nn.Conv2d(4, 8, 3, groups=4, dilation=2, padding=2),
            nn.Conv2d(4, 6, (4, 2), padding="same"),
            nn.Sequential(nn.ZeroPad2d((1, 2, 0, 3)), nn.Conv2d(4, 6, 3)),
            nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
            nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
            nn.ConvTranspose2d(4, 6, (2, 3), groups=2, dilation=2, bias=False),
        ],
    ),
    "dense": (
        (3, 2, 4),
        lambda: [nn.Linear(4, 5), nn.Linear(4, 5, bias=False), Of(lambda x: F.linear(x[:, 0], torch.ones(2, 4)))],
    ),
    "constant_left": ((3, 4, 6), lambda: [ConstantLeft()]),
    "pools": (
        IMAGE,
        lambda: [
            nn.MaxPool2d(3, 2, 1),
            nn.MaxPool2d(3, 2, 1, ceil_mode=True),
            nn.MaxPool2d(2, 1, dilation=2),
            nn.AvgPool2d(3, 2, 1),
            nn.AvgPool2d(3, 2, 1, count_include_pad=False),
            nn.AvgPool2d(2, 2, ceil_mode=True),
            nn.AvgPool2d(2, divisor_override=3),
            nn.AdaptiveAvgPool2d(1),
            nn.AdaptiveAvgPool2d((2, 3)),
            nn.AdaptiveMaxPool2d(1),
            nn.AdaptiveMaxPool2d((2, 4)),
            Of(lambda x: x.mean((2, 3))),
            Of(lambda x: x.mean([-1, -2], keepdim=True)),
            Of(lambda x: x.amax((2, 3))),
        ],
    ),
    "resizes": (
        EVEN,
        lambda: [
            nn.Upsample(scale_factor=2),
            nn.Upsample(scale_factor=1.5),
            nn.Upsample(scale_factor=(0.7, 1.3)),
            nn.Upsample(size=(5, 13)),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Upsample(scale_factor=1.7, mode="bilinear"),
            nn.Upsample(size=(5, 13), mode="bilinear"),
            nn.PixelShuffle(2),
            nn.PixelUnshuffle(2),
        ],
    ),
    "shapes": (
        EVEN,
        lambda: [
            Of(lambda x: torch.cat([x, x * 2], 1)),
            Of(lambda x: torch.split(x, [1, 3], 1)[1] * 2),
            Of(lambda x: torch.chunk(x, 3, 3)[2] + 1),
            nn.Flatten(),
            Of(lambda x: x.reshape(2, -1, 3)),
            Of(lambda x: x.view(x.size(0), -1)),
            Of(lambda x: x.permute(0, 2, 3, 1)),
            Of(lambda x: x[:, -1] + x[:, 1]),
            Of(lambda x: torch.cat([x[..., ::2, ::2], x[..., 1::2, 1::2]], 1)),
        ],
    ),
    "activations": (
        IMAGE,
        lambda: [
            norm(nn.BatchNorm2d),
            norm(nn.BatchNorm2d, affine=False),
            *(nn.LeakyReLU(0.1), nn.SiLU(), nn.Sigmoid(), nn.Hardswish(), nn.Hardsigmoid(), nn.ReLU6()),
            *(nn.Softmax(1), nn.PReLU(4), nn.Hardtanh(-0.5, 0.7), nn.Mish(), nn.GELU(), nn.Tanh(), nn.Softplus()),
        ],
    ),
    "arithmetic": (
        IMAGE,
        lambda: [
            Of(lambda x: torch.add(x, x * 2, alpha=3)),
            Of(lambda x: torch.sub(x, x * 2, alpha=3)),
            Of(lambda x: torch.rsub(x, 2.5)),
            Of(lambda x: 3 / (x * x + 1)),
            Of(lambda x: torch.where(x > 0.25, x, -x)),
            Of(lambda x: torch.where(x > 0.25, 0.25, x) + torch.where(x.lt(-0.5), -0.5, x)),
            Of(lambda x: torch.arange(9) / 2 + x),
            Of(lambda x: x.clamp(min=0.1) + torch.clamp(x, torch.tensor(-0.5), torch.linspace(-0.6, 0.3, 9))),
        ],
    ),
}


class All(nn.Module):
    """Every module on the same input."""

    def __init__(self, modules: list[Any]) -> None:
        super().__init__()
        self.each = nn.ModuleList(modules)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Their results."""
        return tuple(module(x) for module in self.each)


@pytest.mark.parametrize("name", NETWORKS)
def test_operators(name: str) -> None:
    """Float against float."""
    torch.manual_seed(0)
    shape, make = NETWORKS[name]
    net, x = All(make()).eval(), torch.randn(*shape)
    with torch.no_grad():
        expected = net(x)
    artifact = tvm_lowbit.build(net, "host", example_inputs=(torch.zeros(*shape),))
    results = artifact.run(x.numpy()).outputs.values()
    for i, (result, reference) in enumerate(zip(results, expected, strict=True)):
        np.testing.assert_allclose(result, reference.numpy(), rtol=1e-5, atol=2e-6, err_msg=f"{i}: {net.each[i]}")


class Block(nn.Module):
    """A layer that holds something."""

    def __init__(self, call: Any) -> None:
        super().__init__()
        self.body = Of(call)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Call it."""
        return self.body(x)


def quantised(x: torch.Tensor) -> torch.Tensor:
    """Per tensor, then per channel; torch cannot export its fake_quantize operators with a symbolic batch."""
    args: tuple[Any, ...] = (0.1, 3, 0, 15, torch.uint8)
    x = Q.dequantize_per_tensor(Q.quantize_per_tensor(x, *args), *args)
    args = (torch.tensor([0.1, 0.2, 0.3]), torch.zeros(3, dtype=torch.int32), 1, 0, 15, torch.uint8)
    return Q.dequantize_per_channel(Q.quantize_per_channel(x, *args), *args)


def test_symbolic_batch() -> None:
    """Any batch of the exported program; other symbolic dimensions are refused."""
    pooled = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
    net = nn.Sequential(Block(quantised), *pooled).eval()
    x = torch.randn(3, 3, 6, 6)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    with torch.no_grad():
        expected = net(x)
    (result,) = tvm_lowbit.build(program, "host", batch=3).run(x.numpy()).outputs.values()
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)
    program = torch.export.export(nn.ReLU(), (x,), dynamic_shapes=({2: torch.export.Dim("height")},))
    with pytest.raises(tvm_lowbit.LowbitError, match="static shapes but for the batch"):
        tvm_lowbit.build(program, "host")


def test_unknown_operator_is_named_with_its_layer() -> None:
    """Not as a set of names without a place."""
    with pytest.raises(tvm_lowbit.LowbitError, match=r"(?s)node body.*aten\.digamma"):
        tvm_lowbit.build(Block(torch.digamma), "host", example_inputs=(torch.zeros(2, 3),))


def test_control_flow_is_refused() -> None:
    """By the operator's name."""

    def branch(x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))

    with pytest.raises(tvm_lowbit.LowbitError, match="without control flow"):
        tvm_lowbit.build(Block(branch), "host", example_inputs=(torch.ones(2, 3),))


def test_layers_carry_the_names_of_modules() -> None:
    """The functional ones their node's, below the module that calls them."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), Block(lambda x: F.conv2d(x, torch.ones(2, 4, 1, 1))))
    artifact = tvm_lowbit.build(net, "host", example_inputs=(torch.zeros(2, 3, 5, 5),))
    assert [row.name for row in artifact.report.stays_float] == ["Conv2d_0", "1.body"]
