"""Random networks over every operator that has a rule, at one width of codes: plans drawn by hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from relax_models import const, module, quantised
from tvm import relax

from relay_passes.ops import literal

op = relax.op
N, SHAPE = 2, (2, 4, 6, 6)
WIDTHS = (None, 1, 2, 4, 8)


@dataclass
class Net:
    """A network while it is written; ``bits`` of its weights and activations, None for float."""

    emit: Any
    random: np.random.Generator
    bits: int | None
    names: list[str] = field(default_factory=list)

    def codes(self, v: Any, name: str = "q") -> Any:
        """Quantised, unless the network is float."""
        if self.bits is None:
            return v
        if self.bits == 1:
            return quantised(self.emit, v, name, scale=0.73, qmin=0, qmax=1)
        half = 1 << (self.bits - 1)
        return quantised(self.emit, v, name, scale=float(np.float32(2.3 / half)), qmin=-half, qmax=half - 1)

    def weights(self, *shape: int) -> Any:
        """Of about unit gain, quantised unless the network is float."""
        gain = 1 / np.sqrt(max(1, np.prod(shape[1:])))
        array = const((self.random.normal(size=shape) * gain).astype(np.float32))
        if self.bits is None:
            return array
        if self.bits == 1:
            return quantised(self.emit, array, "w", scale=gain, qmin=0, qmax=1, zero=0.5, form="divide_shifted")
        half = 1 << (self.bits - 1)
        return quantised(self.emit, array, "w", scale=2 * gain / half, qmin=-half, qmax=half - 1)

    def vector(self, *shape: int) -> Any:
        """A constant between 0.5 and 1.5."""
        return const(self.random.uniform(0.5, 1.5, shape).astype(np.float32))


def conv(net: Net, v: Any, weight: tuple[int, ...], **attrs: Any) -> Any:
    """A convolution of quantised operands, a bias behind it."""
    product = net.emit(op.nn.conv2d(net.codes(v), net.weights(*weight), **attrs))
    return op.add(product, net.vector(1, int(product.ty.shape[1]), 1, 1))


def transposed(net: Net, v: Any) -> Any:
    """A transposed convolution that keeps the size."""
    return op.nn.conv2d_transpose(net.codes(v), net.weights(4, 4, 3, 3), padding=(1, 1, 1, 1))


def rows(v: Any, net: Net) -> Any:
    """The image as sequences (N, 4, 36)."""
    return net.emit(op.reshape(v, (N, 4, 36)))


def volume(v: Any, net: Net) -> Any:
    """Codes of the image as a volume of two slices (N, 2, 2, 6, 6)."""
    return net.emit(op.reshape(net.codes(v), (N, 2, 2, 6, 6)))


def image(v: Any) -> Any:
    """Back from it."""
    return op.reshape(v, SHAPE)


def halves(net: Net, v: Any) -> list[Any]:
    """Two halves of the channels."""
    return [net.emit(op.strided_slice(v, [1], [i], [i + 2])) for i in (0, 2)]


def both(f: Callable[[Any, Any], Any]) -> Callable[[Net, Any], Any]:
    """A function of the halves, beside their sum."""

    def made(net: Net, v: Any) -> Any:
        a, b = halves(net, v)
        return op.concat([net.emit(f(a, b)), net.emit(op.add(a, b))], axis=1)

    return made


def unary(*names: str) -> dict[str, Callable[[Net, Any], Any]]:
    """Functions of bounded growth below ``relax.op``."""
    found = {}
    for name in names:
        function = op
        for part in name.split("."):
            function = getattr(function, part)
        found[name] = lambda net, v, f=function: f(v)
    return found


def within(name: str, low: float, high: float) -> Callable[[Net, Any], Any]:
    """A function where it is defined."""
    return lambda net, v: getattr(op, name)(net.emit(op.clip(v, low, high)))


def above(net: Net, v: Any) -> Any:
    """The tensor's absolute value plus a half."""
    return net.emit(op.add(net.emit(op.abs(v)), const(0.5)))


