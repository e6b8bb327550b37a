"""Best paths and entropies against the enumeration of all paths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from paths import Array, Network, entropy
from relax_models import const, module, quantised
from tvm import relax

import tvm_lowbit
from tvm_lowbit import LowbitError, SemiringEntropy, SemiringPath

SIGNS = ("positive", "negative", "absolute")


def grid(random: Any, *shape: int) -> Array:
    """Numbers with few digits, many of them equal, none 0: sums are exact, and ties occur."""
    array = random.integers(-6, 7, shape) / 4
    return np.where(array == 0, 0.25, array).astype(np.float32)


def torch_in_numpy(f: Any) -> Any:
    """A torch function of a batch as a NumPy function of one item, in float64."""
    return lambda *arrays: f(*(torch.from_numpy(np.asarray(a, np.float64))[None] for a in arrays))[0].numpy()


def conv(net: Network, name: str, x: str, w: Array, bits: int | None = None, **options: Any) -> str:
    """A convolution; its weights quantised where bits say so, which their grid outlives."""
    weight = const(w)
    if bits is not None:
        weight = quantised(net.emit, weight, f"{name}/w", scale=0.25, qmin=-6, qmax=6)
    operator = relax.op.nn.conv1d if w.ndim == 3 else relax.op.nn.conv2d
    function = torch.nn.functional.conv1d if w.ndim == 3 else torch.nn.functional.conv2d
    known = torch_in_numpy(lambda v: function(v, torch.from_numpy(w).double(), None, **options))
    names = {"stride": "strides"}
    made = {names.get(key, key): value for key, value in options.items()}
    return net.linear(name, lambda v: operator(v, weight, **made), known, x)


def activation(net: Network, name: str, x: str, bits: int | None) -> str:
    """A ReLU, or a quantiser of that many bits: straight through, from 0 to its largest value."""
    if bits is None:
        return net.unary(name, relax.op.nn.relu, lambda v: np.maximum(v, 0), lambda v: v > 0, x)
    top = (2**bits - 1) * 0.5

    def rounded(v: Array) -> Array:
        return np.clip(np.rint(v / 0.5), 0, 2**bits - 1) * 0.5

    made = {"scale": 0.5, "qmin": 0, "qmax": 2**bits - 1}
    # The name is bound by the network itself.
    return net.unary(
        name, lambda v: quantised(lambda e, _: e, v, **made), rounded, lambda v: (v >= 0) & (v <= top), x
    )


def windows(shape: tuple[int, ...], kernel: int, stride: int, pad: int) -> list[list[int]]:
    """The pixels that each window of a pooling of (C, H, W) reads."""
    c, h, w = shape
    rows = range((h + 2 * pad - kernel) // stride + 1)
    columns = range((w + 2 * pad - kernel) // stride + 1)
    taps = [(y, x) for y in range(kernel) for x in range(kernel)]
    found = []
    for channel in range(c):
        for oy in rows:
            for ox in columns:
                at = [(oy * stride - pad + y, ox * stride - pad + x) for y, x in taps]
                found.append([(channel * h + y) * w + x for y, x in at if 0 <= y < h and 0 <= x < w])
    return found


def convolutions(net: Network, random: Any, bits: int | None) -> str:
    """Stride, padding, groups, residual addition, overlapping max pooling, average pooling, concat, dense."""
    x = conv(net, "conv1", "x", grid(random, 4, 1, 3, 3), bits, stride=(2, 2), padding=(1, 1), groups=2)
    x = activation(net, "act1", x, bits)
    y = conv(net, "conv2", x, grid(random, 4, 4, 2, 2), bits, padding=(1, 1), dilation=(2, 2))
    x = net.linear("residual", relax.op.add, lambda a, b: a + b, x, y)
    x = net.largest(
        "pooled",
        lambda v: relax.op.nn.max_pool2d(v, (3, 3), strides=(2, 2), padding=(1, 1, 1, 1)),
        windows((4, 3, 3), 3, 2, 1),
        (4, 2, 2),
        x,
    )
    average = torch_in_numpy(lambda v: torch.nn.functional.avg_pool2d(v, 2, 1))
    y = net.linear("average", lambda v: relax.op.nn.avg_pool2d(v, (2, 2)), average, x)
    x = net.linear("flat", lambda v: relax.op.reshape(v, (2, 16)), lambda v: v.reshape(16), x)
    y = net.linear("flat2", lambda v: relax.op.reshape(v, (2, 4)), lambda v: v.reshape(4), y)
    both = net.linear("both", lambda *v: relax.op.concat(list(v), 1), lambda *v: np.concatenate(v), x, y)
    w = grid(random, 20, 3)
    return net.linear("logits", lambda v: relax.op.matmul(v, const(w)), lambda v: v @ w.astype(float), both)


def moves(net: Network, random: Any, bits: int | None) -> str:
    """1-d, transposed, products of two values, broadcasts, permutations, slices, resize, sums, subtraction."""
    x = net.linear("row", lambda v: relax.op.reshape(v, (2, 2, 25)), lambda v: v.reshape(2, 25), "x")
    x = conv(net, "conv1", x, grid(random, 4, 2, 3), bits, stride=4, padding=2, dilation=2)
    x = activation(net, "act1", x, bits)  # (4, 7)
    up = grid(random, 4, 1, 2)
    known = torch_in_numpy(
        lambda v: torch.nn.functional.conv_transpose1d(v, torch.from_numpy(up).double(), None, 2, 1, groups=2)
    )
    y = net.linear(
        "up", lambda v: relax.op.nn.conv1d_transpose(v, const(up), strides=2, padding=(1, 1), groups=2), known, x
    )  # (2, 12)
    y = net.linear(
        "every", lambda v: relax.op.strided_slice(v, [2], [11], [0], [-2]), lambda v: v[:, 11:0:-2], y
    )  # (2, 6)
    y = net.linear("shifted", lambda v: relax.op.subtract(const(np.ones((2, 1))), v), lambda v: 1 - v, y)
    mean = net.linear("mean", lambda v: relax.op.mean(v, [2], True), lambda v: v.mean(1, keepdims=True), x)  # (4, 1)
    gate = net.linear("gate", lambda v: relax.op.reshape(v, (2, 2, 2)), lambda v: v.reshape(2, 2), mean)
    gate = net.linear("turned", lambda v: relax.op.permute_dims(v, (0, 2, 1)), lambda v: v.T, gate)
    y = net.product("mixed", relax.op.matmul, lambda a, b: a @ b, gate, y)  # (2, 6)
    first = net.linear("first", lambda v: relax.op.strided_slice(v, [1], [0], [2]), lambda v: v[:2], mean)
    y = net.product("gated", relax.op.multiply, lambda a, b: a * b, first, y)
    y = net.largest("best", lambda v: relax.op.max(v, [2]), [range(6), range(6, 12)], (2,), y)
    w = grid(random, 2, 3)
    return net.linear("logits", lambda v: relax.op.matmul(v, const(w)), lambda v: v @ w.astype(float), y)


def check_paths(found: Any, sign: str, paths: list[tuple[float, dict[str, int]]], item: int) -> None:
    """The path is one of them, its weight is theirs, and none is better, here and from any input element."""
    names = found.columns("path")
    best = {"positive": np.argmax, "negative": np.argmin, "absolute": lambda w: np.argmax(np.abs(w))}[sign]
    weights = np.array([weight for weight, _ in paths])
    assert len(paths) <= 100_000
    weight = found["weight"][item]
    if sign == "absolute":
        np.testing.assert_allclose(abs(weight), abs(weights[best(weights)]), rtol=1e-5)
    else:
        np.testing.assert_allclose(weight, weights[best(weights)], rtol=1e-5)
    assert set(paths[0][1]) <= set(names)
    passed = {name: int(i) for name, i in zip(names, found["path"][item], strict=True) if i >= 0}
    same = [w for w, on in paths if on == passed]
    assert any(np.isclose(w, weight, rtol=1e-5) for w in same)
    expected = np.zeros(found["weights"][item].size)
    starts = np.array([on["x"] for _, on in paths])
    for i in np.unique(starts):
        own = weights[starts == i]
        expected[i] = own[best(own)]
    got = found["weights"][item].ravel()
    if sign == "absolute":
        expected, got = np.abs(expected), np.abs(got)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("write", [convolutions, moves])
@pytest.mark.parametrize("bits", [None, 2])
def test_enumeration(write: Any, bits: int | None) -> None:
    """Derivatives and secants, all signs, the map at the input, and both entropies."""
    random = np.random.default_rng(3)
    nets = []

    def body(emit: Any, x: Any) -> Any:
        nets.append(net := Network(emit, vars={"x": x}))
        return net.vars[write(net, random, bits)]

    mod = module(body, (2, 2, 5, 5))
    x, x0 = grid(random, 2, 2, 5, 5), grid(random, 2, 5, 5)
    x[:, 0, 0] = x0[0, 0]
    overs: dict[str, dict[str, Any]] = {"gradient": {}, "deeplift": {"reference": x0}}
    methods: list[Any] = [
        SemiringPath(over=over, sign=sign, name=f"{over}_{sign}", target=1, **more)
        for over, more in overs.items()
        for sign in SIGNS
    ]
    methods += [SemiringEntropy(over=over, name=f"{over}_entropy", target=1, **more) for over, more in overs.items()]
    result = tvm_lowbit.build(mod, "host", explain=methods).run(x)
    for item in range(2):
        logits = nets[0].run(x[item])["logits"]
        np.testing.assert_allclose(next(iter(result.outputs.values()))[item], logits, rtol=1e-5)
        for over in overs:
            reference = None if over == "gradient" else x0
            paths = list(nets[0].paths(x[item], reference, "logits", np.array([0, 1, 0])))
            for sign in SIGNS:
                check_paths(result.explanations[f"{over}_{sign}"], sign, paths, item)
            found = result.explanations[f"{over}_entropy"]
            total = entropy([w for w, _ in paths])
            np.testing.assert_allclose(found["total_entropy"][item], total, rtol=1e-4, atol=1e-5)
            each = [entropy([w for w, on in paths if on["x"] == i]) for i in range(x0.size)]
            np.testing.assert_allclose(found["entropy"][item].ravel(), each, rtol=1e-4, atol=1e-5)
