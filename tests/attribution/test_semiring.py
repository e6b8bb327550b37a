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
from relay_passes.attribution import engine
from relay_passes.attribution.carriers.base import LinearMap
from relay_passes.attribution.rules import RULES
from tvm_lowbit import LowbitError, SemiringEntropy, SemiringPath
from tvm_lowbit.images import predictions

# Which signs are asked for over which slopes: signs and slopes know nothing of each other.
ASKED = (("gradient", "positive"), ("gradient", "absolute"), ("deeplift", "negative"))


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
    return net.unary(name, lambda v: quantised(lambda e, _: e, v, **made), rounded, lambda v: (v >= 0) & (v <= top), x)


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
    x, x0 = grid(random, 6, 2, 5, 5), grid(random, 2, 5, 5)
    x[:, 0, 0] = x0[0, 0]
    overs: dict[str, dict[str, Any]] = {"gradient": {}, "deeplift": {"reference": x0}}
    methods: list[Any] = [
        SemiringPath(over=over, sign=sign, name=f"{over}_{sign}", target=1, **overs[over]) for over, sign in ASKED
    ]
    methods += [SemiringEntropy(over=over, name=over, target=1, **more) for over, more in overs.items()]
    result = tvm_lowbit.build(mod, "host", explain=methods).run(x)
    for item in range(len(x)):
        logits = nets[0].run(x[item])["logits"]
        np.testing.assert_allclose(next(iter(result.outputs.values()))[item], logits, rtol=1e-5)
        paths = {
            over: list(nets[0].paths(x[item], more.get("reference"), "logits", np.array([0, 1, 0])))
            for over, more in overs.items()
        }
        for over, sign in ASKED:
            check_paths(result.explanations[f"{over}_{sign}"], sign, paths[over], item)
        for over in overs:
            found, known = result.explanations[over], paths[over]
            total = entropy([w for w, _ in known])
            np.testing.assert_allclose(found["total_entropy"][item], total, rtol=1e-4, atol=1e-5)
            each = [entropy([w for w, on in known if on["x"] == i]) for i in range(x0.size)]
            np.testing.assert_allclose(found["entropy"][item].ravel(), each, rtol=1e-4, atol=1e-5)


def test_composed_rules() -> None:
    """Softmax and a sigmoid: each verb of a rule is an edge, so softmax has two from each logit to its own output."""
    random = np.random.default_rng(0)
    w, v = random.normal(size=(4, 3)).astype(np.float32), random.normal(size=(3, 2)).astype(np.float32)
    nets = []

    def softmax(values: list[Array], references: Any) -> list[Array]:
        z = values[0]
        y = np.exp(z) / np.exp(z).sum()
        return [np.diag(y), -np.outer(y, y)]

    def body(emit: Any, x: Any) -> Any:
        nets.append(net := Network(emit, vars={"x": x}))
        y = net.linear("fc", lambda u: relax.op.matmul(u, const(w)), lambda u: u @ w, "x")
        y = net.operator(
            "softmax", ("fc", "fc"), lambda z, _: np.exp(z) / np.exp(z).sum(), softmax, relax.op.nn.softmax(net.vars[y])
        )
        y = net.unary(
            "gate", relax.op.sigmoid, lambda u: 1 / (1 + np.exp(-u)), lambda u: np.exp(-u) / (1 + np.exp(-u)) ** 2, y
        )
        return net.vars[net.linear("out", lambda u: relax.op.matmul(u, const(v)), lambda u: u @ v, y)]

    x = random.normal(size=(1, 4)).astype(np.float32)
    methods = [SemiringPath(target=0, sign="absolute"), SemiringEntropy(target=0)]
    result = tvm_lowbit.build(module(body, (1, 4)), "host", explain=methods).run(x)
    paths = list(nets[0].paths(x[0], None, "out", np.array([1, 0])))
    check_paths(result.explanations["semiring_path"], "absolute", paths, 0)
    total = entropy([weight for weight, _ in paths])
    np.testing.assert_allclose(result.explanations["semiring_entropy"]["total_entropy"], [total], rtol=1e-4)


