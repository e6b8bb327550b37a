"""Norms: written out, right where values lie far from 0, from every front end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from onnx_graphs import GraphBuilder
from relax_models import const, evaluate, module, operators, quantised, values
from torch import nn
from tvm import relax

import tvm_lowbit
from relay_passes.canonicalize import canonicalize
from relay_passes.norms import NORMS

op, RNG = relax.op, np.random.default_rng(3)
SHAPE = (2, 4, 5, 6)
GAMMA, BETA = RNG.uniform(0.5, 1.5, (2, 4)).astype(np.float32)
WIDE, HIGH = RNG.uniform(0.5, 1.5, (2, 5, 6)).astype(np.float32)
# Mean 300, deviation 1: float32 holds the square of the mean to 0.008.
FAR = (RNG.normal(size=SHAPE) + 300).astype(np.float32)


def normalised(x: Any, axes: tuple[int, ...], epsilon: float = 1e-5, centre: bool = True) -> Any:
    """In float64."""
    x = x.astype(np.float64)
    x = x - x.mean(axes, keepdims=True) if centre else x
    return x / np.sqrt((x * x).mean(axes, keepdims=True) + epsilon)


def channels(v: Any) -> Any:
    """A vector along the channels."""
    return v.reshape(4, 1, 1)


def groups(x: Any) -> Any:
    """Two groups of channels, normalised."""
    return normalised(x.reshape(2, 2, 2, 5, 6), (2, 3, 4)).reshape(SHAPE)


PIXELS = {"channel_axis": 1, "axes": [2, 3]}
Case = tuple[Callable[[Any], Any], Callable[[Any], Any]]
CASES: dict[str, Case] = {
    "layer": (
        lambda x: op.nn.layer_norm(x, const(WIDE), const(HIGH), axes=[-2, -1]),
        lambda x: normalised(x, (2, 3)) * WIDE + HIGH,
    ),
    "layer, along the rows": (
        lambda x: op.nn.layer_norm(x, const(WIDE[:, 0]), const(WIDE[:, 1]), axes=[2], epsilon=0.5),
        lambda x: normalised(x, (2,), 0.5) * WIDE[:, :1] + WIDE[:, 1:2],
    ),
    "instance": (
        lambda x: op.nn.instance_norm(x, const(GAMMA), const(BETA), **PIXELS),
        lambda x: normalised(x, (2, 3)) * channels(GAMMA) + channels(BETA),
    ),
    "instance, not scaled": (
        lambda x: op.nn.instance_norm(x, const(GAMMA), const(BETA), scale=False, **PIXELS),
        lambda x: normalised(x, (2, 3)) + channels(BETA),
    ),
    "instance, not shifted": (
        lambda x: op.nn.instance_norm(x, const(GAMMA), const(BETA), center=False, **PIXELS),
        lambda x: normalised(x, (2, 3)) * channels(GAMMA),
    ),
    "statistics of the batch": (
        lambda x: op.nn.instance_norm(x, const(GAMMA), const(BETA), channel_axis=1, axes=[0, 2, 3]),
        lambda x: normalised(x, (0, 2, 3)) * channels(GAMMA) + channels(BETA),
    ),
    "group": (
        lambda x: op.nn.group_norm(x, const(GAMMA), const(BETA), num_groups=2, **PIXELS),
        lambda x: groups(x) * channels(GAMMA) + channels(BETA),
    ),
    "group, neither": (
        lambda x: op.nn.group_norm(x, const(GAMMA), const(BETA), 2, scale=False, center=False, **PIXELS),
        groups,
    ),
    "variance": (lambda x: op.variance(x, [1]), lambda x: x.astype(np.float64).var(1)),
    "deviation": (
        lambda x: op.std(x, [2, -1], keepdims=True),
        lambda x: x.astype(np.float64).std((2, 3), keepdims=True),
    ),
    "of everything": (lambda x: op.variance(x), lambda x: x.astype(np.float64).var()),
    "root of squares": (
        lambda x: op.nn.rms_norm(x, const(WIDE[0]), axes=[-1], epsilon=0.25),
        lambda x: normalised(x, (3,), 0.25, centre=False) * WIDE[0],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_far_from_zero(name: str) -> None:
    """Against the formula in float64; of a mean taken in float32, 1e-4 would be left."""
    body, formula = CASES[name]
    after = canonicalize(module(lambda emit, x: emit(body(x), "norm"), SHAPE))
    assert not set(operators(after)) & set(NORMS)
    assert "norm" in values(after)
    for x in (FAR, FAR - np.float32(300)):
        np.testing.assert_allclose(evaluate(after, x)[0], formula(x), rtol=0, atol=2e-6)


def test_parts_are_named() -> None:
    """After the layer; scale and shift that the program computes are used as they are."""

    def body(emit: Any, x: Any, gamma: Any) -> Any:
        return emit(op.nn.layer_norm(x, gamma, const(WIDE[0]), axes=[3]), "norm")

    after = canonicalize(module(body, SHAPE, (6,)))
    named = {"mean", "centred", "squares", "variance", "shifted", "inverse", "normalised", "factors", "scaled"}
    assert {f"norm/{part}" for part in named} | {"norm"} <= set(values(after))
    expected = normalised(FAR, (3,)) * WIDE[1] + WIDE[0]
    np.testing.assert_allclose(evaluate(after, FAR, WIDE[1])[0], expected, rtol=0, atol=2e-6)


def test_centred_by_hand() -> None:
    """What is taken from a tensor is its own mean, to more than float32 has; another's mean is left as it is."""

    def body(emit: Any, x: Any) -> Any:
        mean = emit(op.mean(x, [1, 2, 3], keepdims=True))
        other = emit(op.subtract(emit(op.multiply(x, const(2.0))), mean))
        return relax.Tuple([emit(op.subtract(x, mean), "centred"), other])

    before = module(body, SHAPE)
    wide = FAR.astype(np.float64)
    mean = wide.mean((1, 2, 3), keepdims=True)
    for result, expected, limit in zip(
        evaluate(canonicalize(before), FAR), (wide - mean, 2 * wide - mean), (2e-7, 1e-3), strict=True
    ):
        np.testing.assert_allclose(result, expected, rtol=0, atol=limit)
    assert np.abs(evaluate(before, FAR)[0] - (wide - mean)).max() > 1e-5
    assert operators(canonicalize(before)).count("relax.astype") == 3


