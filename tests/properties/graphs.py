"""Random small graphs over the operators around quantisers, drawn by hypothesis.

Steps, weights and constants are powers of two or small multiples of them, so that float32 sums are exact while they
fit into 24 bits; a tensor keeps book of that. What follows a sigmoid or a division by 3 is rounded, and the check
leaves out graphs in which such a value lies within rounding of a quantiser's tie.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper
from onnx_graphs import GraphBuilder, run_onnx

ITEMS = 3
EXACT_BITS = 24
UGLY = 1.0371


@dataclass(frozen=True)
class Value:
    """A tensor of the graph; every element is a multiple of ``lsb``, ``bound`` of them at most, unless ``rounded``.

    ``codes`` says that it comes from a quantiser, moved at most: products of it must run on integers.
    """

    name: str
    shape: tuple[int, ...]
    lsb: float
    bound: float
    rounded: bool = False
    codes: bool = False

    def scaled(self, name: str, factor: float, terms: float = 1, shape: tuple[int, ...] | None = None) -> Value:
        """After multiplication by multiples of ``factor`` and sums that make it ``terms`` times as large in units."""
        lsb, bound = self.lsb * factor, self.bound * terms
        return Value(name, shape or self.shape, lsb, bound, self.rounded or bound >= 2**EXACT_BITS)


@dataclass
class Drawn:
    """A graph while it is drawn."""

    draw: Any
    net: GraphBuilder
    seed: int
    rounded_quantisers: list[str] = field(default_factory=list)
    on_integers: list[str] = field(default_factory=list)

    def pick(self, *values: Any) -> Any:
        """One of them; the first is the simplest."""
        return self.draw(st.sampled_from(values))

    def weights(self, shape: tuple[int, ...], axis: int) -> tuple[str, float, float]:
        """Quantised weights: their tensor, their unit and the largest magnitude in units."""
        bits, channels = self.pick(2, 1, 3, 4, 5, 6, 7, 8), self.draw(st.booleans())
        random = self.net.random
        reach = (1 << bits) + 1
        steps = np.float32(0.25) * (2.0 ** random.integers(0, 3, shape[axis]) if channels else np.ones(1))
        steps = steps.astype(np.float32)
        shaped = steps.reshape([-1 if i == axis else 1 for i in range(len(shape))]) if channels else steps.reshape(())
        array = random.integers(-reach, reach + 1, shape) * shaped / 2
        half = 1 << (bits - 1)
        limits, zero = ((0, 1), 0.5) if bits == 1 else ((-half, half - 1), 0.0)
        name = self.net.quantiser(
            self.net.constant(array), shaped, *limits, zero, axis=axis if channels else None, weight=True
        )
        return name, 0.125, 8.0 * max(half, 1)


def batch(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Any]:
    """Inputs: multiples of 1/16, ties and small values more often, and some floats beside them."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, shape in shapes.items():
        x = (rng.integers(-64, 65, (ITEMS, *shape)) / 16).astype(np.float32)
        x[0] *= 4
        beside = rng.random(x.shape) < 0.1
        made[name] = np.where(beside, np.nextafter(x, np.float32(rng.choice([-9, 9]))), x)
    return made


def quantise(g: Drawn, v: Value) -> Value:
    """Unsigned, signed or asymmetric, at a step that most values of the seeded inputs fit."""
    bits = g.pick(2, 1, 3, 4, 5, 6, 7, 8)
    half = 1 << (bits - 1)
    sign = g.pick("unsigned", "signed", "asymmetric")
    limits = (-half, half - 1) if sign == "signed" else (0, 2 * half - 1)
    zero = float(g.draw(st.integers(limits[0], limits[1]))) if sign == "asymmetric" else 0.0
    shapes = {i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim[1:]) for i in g.net.inputs}
    x = batch(shapes, g.seed)
    values = x[v.name] if v.name in x else run_onnx(g.net.model(v.name), x, [v.name])[0]
    spread = float(np.percentile(np.abs(values), 90)) or 1.0
    step = float(2.0 ** np.round(np.log2(spread / max(abs(limits[0] - zero), abs(limits[1] - zero)))))
    if v.rounded:
        step *= UGLY
    step = float(np.float32(step))
    name = g.net.quantiser(v.name, step, *limits, zero)
    if v.rounded:
        g.rounded_quantisers.append(name)
        # Its values are multiples of a number of 24 bits: exact once rounded, sums of them not.
        return Value(name, v.shape, step, 2**EXACT_BITS, True, codes=True)
    return Value(name, v.shape, step, 256, codes=True)


