"""The cells of spellings that only torch has, against torch itself; the same operators as in ONNX.

All steps are powers of two, so that sums are exact: outputs and codes equal, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torchao  # noqa: F401 - registers the operators
from cells import EXACT, Array, Cell, Codes, Weights, cells, inputs
from operators import OPERATORS, Operator
from test_matrix import COVERING, FULL, SAMPLE, step_for
from torch import nn
from torch.nn import functional

import tvm_lowbit

IN_TORCH = {row.name: row for row in COVERING if set(row.covers.front_ends) == {"torch"}}


@dataclass(frozen=True)
class Writer:
    """``weights(tensor, steps, zeros, axis, (low, high))`` and ``activations(tensor, step, codes)``, both quantised."""

    weights: Callable[..., torch.Tensor]
    activations: Callable[..., torch.Tensor]


def fake_weights(
    w: torch.Tensor, steps: torch.Tensor, zeros: torch.Tensor, axis: int | None, limits: tuple[int, int]
) -> torch.Tensor:
    if axis is None:
        return torch.fake_quantize_per_tensor_affine(w, EXACT, 0, *limits)
    return torch.fake_quantize_per_channel_affine(w, steps, zeros, axis, *limits)


def fake_activations(x: torch.Tensor, step: float, codes: Codes) -> torch.Tensor:
    return torch.fake_quantize_per_tensor_affine(x, step, int(codes.zero), *codes.limits)


Q, AO = torch.ops.quantized_decomposed, torch.ops.torchao


def pair_weights(
    w: torch.Tensor, steps: torch.Tensor, zeros: torch.Tensor, axis: int | None, limits: tuple[int, int]
) -> torch.Tensor:
    """pt2e's pair; per channel torchao's, whose blocks say along which axis the steps run."""
    if axis is None:
        args = (EXACT, 0, *limits, torch.int8)
        return Q.dequantize_per_tensor(Q.quantize_per_tensor(w, *args), *args)
    if len(steps) % 2:
        args = (steps, zeros, axis, *limits, torch.int8)
        return Q.dequantize_per_channel(Q.quantize_per_channel(w, *args), *args)
    block = [1 if i == axis else extent for i, extent in enumerate(w.shape)]
    codes = AO.quantize_affine(w, block, steps, zeros, torch.int8, *limits)
    return AO.dequantize_affine(codes, block, steps, zeros, torch.int8, *limits)


def pair_activations(x: torch.Tensor, step: float, codes: Codes) -> torch.Tensor:
    dtype = torch.int8 if codes.limits[0] < 0 else torch.uint8
    args = (step, int(codes.zero), *codes.limits, dtype)
    return Q.dequantize_per_tensor(Q.quantize_per_tensor(x, *args), *args)


WRITERS = {
    "torch_fake_quantize": Writer(fake_weights, fake_activations),
    "torch_quantize_dequantize": Writer(pair_weights, pair_activations),
}


class Ops:
    """The operators of the matrix in torch."""

    def conv(self, a: Any, w: Any, pad: int, stride: int = 1, group: int = 1) -> Any:
        """Of any rank."""
        convolve = functional.conv1d if w.dim() == 3 else functional.conv2d
        return convolve(a, w, padding=pad, stride=stride, groups=group)

    def conv_transpose(self, a: Any, w: Any, stride: int) -> Any:
        """With padding."""
        return functional.conv_transpose2d(a, w, stride=stride, padding=1)

    def gemm(self, a: Any, w: Any) -> Any:
        """``a w^T``."""
        return functional.linear(a, w)

    def matmul(self, a: Any, b: Any) -> Any:
        """Either side constant."""
        return torch.matmul(a, b)

    def join(self, a: Any, b: Any) -> Any:
        """A residual join."""
        return a + b

    def max_pool(self, a: Any) -> Any:
        """Overlapping windows."""
        return functional.max_pool2d(a, 3, stride=1, padding=1)

    def average_pool(self, a: Any) -> Any:
        """Four pixels."""
        return functional.avg_pool2d(a, 2)

    def global_average(self, a: Any) -> Any:
        """Over all pixels, flattened."""
        return functional.adaptive_avg_pool2d(a, 1).flatten(1)


class Branches(nn.Module):
    """A branch for each cell. The first run, in eager mode, chooses weights and steps, which later ones keep."""

    def __init__(self, operator: Operator, writer: Writer, made: list[Cell]) -> None:
        super().__init__()
        self.operator, self.writer, self.cells = operator, writer, made
        self.steps: dict[str, float] = {}
        self.stored: dict[str, Weights] = {}
        self.codes: list[tuple[str, Array]] = []

    def quantised(self, x: torch.Tensor, cell: Cell, where: str) -> torch.Tensor:
        """An activation quantiser; its codes are noted when the values are there."""
        key = f"{cell.label}{where}"
        eager = type(x) is torch.Tensor and key not in self.steps
        if eager:
            self.steps[key] = EXACT if where == "in" else step_for(x.numpy(), cell)
        result = self.writer.activations(x, self.steps[key], cell.codes)
        if eager:
            self.codes.append((key, np.rint(result.numpy() / self.steps[key] + cell.codes.zero).astype(np.int32)))
        return result

    def weights(self, cell: Cell) -> Any:
        """A function that gives quantised weights of a shape."""
        count = [0]

        def write(shape: tuple[int, ...], axis: int) -> torch.Tensor:
            count[0] += 1
            key = f"w{cell.label}_{count[0]}"
            along = axis if cell.grain == "per channel" else None
            if key not in self.stored:
                self.stored[key] = Weights.random(len(self.stored), shape, cell.weight_bits, along, EXACT)
                self.register_buffer(key, torch.from_numpy(self.stored[key].array))
                steps = torch.from_numpy(np.atleast_1d(self.stored[key].steps).ravel())
                self.register_buffer(f"{key}_steps", steps)
                self.register_buffer(f"{key}_zeros", torch.zeros(len(steps), dtype=torch.int32))
            steps, zeros = getattr(self, f"{key}_steps"), getattr(self, f"{key}_zeros")
            return self.writer.weights(getattr(self, key), steps, zeros, along, self.stored[key].limits)

        return write

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What each operator gives, and the same quantised."""
        outputs: list[torch.Tensor] = []
        for cell in self.cells:
            a = self.quantised(x, cell, "in")
            made = self.operator.write(Ops(), a, self.weights(cell), 1)
            value, number = next(made), 0
            while value is not None:
                number, last = number + 1, value
                quantised = self.quantised(value, cell, str(number))
                try:
                    value = made.send(quantised)
                except StopIteration:
                    value = None
            outputs += [last, quantised]
        return tuple(outputs)