def masks(net: Net, v: Any) -> Any:
    """Every comparison, joined."""
    a, b = halves(net, v)
    e = net.emit
    ends = e(op.logical_or(e(op.less(a, b)), e(op.greater(a, const(1.0)))))
    other = e(op.logical_xor(e(op.less_equal(b, const(0.3))), e(op.equal(a, b))))
    most = e(op.logical_and(e(op.logical_and(ends, e(op.logical_not(other)))), e(op.not_equal(a, const(0.25)))))
    most = e(op.logical_and(most, e(op.greater_equal(b, const(-2.0)))))
    safe = e(
        op.logical_or(e(op.logical_or(e(op.isnan(a)), e(op.isinf(b)))), e(op.logical_and(most, e(op.isfinite(a)))))
    )
    chosen = e(op.where(safe, a, e(op.multiply(b, e(op.full_like(b, const(0.5)))))))
    return op.concat([chosen, e(op.add(e(op.multiply(b, e(op.ones_like(b)))), e(op.zeros_like(b))))], axis=1)


def by_range(net: Net, v: Any) -> Any:
    """A quantiser of eight bits with a step that is computed."""
    scale = net.emit(op.add(net.emit(op.mean(net.emit(op.abs(v)))), const(0.01)))
    zero = net.emit(op.astype(net.emit(op.round(scale)), "int8"))
    step = net.emit(op.multiply(scale, const(0.02)))
    return op.dequantize(net.emit(op.quantize(v, step, zero, axis=0, out_dtype="int8")), step, zero, axis=0)


def local_response(net: Net, v: Any) -> Any:
    """Divided by a power of the mean square of neighbouring channels."""
    wide = net.emit(op.expand_dims(net.emit(op.multiply(v, v)), [1]))
    mean = net.emit(op.nn.avg_pool3d(wide, (3, 1, 1), padding=(1, 0, 0, 1, 0, 0), count_include_pad=True))
    base = net.emit(op.add(net.emit(op.squeeze(mean, [1])), const(1.0)))
    return op.divide(v, net.emit(op.power(base, const(0.75))))


def attention(net: Net, v: Any) -> Any:
    """Of each channel's rows."""
    turned = net.emit(op.permute_dims(v, [0, 1, 3, 2]))
    return op.matmul(net.emit(op.nn.softmax(net.emit(op.matmul(v, turned)))), v)


def residual(net: Net, v: Any) -> Any:
    """A block around which the value goes too."""
    return op.add(net.emit(op.nn.relu(net.emit(conv(net, v, (4, 4, 3, 3), padding=(1, 1, 1, 1))))), v)


def pooled_back(f: Callable[[Any], Any], method: str = "nearest_neighbor") -> Callable[[Net, Any], Any]:
    """A pooling, enlarged again."""
    return lambda net, v: op.image.resize2d(net.emit(f(v)), (6, 6), method=method)


def spread(f: Callable[[Any], Any]) -> Callable[[Net, Any], Any]:
    """A reduction that keeps its axes, broadcast by a sum with half of the value."""
    return lambda net, v: op.add(net.emit(f(v)), net.emit(op.multiply(v, const(0.5))))