def conv(g: Drawn, v: Value) -> Value:
    """conv1d and conv2d: groups, depthwise, dilation, stride, padding that differs from side to side."""
    channels, *space = v.shape
    group = g.pick(*(d for d in (1, 2, channels) if channels % d == 0))
    out = group * g.pick(1, 2)
    kernel = [g.pick(*range(1, min(3, s) + 1)) for s in space]
    dilation = [g.pick(1, 2) if k > 1 and (k - 1) * 2 < s else 1 for k, s in zip(kernel, space, strict=True)]
    stride = [g.pick(1, 2) for _ in space]
    pads = [g.pick(0, 1, 2) for _ in range(2 * len(space))]
    w, unit, largest = g.weights((out, channels // group, *kernel), 0)
    attrs = {"group": group, "dilations": dilation, "strides": stride, "pads": pads}
    inputs = [v.name, w]
    bias = g.draw(st.booleans())
    if bias:
        inputs.append(g.net.constant(g.net.random.integers(-8, 9, out) * v.lsb * unit))
    name = g.net.add("Conv", *inputs, **attrs)
    size = [
        (s + pads[i] + pads[i + len(space)] - d * (k - 1) - 1) // t + 1
        for i, (s, k, d, t) in enumerate(zip(space, kernel, dilation, stride, strict=True))
    ]
    return v.scaled(name, unit, largest * (prod(kernel) * channels // group + bias), (out, *size))


def conv_transpose(g: Drawn, v: Value) -> Value:
    channels, *space = v.shape
    kernel, stride = g.pick(2, 3), g.pick(1, 2)
    w, unit, largest = g.weights((channels, 2, kernel, kernel), 1)
    name = g.net.add("ConvTranspose", v.name, w, strides=[stride] * 2, pads=[g.pick(0, 1), 0, 0, g.pick(0, 1)])
    pad = next(a.ints for a in g.net.nodes[-1].attribute if a.name == "pads")
    size = [(s - 1) * stride + kernel - pad[i] - pad[i + 2] for i, s in enumerate(space)]
    return v.scaled(name, unit, largest * kernel * kernel * channels, (2, *size))


def gemm(g: Drawn, v: Value) -> Value:
    out, transposed = g.pick(2, 3), g.pick(0, 1)
    w, unit, largest = g.weights((out, v.shape[0]) if transposed else (v.shape[0], out), 0 if transposed else 1)
    return v.scaled(g.net.add("Gemm", v.name, w, transB=transposed), unit, largest * v.shape[0], (out,))


def matmul(g: Drawn, v: Value) -> Value:
    out = g.pick(2, 3)
    w, unit, largest = g.weights((v.shape[-1], out), 1)
    return v.scaled(g.net.add("MatMul", v.name, w), unit, largest * v.shape[-1], (*v.shape[:-1], out))


def matmul_left(g: Drawn, v: Value) -> Value:
    out = g.pick(2, 3)
    w, unit, largest = g.weights((out, v.shape[0]), 0)
    return v.scaled(g.net.add("MatMul", w, v.name), unit, largest * v.shape[0], (out, v.shape[1]))


def max_pool(g: Drawn, v: Value) -> Value:
    stride, pad = g.pick(1, 2), g.pick(0, 1)
    name = g.net.add("MaxPool", v.name, kernel_shape=[2, 2], strides=[stride] * 2, pads=[pad, 0, 0, pad])
    size = [(s + pad - 2) // stride + 1 for s in v.shape[1:]]
    return replace(v, name=name, shape=(v.shape[0], *size))


def average_pool(g: Drawn, v: Value) -> Value:
    stride, pad = g.pick(1, 2), g.pick(0, 1)
    counts = g.pick(1, 0)
    attrs = {"kernel_shape": [2, 2], "strides": [stride] * 2, "pads": [pad] * 4, "count_include_pad": counts}
    size = [(s + 2 * pad - 2) // stride + 1 for s in v.shape[1:]]
    return v.scaled(g.net.add("AveragePool", v.name, **attrs), 0.25, 16, (v.shape[0], *size))


def global_average(g: Drawn, v: Value) -> Value:
    count = prod(v.shape[1:])
    made = v.scaled(g.net.add("GlobalAveragePool", v.name), 1 / count, count**2, (v.shape[0], 1, 1))
    return made if count & (count - 1) == 0 else replace(made, rounded=True)


def flatten(g: Drawn, v: Value) -> Value:
    return replace(v, name=g.net.add("Flatten", v.name, axis=1), shape=(prod(v.shape),))


def _constant64(g: Drawn, numbers: Any) -> str:
    return g.net.constant(numbers, np.int64)


def reshape(g: Drawn, v: Value) -> Value:
    shape = (v.shape[0], prod(v.shape[1:]))
    return replace(v, name=g.net.add("Reshape", v.name, _constant64(g, [0, *shape])), shape=shape)


def transpose(g: Drawn, v: Value) -> Value:
    axes = g.draw(st.permutations(range(len(v.shape))))
    name = g.net.add("Transpose", v.name, perm=[0, *(a + 1 for a in axes)])
    return replace(v, name=name, shape=tuple(v.shape[a] for a in axes))


def depth_to_space(g: Drawn, v: Value) -> Value:
    name = g.net.add("DepthToSpace", v.name, blocksize=2, mode=g.pick("DCR", "CRD"))
    return replace(v, name=name, shape=(v.shape[0] // 4, 2 * v.shape[1], 2 * v.shape[2]))


def resize(g: Drawn, v: Value) -> Value:
    scales = g.net.constant([1.0, 1.0, 2.0, 2.0])
    size = (v.shape[0], 2 * v.shape[1], 2 * v.shape[2])
    if g.pick("nearest", "linear") == "nearest":
        attrs = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
        return replace(v, name=g.net.add("Resize", v.name, "", scales, **attrs), shape=size)
    attrs = {"mode": "linear", "coordinate_transformation_mode": g.pick("half_pixel", "asymmetric")}
    return v.scaled(g.net.add("Resize", v.name, "", scales, **attrs), 1 / 16, 16, size)


def pad(g: Drawn, v: Value) -> Value:
    """By 0 or by one unit, which codes may not hold."""
    top, left, bottom, right = (g.pick(0, 1, 2) for _ in range(4))
    by = [g.net.constant(v.lsb)] if g.pick(False, True) else []
    name = g.net.add("Pad", v.name, _constant64(g, [0, 0, top, left, 0, 0, bottom, right]), *by)
    return replace(v, name=name, shape=(v.shape[0], v.shape[1] + top + bottom, v.shape[2] + left + right), codes=False)


def batch_norm(g: Drawn, v: Value) -> Value:
    """Variance and epsilon sum to 1, all else dyadic: exact, gammas of both signs and 0."""
    channels = v.shape[0]
    gamma = g.net.random.integers(-4, 5, channels) / 4
    beta, mean = (g.net.random.integers(-4, 5, channels) * v.lsb for _ in range(2))
    parts = [g.net.constant(p) for p in (gamma, beta, mean, np.full(channels, 0.75))]
    return v.scaled(g.net.add("BatchNormalization", v.name, *parts, epsilon=0.25), 0.25, 8)


def relu(g: Drawn, v: Value) -> Value:
    return replace(v, name=g.net.add("Relu", v.name), codes=False)


def leaky_relu(g: Drawn, v: Value) -> Value:
    return v.scaled(g.net.add("LeakyRelu", v.name, alpha=0.125), 0.125, 8)


def clip(g: Drawn, v: Value) -> Value:
    return replace(v, name=g.net.add("Clip", v.name, g.net.constant(0.0), g.net.constant(6 * v.lsb)), codes=False)


def _rounded(v: Value, name: str) -> Value:
    return Value(name, v.shape, v.lsb, v.bound, True)


def sigmoid(g: Drawn, v: Value) -> Value:
    return _rounded(v, g.net.add("Sigmoid", v.name))


def silu(g: Drawn, v: Value) -> Value:
    return _rounded(v, g.net.add("Mul", v.name, g.net.add("Sigmoid", v.name)))


def hard_swish(g: Drawn, v: Value) -> Value:
    return _rounded(v, g.net.add("HardSwish", v.name))


def softmax(g: Drawn, v: Value) -> Value:
    return _rounded(v, g.net.add("Softmax", v.name, axis=g.pick(1, -1)))


def _joined(name: str, a: Value, b: Value, shape: tuple[int, ...], terms: int) -> Value:
    lsb = min(a.lsb, b.lsb)
    bound = terms * max(a.bound * a.lsb, b.bound * b.lsb) / lsb
    dyadic = float(np.log2(max(a.lsb, b.lsb) / lsb)).is_integer()
    return Value(name, shape, lsb, bound, a.rounded or b.rounded or not dyadic or bound >= 2**EXACT_BITS)


def add(g: Drawn, v: Value, other: Value) -> Value:
    """A residual join."""
    return _joined(g.net.add("Add", v.name, other.name), v, other, v.shape, 2)


def concat(g: Drawn, v: Value, other: Value) -> Value:
    shape = (v.shape[0] + other.shape[0], *v.shape[1:])
    return _joined(g.net.add("Concat", v.name, other.name, axis=1), v, other, shape, 1)


def split(g: Drawn, v: Value) -> list[Value]:
    half = v.shape[0] // 2
    number = len(g.net.nodes)
    names = [f"split{number}_{i}" for i in range(2)]
    sizes = _constant64(g, [half, v.shape[0] - half])
    g.net.nodes.append(helper.make_node("Split", [v.name, sizes], names, name=f"split{number}", axis=1))
    return [replace(v, name=n, shape=(s, *v.shape[1:])) for n, s in zip(names, (half, v.shape[0] - half), strict=True)]


PRODUCTS = (conv, conv_transpose, gemm, matmul, matmul_left)
MOVES = (max_pool, average_pool, global_average, flatten, reshape, transpose, depth_to_space, resize, pad)
ELEMENTWISE = (batch_norm, relu, leaky_relu, clip, sigmoid, silu, hard_swish, softmax)
BY_RANK = {
    1: (gemm, matmul, *ELEMENTWISE[1:]),
    2: (conv, matmul, matmul_left, flatten, transpose, *ELEMENTWISE),
    3: (conv, conv_transpose, *MOVES, *ELEMENTWISE),
}
LARGEST = 400


def fits(operator: Any, v: Value) -> bool:
    """Whether an operator can read a tensor of this shape and its result stays small."""
    if operator in (max_pool, average_pool, resize, depth_to_space) and min(v.shape[1:]) < 2:
        return False
    if operator is depth_to_space:
        return v.shape[0] % 4 == 0
    return not (operator in (resize, conv_transpose) and prod(v.shape) * 4 > LARGEST)


@st.composite
def graphs(draw: Any) -> onnx.ModelProto:
    """A checked model; its metadata says how to check it."""
    seed = draw(st.integers(0, 999))
    net = GraphBuilder(draw(st.sampled_from(["raw", "qdq"])), opset=17, seed=seed)
    g = Drawn(draw, net, seed)
    rank = g.pick(3, 3, 3, 2, 1)
    shape = (g.pick(2, 4, 3, 1), *(g.pick(4, 5, 3) for _ in range(rank - 1))) if rank > 1 else (6,)
    first = Value(net.input(*shape), shape, 2.0**-4, 2**10)
    values = [quantise(g, first)]
    for _ in range(g.pick(1, 2, 3, *[6, 7, 8] * 3)):
        values += step(g, values)
    used = {name for node in net.nodes for name in node.input}
    ends = [v for v in values if v.name not in used][-3:] or values[-1:]
    model = net.model(*(v.name for v in ends))
    entries = {
        "seed": seed,
        "codes": net.codes,
        "rounded": g.rounded_quantisers,
        "exact": [v.name for v in ends if not v.rounded],
        "on_integers": sorted(reached(model) & {*g.on_integers}),
    }
    helper.set_model_props(model, {"check": json.dumps(entries)})
    return model


def reached(model: onnx.ModelProto) -> set[str]:
    """The nodes that outputs depend on."""
    wanted, found = {value.name for value in model.graph.output}, set()
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            found.add(node.name)
    return found


def step(g: Drawn, values: list[Value]) -> list[Value]:
    """One more operator on the last value or an earlier one, mostly with a quantiser behind it."""
    v = g.pick(*reversed(values))
    alike = [o for o in values if o.shape == v.shape]
    fitting = [o for o in values if len(o.shape) == len(v.shape) and o.shape[1:] == v.shape[1:]]
    kind = g.pick(*["operator"] * 7, "add", "concat", "split")
    if kind == "split" and v.shape[0] > 1:
        return split(g, v)
    if kind == "add":
        made = add(g, v, g.pick(*alike))
    elif kind == "concat":
        made = concat(g, v, g.pick(*fitting))
    else:
        family = g.pick(PRODUCTS, PRODUCTS, MOVES, MOVES, ELEMENTWISE)
        there = [o for o in BY_RANK[len(v.shape)] if o in family and fits(o, v)]
        operator = g.pick(*(there or ELEMENTWISE[1:]))
        made = operator(g, v)
        if operator in PRODUCTS and v.codes:
            g.on_integers.append(made.name)
    return [quantise(g, made)] if g.pick(True, True, False) else [made]