def test_other_types_stay() -> None:
    """TVM's kernels of float16 sum in float32."""
    x = relax.Var("x", relax.TensorType([2, 6], "float16"))
    builder = relax.BlockBuilder()
    ones = const(np.ones(6), "float16")
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(op.nn.layer_norm(x, ones, ones, axes=[-1]))
        builder.emit_func_output(y)
    assert operators(canonicalize(builder.get())) == ["relax.nn.layer_norm"]


def test_between_quantisers() -> None:
    """Layers around a norm are low-bit; codes and result equal the operators' that say the same."""
    weights = RNG.integers(-2, 2, (4, 4, 3, 3)).astype(np.float32)

    def network(norm: Callable[[Any, Any], Any]) -> Any:
        def body(emit: Any, x: Any) -> Any:
            for i in range(2):
                q = quantised(emit, x, f"q{i}", scale=0.3, qmin=-8, qmax=7)
                w = quantised(emit, const(weights), f"w{i}", scale=1.0, qmin=-2, qmax=1)
                product = emit(op.nn.conv2d(q, w, padding=(1, 1, 1, 1)), f"conv{i}")
                x = emit(norm(emit, product), f"norm{i}")
            return x

        return module(body, SHAPE)

    def by_hand(emit: Any, v: Any) -> Any:
        centred = emit(op.subtract(v, emit(op.mean(v, [2, 3], keepdims=True))))
        inverse = emit(op.rsqrt(emit(op.add(emit(op.variance(v, [2, 3], keepdims=True)), const(1e-5)))))
        scaled = emit(op.multiply(emit(op.multiply(centred, inverse)), const(channels(GAMMA)[None])))
        return op.add(scaled, const(channels(BETA)[None]))

    x = RNG.normal(size=SHAPE).astype(np.float32)
    found = []
    for norm in (lambda _, v: op.nn.instance_norm(v, const(GAMMA), const(BETA), **PIXELS), by_hand):
        artifact = tvm_lowbit.build(network(norm), "host")
        assert len(artifact.report.low_bit) == 2
        found += artifact.run(x).outputs.values()
    np.testing.assert_array_equal(*found)


