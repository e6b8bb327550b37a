"""Spelling x bits x grain x sign x operator, from the table of spellings, against ONNX Runtime.

All cells of one spelling and operator are branches of one model, so that a build serves many. Steps are powers of two,
so that the reference's float32 sums are exact and everything must be equal bit for bit; a last test has other steps.
Convolutions have every cell; other operators a sample of them, another for each, or all with ``LOWBIT_MATRIX=full``.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from cells import EXACT, UGLY, Array, Cell, Weights, cells, inputs
from graph import Graph, reference
from operators import OPERATORS, Operator
from writers import WRITERS, raw_activations, raw_weights

import tvm_lowbit
from relay_passes.coverage import Spelling
from tvm_lowbit.spellings import spellings

FULL = os.environ.get("LOWBIT_MATRIX") == "full"
SAMPLE = 2
# A row that covers nothing is there to say why something is declined.
COVERING = [row for row in spellings() if row.covers.weights or row.covers.activations]
IN_ONNX = {row.name: row for row in COVERING if "ONNX" in row.covers.front_ends}


def test_every_spelling_has_a_writer() -> None:
    """A new row of the table needs one, or it is not tested."""
    assert set(IN_ONNX) == set(WRITERS)
    for name, row in IN_ONNX.items():
        writer = WRITERS[name]
        assert bool(writer.weights) == bool(row.covers.weights), name
        assert bool(writer.activations) == bool(row.covers.activations), name


@pytest.mark.parametrize("name", IN_ONNX)
def test_cells_cover_what_the_row_says(name: str) -> None:
    """Each width and grain of weights, each width and each sign of activations, whatever the operator."""
    covers, writer = IN_ONNX[name].covers, WRITERS[name]
    for turn in range(len(OPERATORS)):
        made = cells(covers, turn, writer.writes)
        if covers.weights:
            pairs = {(cell.weight_bits, cell.grain) for cell in made}
            assert pairs == {(bits, grain) for bits in covers.weights for grain in covers.grains}
        if covers.activations:
            assert {cell.codes.bits for cell in made} == set(covers.activations)
            assert {cell.codes.sign for cell in made} == set(covers.signs)


def step_for(values: Array, cell: Cell) -> float:
    """A power of two at which most values fall between the ends of the codes, some beyond."""
    low, high = cell.codes.limits
    reach = max(abs(low - cell.codes.zero), abs(high - cell.codes.zero), 1)
    spread = float(np.percentile(np.abs(values), 80)) or 1.0
    return float(2.0 ** np.round(np.log2(spread / reach)))


def branches(
    row: Spelling, operator: Operator, turn: int, step: float, most: int | None = None
) -> tuple[Graph, list[str], Array]:
    """The graph of all cells, its outputs, and inputs for it."""
    writer, net = WRITERS[row.name], Graph()
    x = net.input(*operator.shape)
    net.rank[x] = len(operator.shape) + 1
    batch = inputs(operator.shape, step, writer.largest)
    running: dict[Cell, Any] = {}

    def quantised(cell: Cell, tensor: str, by: float, where: str) -> str:
        write = writer.activations or raw_activations
        name = write(net, tensor, by, cell.codes, f"q{cell.label}{where}", cell.variant)
        net.rank[name] = net.rank[tensor]
        return name

    def weights(cell: Cell) -> Any:
        def write(shape: tuple[int, ...], axis: int) -> str:
            along = axis if cell.grain == "per channel" else None
            seed = len(net.nodes)
            return (writer.weights or raw_weights)(net, Weights.random(seed, shape, cell.weight_bits, along, step))

        return write

    waiting: dict[Cell, str] = {}
    for cell in cells(row.covers, turn, writer.writes, most):
        pad = int(cell.codes.sign != "bipolar")
        a = quantised(cell, x, step, "_in")
        running[cell] = operator.write(net, a, weights(cell), pad)
        waiting[cell] = next(running[cell])
    # All branches take a step together: one run of the reference calibrates the next quantiser of each.
    outputs: list[str] = []
    for round_number in range(9):
        values = dict(zip(waiting, reference(net, batch, list(waiting.values()))[0], strict=True))
        following: dict[Cell, str] = {}
        for cell, tensor in waiting.items():
            by = step_for(values[cell], cell) * (1 if step == EXACT else 531 / 512)
            quantiser = quantised(cell, tensor, by, f"_{round_number}")
            try:
                following[cell] = running[cell].send(quantiser)
            except StopIteration:
                outputs += [tensor, quantiser]
        if not following:
            return net, outputs, batch
        waiting = following
    raise AssertionError("an operator that never ends")


def assert_codes_equal(found: dict[str, Array], wanted: dict[str, Array], undecided: dict[str, Array]) -> None:
    """Of every quantiser, but where it is undecided; opposite values -1 and 1 are codes 0 and 1."""
    assert set(found) == set(wanted)
    for name, codes in wanted.items():
        if "bipolar" in name and codes.min() < 0:
            codes = (codes + 1) / 2
        codes = np.where(undecided.get(name, False), found[name], codes)
        np.testing.assert_array_equal(found[name], codes.astype(np.int32), err_msg=name)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", IN_ONNX)
def test_matrix(name: str, operator: str) -> None:
    """Codes and outputs equal, in every cell; products on integers."""
    row, kind = IN_ONNX[name], OPERATORS[operator]
    most = None if FULL or operator == "conv2d" else SAMPLE
    net, outputs, batch = branches(row, kind, list(OPERATORS).index(operator), EXACT, most)
    wanted, codes = reference(net, batch, outputs)
    artifact = tvm_lowbit.build(net.model(*outputs), "host", batch=8, probe=True)
    result = artifact.run(batch)
    assert_codes_equal(result.codes, codes, {})
    for output, values in zip(outputs, wanted, strict=True):
        np.testing.assert_array_equal(result.outputs[output], values, err_msg=output)
    assert len(artifact.report.low_bit) == kind.products * len(outputs) // 2, artifact.report


@pytest.mark.parametrize("name", IN_ONNX)
def test_steps_of_no_common_measure(name: str) -> None:
    """Codes equal; sums within 1 ulp of the correctly rounded one, which a runtime's float32 sum need not be."""
    net, outputs, batch = branches(IN_ONNX[name], OPERATORS["conv2d"], 0, UGLY, None if FULL else SAMPLE)
    result = tvm_lowbit.build(net.model(*outputs), "host", batch=8, probe=True).run(batch)
    convolutions = {node.output[0]: node for node in net.nodes if node.op_type == "Conv"}
    operands = [tensor for node in convolutions.values() for tensor in node.input]
    values, codes = reference(net, batch, outputs, operands)
    tensors = dict(zip([*outputs, *operands], values, strict=True))
    undecided = {}
    for output, quantiser in zip(outputs[::2], outputs[1::2], strict=True):
        a, w = (torch.from_numpy(tensors[t].astype(np.float64)) for t in convolutions[output].input)
        top, left, _, right = next(p.ints for p in convolutions[output].attribute if p.name == "pads")
        padded = torch.nn.functional.pad(a, (left, right, top, 0))
        exact = torch.nn.functional.conv2d(padded, w).numpy()
        terms = torch.nn.functional.conv2d(padded.abs(), w.abs()).numpy()
        # Two roundings of each dequantised factor that the integers do not have, and one of the result.
        allowed = 2.0**-24 * (2 * terms + np.abs(exact)) + np.spacing(np.float32(0))
        assert np.all(np.abs(result.outputs[output] - exact) <= allowed), output
        # A sum that is 0 lies on the boundary of a sign; the reference's is 0 up to rounding only.
        undecided[quantiser] = np.abs(exact) <= 2.0**-20 * terms
        same = ~undecided[quantiser]
        pair = (values[same] for values in (result.outputs[quantiser], tensors[quantiser]))
        np.testing.assert_allclose(*pair, rtol=2.0**-23, err_msg=quantiser)
    assert_codes_equal(result.codes, codes, undecided)
