"""A library's codes against the network it was built from, one quantiser at a time.

The network is computed by an oracle in which every quantiser hands on the library's values instead of its own. So each
one is compared on exactly what the library's own had before it, and a difference stays where it arose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import oracle
import torch
from networks.quantise import Quantiser
from onnx import helper, numpy_helper
from qonnx_oracle import spelled_out

# A float32 convolution sums in an order of its own: values nearer to a change of the code than this, in steps and
# relative to their own size in steps, may fall on the other side of it.
BOUNDARY = 2e-5
# So may at most this share of a quantiser's values, or one.
SHARE = 1e-3
# Outputs behind the last quantisers are sums in float32, too.
OUTPUT = 1e-5


@dataclass(frozen=True)
class Stage:
    """What one quantiser read and made of the library's codes, and how it is written."""

    name: str
    source: Any
    own: Any
    forced: Any
    step: float
    zero: float
    bipolar: bool


def check(stages: list[Stage]) -> int:
    """Assert that codes are equal but at boundaries, by one; how many are not."""
    count = 0
    for stage in stages:
        steps = np.rint((stage.own.astype(np.float64) - stage.forced) / (stage.step * (1 + stage.bipolar)))
        wrong = steps != 0
        if not np.any(wrong):
            continue
        scaled = stage.source.astype(np.float64) / stage.step + stage.zero
        distance = np.abs(scaled) if stage.bipolar else np.abs(scaled - np.floor(scaled) - 0.5)
        assert np.all(np.abs(steps[wrong]) == 1), stage.name
        largest = float(np.abs(stage.source).max()) / stage.step
        assert distance[wrong].max() <= BOUNDARY * max(1.0, largest), (stage.name, distance[wrong].max(), largest)
        assert wrong.sum() <= max(1, SHARE * wrong.size), (stage.name, int(wrong.sum()), wrong.size)
        count += int(wrong.sum())
    return count


def assert_outputs(got: Any, expected: Any) -> None:
    """Equal within float32's rounding of a sum."""
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        assert np.ptp(theirs) > 0, "an output that is the same everywhere shows nothing"
        assert np.abs(mine - theirs).max() <= OUTPUT * np.abs(theirs).max()


def of_torch(network: torch.nn.Module, x: Any, result: Any) -> tuple[list[Stage], list[Any]]:
    """The stages of a network in plain torch, its quantisers in the order in which they are called, and its outputs."""
    codes = list(result.codes.items())
    stages: list[Stage] = []

    def force(module: Quantiser, inputs: tuple[Any], own: Any) -> Any:
        name, code = codes[len(stages)]
        bipolar = module.kind == "bipolar"
        step, zero = np.float32(module.step), np.float32(module.zero)
        forced = (2 * code - 1) * step if bipolar else (code - zero) * step
        forced = forced.astype(np.float32)
        assert forced.shape == tuple(own.shape), name
        stages.append(Stage(name, inputs[0].numpy(), own.numpy(), forced, float(step), float(zero), bipolar))
        return torch.from_numpy(forced)

    hooks = [m.register_forward_hook(force) for m in network.modules() if isinstance(m, Quantiser)]
    with torch.no_grad():
        made = network(torch.from_numpy(x))
    for hook in hooks:
        hook.remove()
    assert len(stages) == len(codes)
    return stages, [value.numpy() for value in (made if isinstance(made, tuple) else (made,))]


def of_onnx(model: onnx.ModelProto, x: Any, result: Any) -> tuple[list[Stage], list[Any]]:
    """The stages of an ONNX or QONNX model in ONNX Runtime, by the names of its quantisers, and its outputs."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            arrays[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    nodes = {node.name.replace(".", "_"): node for node in model.graph.node}  # as Relax writes names
    made_by = {output: node for node in model.graph.node for output in node.output}
    forced: dict[str, Any] = {}
    rows = []
    for name, code in result.codes.items():
        source, output, step, zero, bipolar = _written(nodes[name], made_by, arrays)
        forced[output] = ((2 * code - 1) * step if bipolar else (code - zero) * step).astype(np.float32)
        rows.append((name, source, output, step, zero, bipolar))
    standard, _ = spelled_out(model)
    graph, ends = standard.graph, [value.name for value in standard.graph.output]
    for node in graph.node:
        node.input[:] = [f"{name}/forced" if name in forced else name for name in node.input]
    for name, value in forced.items():
        graph.input.append(helper.make_tensor_value_info(f"{name}/forced", onnx.TensorProto.FLOAT, value.shape))
    wanted = list(dict.fromkeys([*forced, *(row[1] for row in rows)]))
    given = {value.name for value in graph.input}
    graph.output.extend(helper.make_empty_tensor_value_info(name) for name in wanted if name not in given)
    session = oracle.session(standard)
    feeds = {value.name: x for value in model.graph.input if value.name not in arrays}
    values = dict(
        zip(
            (value.name for value in session.get_outputs()),
            session.run(None, {**feeds, **{f"{name}/forced": value for name, value in forced.items()}}),
            strict=True,
        )
    )
    values |= feeds | {f"{name}/forced": value for name, value in forced.items()}
    # What a quantiser reads may itself be a quantiser's result: then it read the forced one.
    read = {row[1]: values[f"{row[1]}/forced" if row[1] in forced else row[1]] for row in rows}
    stages = [
        Stage(name, read[source], values[output], forced[output], float(step), float(zero), bipolar)
        for name, source, output, step, zero, bipolar in rows
    ]
    return stages, [values[name] for name in ends]


def _written(node: Any, made_by: dict[str, Any], arrays: dict[str, Any]) -> tuple[str, str, Any, Any, bool]:
    """Source, result, step, zero point of a quantiser, and whether it is bipolar."""
    f = np.float32
    if node.op_type == "BipolarQuant":
        return node.input[0], node.output[0], f(arrays[node.input[1]].reshape(())), f(0), True
    if node.op_type == "Where":
        compared = made_by[node.input[0]]
        return compared.input[0], node.output[0], f(arrays[node.input[1]].reshape(())), f(0), True
    step, zero = (f(arrays[name].reshape(())) for name in node.input[1:3])
    source = node
    while source.op_type in ("DequantizeLinear", "Clip"):
        source = made_by[source.input[0]]
    return source.input[0], node.output[0], step, zero, False