def test_from_torch() -> None:
    """Every norm of torch that its exporter writes as one operator, against float64."""
    torch.manual_seed(0)
    layers: list[Any] = [
        *(nn.LayerNorm(6), nn.LayerNorm((5, 6), bias=False), nn.LayerNorm(6, elementwise_affine=False)),
        *(nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.InstanceNorm2d(4, affine=True)),
        *(nn.RMSNorm(6), nn.BatchNorm2d(4, track_running_stats=False)),
    ]

    class All(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each = nn.ModuleList(layers)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(layer(x) for layer in self.each)

    net = All().eval()
    for parameter in net.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    artifact = tvm_lowbit.build(net, "host", example_inputs=(torch.zeros(SHAPE),), batch=2)
    found = artifact.run(FAR).outputs.values()
    with torch.no_grad():
        expected = net.double()(torch.tensor(FAR, dtype=torch.float64))
    for layer, result, reference in zip(layers, found, expected, strict=True):
        np.testing.assert_allclose(result, reference.numpy(), rtol=0, atol=2e-6, err_msg=str(layer))


def onnx_norms(g: GraphBuilder, x: str) -> list[tuple[str, Any]]:
    """Each norm of the opset, and what it should give."""
    affine = [channels(GAMMA), channels(BETA)]
    by_channel = [g.constant(v) for v in (GAMMA, BETA)]
    if g.opset < 17:
        return [
            (g.add("InstanceNormalization", x, *by_channel), normalised(FAR, (2, 3)) * affine[0] + affine[1]),
            (g.add("MeanVarianceNormalization", x), normalised(FAR, (0, 2, 3), 0)),
            (g.add("MeanVarianceNormalization", x, axes=[-3]), normalised(FAR, (1,), 0)),
        ]
    group = g.add("GroupNormalization", x, *by_channel, num_groups=2)
    layer = g.add("LayerNormalization", x, g.constant(WIDE), g.constant(HIGH), axis=2)
    return [
        (layer, normalised(FAR, (2, 3)) * WIDE + HIGH),
        (group, groups(FAR) * affine[0] + affine[1]),
        (g.add("RMSNormalization", x, g.constant(WIDE[0])), normalised(FAR, (3,), centre=False) * WIDE[0]),
    ]


@pytest.mark.parametrize("opset", [13, 23])
def test_from_onnx(opset: int) -> None:
    """Against float64, as ONNX Runtime takes some variances for a mean of squares less the square of the mean."""
    g = GraphBuilder(opset=opset)
    rows = onnx_norms(g, g.input(*SHAPE[1:]))
    # Shape inference fails at some.
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name, _ in rows]
    graph = helper.make_graph(g.nodes, "norms", g.inputs, outputs, g.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    found = tvm_lowbit.build(model, "host", batch=2).run(FAR).outputs
    for name, expected in rows:
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=2e-6, err_msg=name)


def test_one_that_does_not_vary() -> None:
    """ONNX adds 1e-9 to the deviation: a constant plane gives 0, not NaN."""
    g = GraphBuilder(opset=13)
    model = g.model(g.add("MeanVarianceNormalization", g.input(*SHAPE[1:]), axes=[2, 3]))
    (result,) = tvm_lowbit.build(model, "host", batch=2).run(np.full(SHAPE, 0.5, np.float32)).outputs.values()
    np.testing.assert_array_equal(result, np.zeros(SHAPE))