_OPERATORS: dict[str, Callable[[Net, Any], Any]] = {
    "conv": lambda net, v: conv(net, v, (4, 4, 3, 3), padding=(1, 1, 1, 1)),
    "depthwise": lambda net, v: conv(net, v, (4, 1, 3, 3), groups=4, padding=(1, 1, 1, 1)),
    "grouped, dilated": lambda net, v: conv(net, v, (4, 2, 3, 3), groups=2, dilation=2, padding=(2, 2, 2, 2)),
    "strided": lambda net, v: op.image.resize2d(
        net.emit(conv(net, v, (4, 4, 3, 3), strides=2, padding=(1, 0, 0, 1))), (6, 6), method="linear"
    ),
    "conv transposed": transposed,
    "conv 1d": lambda net, v: image(
        net.emit(op.nn.conv1d(net.codes(rows(v, net)), net.weights(4, 4, 3), padding=(1, 1)))
    ),
    "conv 1d transposed": lambda net, v: image(
        net.emit(op.nn.conv1d_transpose(net.codes(rows(v, net)), net.weights(4, 4, 3), padding=(1, 1)))
    ),
    "conv 3d": lambda net, v: image(net.emit(op.nn.conv3d(volume(v, net), net.weights(2, 2, 3, 3, 3), padding=1))),
    "conv 3d transposed": lambda net, v: image(
        net.emit(op.nn.conv3d_transpose(volume(v, net), net.weights(2, 2, 3, 3, 3), padding=1))
    ),
    "dense": lambda net, v: op.matmul(net.codes(v), net.weights(6, 6)),
    "einsum": lambda net, v: op.einsum((net.codes(v), net.weights(6, 6)), "bchw,wk->bkch"),
    "attention": attention,
    "residual": residual,
    **unary("nn.relu", "nn.leakyrelu", "nn.gelu", "nn.gelu_tanh", "nn.silu", "nn.selu", "nn.softplus", "sigmoid"),
    **unary("tanh", "erf", "abs", "round", "floor", "ceil", "trunc", "sign", "negative", "sin", "cos", "atan", "asinh"),
    "prelu": lambda net, v: op.nn.prelu(v, net.vector(4), 1),
    "clip": lambda net, v: op.clip(v, -0.7, 1.1),
    "exp": within("exp", -3, 1),
    "sinh": within("sinh", -1, 1),
    "cosh": within("cosh", -1, 1),
    "tan": within("tan", -0.8, 0.8),
    "asin": within("asin", -0.9, 0.9),
    "acos": within("acos", -0.9, 0.9),
    "atanh": within("atanh", -0.9, 0.9),
    "acosh": within("acosh", 1.1, 3),
    "square": within("square", -1.5, 1.5),
    "log": lambda net, v: op.log(above(net, v)),
    "sqrt": lambda net, v: op.sqrt(above(net, v)),
    "rsqrt": lambda net, v: op.rsqrt(above(net, v)),
    "power": lambda net, v: op.power(above(net, v), const(-0.6)),
    "power of": lambda net, v: op.power(const(1.4), net.emit(op.clip(v, -3, 3))),
    "divide": lambda net, v: op.divide(v, above(net, v)),
    "quotient": both(lambda a, b: op.divide(a, op.add(op.abs(b), const(0.5)))),
    "product": both(lambda a, b: op.multiply(op.clip(a, -2, 2), b)),
    "product of channels": spread(lambda v: op.prod(op.clip(v, -1.5, 1.5), [1], keepdims=True)),
    "maximum": both(op.maximum),
    "minimum": both(op.minimum),
    "maximum with": lambda net, v: op.maximum(v, net.vector(4, 1, 1)),
    "subtract": both(op.subtract),
    "masks": masks,
    "softmax": lambda net, v: op.nn.softmax(v, 1),
    "log_softmax": lambda net, v: op.nn.log_softmax(v, -1),
    "layer_norm": lambda net, v: op.nn.layer_norm(v, net.vector(6), net.vector(6), axes=[-1]),
    "rms_norm": lambda net, v: op.nn.rms_norm(v, net.vector(6), axes=[-1]),
    "instance_norm": lambda net, v: op.nn.instance_norm(v, net.vector(4), net.vector(4), 1, [2, 3]),
    "group_norm": lambda net, v: op.nn.group_norm(v, net.vector(4), net.vector(4), 2, 1, [2, 3]),
    "variance": spread(lambda v: op.variance(v, [1], keepdims=True)),
    "std": spread(lambda v: op.std(v, [2, 3], keepdims=True)),
    "local response": local_response,
    "max pool": pooled_back(lambda v: op.nn.max_pool2d(v, (3, 3), strides=(2, 2))),
    "overlapping max pool": lambda net, v: op.nn.max_pool2d(v, (3, 3), padding=(1, 1, 1, 1)),
    "max pool 1d": lambda net, v: image(net.emit(op.nn.max_pool1d(rows(v, net), 3, padding=(1, 1)))),
    "average pool": lambda net, v: op.nn.avg_pool2d(v, (3, 3), padding=(1, 1, 1, 1)),
    "average pool 1d": lambda net, v: image(net.emit(op.nn.avg_pool1d(rows(v, net), 3, padding=(1, 1)))),
    "adaptive": pooled_back(lambda v: op.nn.adaptive_avg_pool2d(v, (2, 3)), "linear"),
    "adaptive 1d": lambda net, v: image(
        net.emit(op.repeat(net.emit(op.nn.adaptive_avg_pool1d(rows(v, net), 12)), 3, 2))
    ),
    "max": spread(lambda v: op.max(v, [1], keepdims=True)),
    "min": spread(lambda v: op.min(v, [2, 3], keepdims=True)),
    "mean": spread(lambda v: op.mean(v, [2, 3], keepdims=True)),
    "sum": lambda net, v: op.multiply(net.emit(spread(lambda u: op.sum(u, [1], keepdims=True))(net, v)), const(0.4)),
    "cumsum": lambda net, v: op.multiply(net.emit(op.cumsum(v, 2)), const(0.4)),
    "flip": lambda net, v: op.flip(v, 3),
    "take": lambda net, v: op.take(v, const([3, 1, 1, 0], "int64"), axis=1, mode="clip"),
    "tile": lambda net, v: op.tile(net.emit(op.strided_slice(v, [3], [0], [6], [2])), (1, 1, 1, 2)),
    "stack": lambda net, v: image(net.emit(op.stack(halves(net, v), 2))),
    "flatten": lambda net, v: op.reshape(net.emit(op.flatten(v)), SHAPE),
    "pad": lambda net, v: op.strided_slice(
        net.emit(op.nn.pad(v, [0, 0, 0, 0, 1, 0, 0, 2], "constant", 0.5)), [2, 3], [0, 1], [6, 7]
    ),
    "reflect": lambda net, v: op.strided_slice(
        net.emit(op.nn.pad(v, [0, 0, 0, 0, 2, 0, 1, 1], "reflect")), [2, 3], [1, 0], [7, 6]
    ),
    "gather_nd": lambda net, v: op.gather_nd(v, literal(np.repeat([[[3], [0], [0], [1]]], N, 0)), 1),
    "broadcast_to": lambda net, v: op.broadcast_to(net.emit(op.mean(v, [2], keepdims=True)), SHAPE),
}
# Ranges are measured over the whole tensor, and items would share a difference.
BY_RANGE = {"quantize by range": by_range}
OPERATORS = dict(_OPERATORS)