def test_deep() -> None:
    """Sixty layers of four equal edges each: 2 ** 60 paths, each of weight 10 ** -180, which float32 does not know."""
    depth = 60

    def body(emit: Any, x: Any) -> Any:
        for i in range(depth):
            x = emit(relax.op.matmul(x, const([[1e-3, -1e-3], [1e-3, 1e-3]])), f"fc{i}")
        return x

    methods = [SemiringPath(target=1), SemiringEntropy(target=1)]
    result = tvm_lowbit.build(module(body, (1, 2)), "host", explain=methods).run(np.ones((1, 2), np.float32))
    path, spread = result.explanations.values()
    np.testing.assert_allclose(path["weight"], [1e-180], rtol=2e-5)
    np.testing.assert_allclose(path["weights"], [[1e-180, 1e-180]], rtol=2e-5)
    # The first of equals, wherever it leads on to another of them; at the last layer it leads to the target.
    assert path["path"][0, 0] == 0
    assert path["path"][0, -1] == 1
    np.testing.assert_allclose(spread["total_entropy"], [depth * np.log(2)], rtol=1e-5)
    np.testing.assert_allclose(spread["entropy"], [[(depth - 1) * np.log(2)] * 2], rtol=1e-5)


def test_what_is_given() -> None:
    """Several targets, layers, two inputs, a branch that the path does not take, no path at all."""

    def body(emit: Any, x: Any, y: Any) -> Any:
        a = emit(relax.op.nn.relu(emit(relax.op.matmul(x, const([[2, 0], [-1, 1]])), "fc1")), "relu")
        b = emit(relax.op.matmul(y, const([[3, 1], [1, 1]])), "fc2")
        return emit(relax.op.matmul(emit(relax.op.add(a, b), "sum"), const([[1, 0, -1], [0, 0, 1]])), "out")

    mod = module(body, (2, 2), (2, 2))
    method = SemiringPath(target=[0, 1, tvm_lowbit.Difference(2, 0)], layers=["sum"])
    x = {"x": np.array([[1, 0], [-1, 0]], np.float32), "y": np.ones((2, 2), np.float32)}
    result = tvm_lowbit.build(mod, "host", explain=[method]).run(x)
    assert "semiring_path: target" in [str(column.header) for column in predictions(result).columns]
    found = result.explanations["semiring_path"]
    names = ("x", "y", "fc1", "relu", "fc2", "sum", "out")
    assert found.columns("path") == names
    np.testing.assert_array_equal(found["weight"], [[3, 0, 1]] * 2)
    assert found["path"].shape == (2, 3, 7)
    assert found["path"][0].tolist() == [[-1, 0, -1, -1, 0, 0, 0], [-1] * 7, [1, -1, 0, 0, -1, 0, 0]]
    assert found["path"][1, 2].tolist() == [-1, 0, -1, -1, 1, 1, 2]
    # At the first input: only through live ReLUs; two negative edges make a positive path.
    np.testing.assert_array_equal(found["weights"][0], [[2, -1], [0, 0], [-2, 1]])
    np.testing.assert_array_equal(found["weights"][1], np.zeros((3, 2)))
    np.testing.assert_array_equal(found.layers["sum"]["weights"][0], [[1, 0], [0, 0], [-1, 1]])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SemiringPath(over="secants"), "one of gradient, deeplift"),
        (lambda: SemiringPath(sign="largest"), "one of positive, negative, absolute"),
        (lambda: SemiringEntropy(reference=0.0), "derivatives have no reference"),
        (lambda: SemiringEntropy(over="deeplift", reference=np.nan), "finite numbers"),
    ],
)
def test_bad_requests(make: Any, said: str) -> None:
    """Each is refused where it is written."""
    with pytest.raises(LowbitError, match=said):
        make()


def test_a_map_without_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule may use a linear map that no row of edges describes: the error names layer and operator."""
    blur = LinearMap("blur", np.ones(1, np.float32), lambda context, g, w: g, lambda context, x, w: x)
    table = {**RULES, "relax.tanh": lambda var, call, g, context: [context.linear(g, blur, call.args[0])]}
    monkeypatch.setattr(engine, "RULES", table)

    def body(emit: Any, x: Any) -> Any:
        return emit(relax.op.matmul(emit(relax.op.tanh(x), "squash"), const(np.eye(2))), "out")

    with pytest.raises(LowbitError, match=r"layer squash.*relax\.tanh.*'blur'"):
        tvm_lowbit.build(module(body, (1, 2)), "host", explain=[SemiringPath(target=0)])