def test_every_spelling_has_a_writer() -> None:
    """A new row of the table needs one, or it is not tested."""
    assert set(IN_TORCH) == set(WRITERS)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", WRITERS)
def test_torch_matrix(name: str, operator: str) -> None:
    """Codes and outputs equal, in every cell; products on integers."""
    kind, turn = OPERATORS[operator], list(OPERATORS).index(operator)
    most = None if FULL or operator == "conv2d" else SAMPLE
    net = Branches(kind, WRITERS[name], cells(IN_TORCH[name].covers, turn, lambda codes: True, most)).eval()
    batch = inputs(kind.shape, EXACT, 1e6)
    with torch.no_grad():
        wanted = net(torch.from_numpy(batch))
    artifact = tvm_lowbit.build(net, "host", example_inputs=(torch.zeros(8, *kind.shape),), batch=8, probe=True)
    result = artifact.run(batch)
    assert len(result.codes) == len(net.codes)
    for found, (key, codes) in zip(result.codes.values(), net.codes, strict=True):
        np.testing.assert_array_equal(found, codes, err_msg=key)
    for output, values in zip(result.outputs.values(), wanted, strict=True):
        np.testing.assert_array_equal(output, values.numpy())
    assert len(artifact.report.low_bit) == kind.products * len(wanted) // 2, artifact.report