@dataclass(frozen=True)
class Plan:
    """A network to write: names of `OPERATORS` in order, a seed, a width, and which values to cut at."""

    steps: tuple[str, ...]
    seed: int
    bits: int | None
    cuts: tuple[int, int]

    def write(self, operators: Any = OPERATORS, shape: tuple[int, ...] = SHAPE) -> Any:
        """The module; the value after step i is called ``v{i}``."""

        def body(emit: Any, x: Any) -> Any:
            net = Net(lambda expr, name="": emit(expr, name), np.random.default_rng(self.seed), self.bits)
            v = net.codes(x, "input")
            for i, step in enumerate(self.steps):
                v = emit(operators[step](net, v), f"v{i}")
            flat = emit(op.reshape(v, (shape[0], int(np.prod(shape[1:])))), "flat")
            weights = net.random.normal(size=(int(np.prod(shape[1:])), 2)) / 12
            return emit(op.matmul(flat, const(weights.astype(np.float32))), "logits")

        return module(body, shape)


@st.composite
def plans(draw: Any) -> Plan:
    """One to five operators at any width."""
    steps = tuple(draw(st.lists(st.sampled_from(sorted(OPERATORS)), min_size=1, max_size=5)))
    cut = st.integers(0, len(steps) - 1)
    return Plan(steps, draw(st.integers(0, 999)), draw(st.sampled_from(WIDTHS)), (draw(cut), draw(cut)))
