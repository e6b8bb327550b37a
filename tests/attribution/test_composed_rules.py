"""Operators of several steps, each on a row of one network: complete row by row, gradients torch's; softmax by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from explained import explain, summed
from relax_models import const, module
from tvm import relax

import tvm_lowbit
from relay_passes.ops import literal
from tvm_lowbit import LowbitError

op = relax.op
F = torch.nn.functional
RNG = np.random.default_rng(5)
N, C, H, W = 2, 4, 3, 6
SHAPE = (N, C, H, W)
GAMMA, BETA = RNG.uniform(0.5, 2, C).astype(np.float32), RNG.normal(size=C).astype(np.float32)
WIDE = RNG.uniform(0.5, 2, (H, W)).astype(np.float32)


def t(array: Any) -> Any:
    """As torch's, in float64."""
    return torch.tensor(array, dtype=torch.float64)


def halves(v: Any) -> Any:
    """Two tensors of half the channels."""
    return v[:, :2], v[:, 2:]


def pair(operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """An operator on two halves of the channels."""

    def body(emit: Any, x: Any) -> Any:
        a, b = (emit(op.strided_slice(x, [1], [i], [i + 2])) for i in (0, 2))
        return operation(a, b)

    return body


def dynamic(emit: Any, x: Any) -> Any:
    """A quantiser of eight bits whose step is the range of each image."""
    high = emit(op.maximum(emit(op.max(x, [1, 2, 3], keepdims=True)), const(np.zeros((1, 1, 1, 1)))))
    low = emit(op.minimum(emit(op.min(x, [1, 2, 3], keepdims=True)), const(np.zeros((1, 1, 1, 1)))))
    scale = emit(op.divide(emit(op.subtract(high, low)), const(7.0)))
    zero = emit(op.clip(emit(op.round(emit(op.divide(emit(op.negative(low)), scale)))), 0, 7))
    codes = emit(op.clip(emit(op.add(emit(op.round(emit(op.divide(x, scale)))), zero)), 0, 7))
    return op.multiply(emit(op.subtract(codes, zero)), scale)


def rounded(v: Any) -> Any:
    """Straight through."""
    return v + (torch.round(v) - v).detach()


def torch_dynamic(v: Any) -> Any:
    """The same."""
    high, low = v.amax((1, 2, 3), True).clamp(min=0), v.amin((1, 2, 3), True).clamp(max=0)
    scale = (high - low) / 7
    zero = rounded(-low / scale).clamp(0, 7)
    return ((rounded(v / scale) + zero).clamp(0, 7) - zero) * scale


def quantised_by_range(emit: Any, x: Any) -> Any:
    """Integers by a step that is computed, as ONNX's DynamicQuantizeLinear and DequantizeLinear."""
    scale = emit(op.divide(emit(op.max(emit(op.abs(x)))), const(127.0)))
    zero = emit(op.astype(emit(op.round(emit(op.multiply(scale, const(100.0))))), "int8"))
    return op.dequantize(emit(op.quantize(x, scale, zero, axis=0, out_dtype="int8")), scale, zero, axis=0)


def torch_by_range(v: Any) -> Any:
    """The same."""
    scale = v.abs().amax() / 127
    zero = rounded(scale * 100)
    return ((rounded(v / scale) + zero).clamp(-128, 127) - zero) * scale


def masked(emit: Any, x: Any) -> Any:
    """Comparisons and what joins them, on halves of the channels."""
    a, b = (emit(op.strided_slice(x, [1], [i], [i + 2])) for i in (0, 2))
    different = emit(op.logical_and(emit(op.not_equal(a, b)), emit(op.logical_not(emit(op.isnan(a))))))
    finite = emit(op.logical_or(emit(op.isinf(a)), emit(op.isfinite(b))))
    chosen = emit(op.logical_xor(emit(op.less(a, b)), emit(op.equal(a, const(0.5)))))
    either = emit(op.logical_or(emit(op.greater_equal(a, const(1.0))), emit(op.less_equal(b, const(-1.0)))))
    whole = emit(op.logical_and(emit(op.logical_and(different, finite)), emit(op.logical_and(chosen, either))))
    ones = emit(op.multiply(emit(op.ones_like(a)), emit(op.full_like(a, const(2.0)))))
    return op.add(emit(op.where(whole, emit(op.multiply(b, ones)), a)), emit(op.zeros_like(b)))


def torch_masked(v: Any) -> Any:
    """The same, of numbers."""
    a, b = halves(v)
    return torch.where((a < b) & ((a >= 1) | (b <= -1)), 2 * b, a)


def bound(emit: Any, x: Any) -> Any:
    """Every result by its name in a chain."""
    norm = emit(op.sqrt(emit(op.sum(emit(op.multiply(x, x)), [1], keepdims=True))))
    return op.divide(x, norm)


def local_response(emit: Any, x: Any) -> Any:
    """As front ends write LRN."""
    squares = emit(op.reshape(emit(op.multiply(x, x)), (N, 1, C, H, W)))
    mean = emit(op.nn.avg_pool3d(squares, (3, 1, 1), padding=(1, 0, 0, 1, 0, 0), count_include_pad=True))
    scale = emit(
        op.power(emit(op.add(emit(op.multiply(emit(op.squeeze(mean, [1])), const(0.5))), const(1.0))), const(0.75))
    )
    return op.divide(x, scale)


PLACES = np.repeat(RNG.integers(0, 3, (1, 5, 2)), N, 0)
ALONG = np.repeat(RNG.integers(0, H, (1, C, 2, W)), N, 0)
VOLUME = (N, 2, 2, H, W)
KERNEL, GROUPED = (RNG.normal(size=shape).astype(np.float32) for shape in ((3, 2, 2, 2, 3), (4, 1, 2, 2, 2)))
BACK, BACK_GROUPED = (RNG.normal(size=shape).astype(np.float32) for shape in ((2, 3, 2, 2, 3), (2, 2, 2, 2, 2)))
MATRIX = RNG.normal(size=(W, 5)).astype(np.float32)
ALL = {"strides": (2, 1, 2), "dilation": (1, 2, 1), "groups": 2}
ALL_OF_TORCH = ((2, 1, 2), 0, (1, 2, 1), 2)
PADS = {"reflect": (2, 1, 1, 2), "replicate": (2, 0, 1, 3), "circular": (2, 1, 0, 3)}


def padded(mode: str) -> tuple[Callable[[Any, Any], Any], Callable[[Any], Any]]:
    """A pad of rows and columns by what is there."""
    left, right, top, bottom = PADS[mode]
    widths = [0, 0, 0, 0, top, bottom, left, right]
    return lambda emit, x: op.nn.pad(x, widths, mode), lambda v: F.pad(v, PADS[mode], mode=mode)


def volume(f: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """An operator on half of the channels as a volume of two slices."""
    return lambda emit, x: f(emit(op.reshape(x, VOLUME)))


def einsum(subscripts: str, *others: Any) -> tuple[Callable[[Any, Any], Any], Callable[[Any], Any]]:
    """Of the value, as often as the letters say, and of constants."""
    times = subscripts.count(",") + 1 - len(others)
    constants = [const(o) for o in others]
    return (
        lambda emit, x: op.einsum((*[x] * times, *constants), subscripts),
        lambda v: torch.einsum(subscripts, *[v] * times, *(t(o) for o in others)),
    )


def diagonal(emit: Any, x: Any) -> Any:
    """Of the first columns, with itself."""
    square = emit(op.strided_slice(x, [3], [0], [H]))
    return op.einsum((square, square), "bchh,bchk->bk")


ROWS: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any], Any]]] = {
    "softmax": (lambda emit, x: op.nn.softmax(x, 1), lambda v: v.softmax(1)),
    "sharp softmax": (lambda emit, x: op.nn.softmax(emit(op.multiply(x, const(8.0)))), lambda v: (v * 8).softmax(-1)),
    "log_softmax": (lambda emit, x: op.nn.log_softmax(x, -1), lambda v: v.log_softmax(-1)),
    "layer_norm": (
        lambda emit, x: op.nn.layer_norm(x, const(WIDE), const(WIDE), axes=[2, 3]),
        lambda v: F.layer_norm(v, (H, W), t(WIDE), t(WIDE)),
    ),
    "rms_norm": (
        lambda emit, x: op.nn.rms_norm(x, const(WIDE[0]), axes=[-1]),
        lambda v: F.rms_norm(v, (W,), t(WIDE[0]), 1e-5),
    ),
    "instance_norm": (
        lambda emit, x: op.nn.instance_norm(x, const(GAMMA), const(BETA), channel_axis=1, axes=[2, 3]),
        lambda v: F.instance_norm(v, weight=t(GAMMA), bias=t(BETA)),
    ),
    "group_norm": (
        lambda emit, x: op.nn.group_norm(x, const(GAMMA), const(BETA), num_groups=2, channel_axis=1, axes=[2, 3]),
        lambda v: F.group_norm(v, 2, t(GAMMA), t(BETA)),
    ),
    "variance": (lambda emit, x: op.variance(x, [1]), lambda v: v.var(1, correction=0)),
    "std": (lambda emit, x: op.std(x, [2, 3], keepdims=True), lambda v: v.std((2, 3), correction=0)),
    "divide": (
        pair(lambda a, b: op.divide(a, op.add(op.abs(b), const(0.5)))),
        lambda v: halves(v)[0] / (halves(v)[1].abs() + 0.5),
    ),
    "narrow divisor": (bound, lambda v: v / v.norm(dim=1, keepdim=True)),
    "maximum": (pair(op.maximum), lambda v: torch.maximum(*halves(v))),
    "minimum": (pair(op.minimum), lambda v: torch.minimum(*halves(v))),
    "max along channels": (lambda emit, x: op.max(x, [1]), lambda v: v.amax(1)),
    "min along rows": (lambda emit, x: op.min(x, [2], keepdims=True), lambda v: v.amin(2)),
    "where": (
        pair(lambda a, b: op.where(op.greater(a, b), op.multiply(a, b), op.exp(b))),
        lambda v: torch.where(halves(v)[0] > halves(v)[1], halves(v)[0] * halves(v)[1], halves(v)[1].exp()),
    ),
    "constant mask": (
        lambda emit, x: op.where(const(WIDE > 1, "bool"), x, const(2.0)),
        lambda v: torch.where(torch.tensor(WIDE > 1), v, 2.0),
    ),
    "masks": (masked, torch_masked),
    "dynamic quantiser": (dynamic, torch_dynamic),
    "local response": (local_response, lambda v: F.local_response_norm(v, 3, alpha=0.5)),
    "cumsum": (lambda emit, x: op.cumsum(x, 1), lambda v: v.cumsum(1)),
    "exclusive cumsum": (lambda emit, x: op.cumsum(x, -1, exclusive=True), lambda v: v.cumsum(-1) - v),
    "attention": (
        lambda emit, x: op.matmul(emit(op.nn.softmax(emit(op.matmul(x, emit(op.permute_dims(x, [0, 1, 3, 2])))))), x),
        lambda v: (v @ v.mT).softmax(-1) @ v,
    ),
    "prod of an odd number": (lambda emit, x: op.prod(x, [2]), lambda v: v.prod(2)),
    "prod of channels": (lambda emit, x: op.prod(x, [1], keepdims=True), lambda v: v.prod(1)),
    "prod of several axes": (
        lambda emit, x: op.prod(emit(op.sigmoid(x)), [1, -1]),
        lambda v: v.sigmoid().transpose(2, 3).flatten(1, 2).prod(1),
    ),
    "einsum with weights": einsum("...w,wk->...k", MATRIX),
    "einsum of channels": (
        lambda emit, x: op.einsum((const(MATRIX[:C]), x), "co,bchw->bohw"),
        lambda v: torch.einsum("co,bchw->bohw", t(MATRIX[:C]), v),
    ),
    "einsum of two": einsum("bchw,bdhw->bcd"),
    "einsum of three": einsum("bchw,bcHw,wk->bkc", MATRIX),
    "einsum summed": einsum("bchw,hw->bc", WIDE),
    "einsum without a sum": einsum("bchw,bchw,hw->bhcw", WIDE),
    "einsum of a diagonal": (
        diagonal,
        lambda v: torch.einsum("bchh,bchk->bk", v[..., :H], v[..., :H]),
    ),
    "reflect": padded("reflect"),
    "replicate": padded("replicate"),
    "circular": padded("circular"),
    "gather_nd": (
        lambda emit, x: op.gather_nd(x, literal(PLACES), 1),
        lambda v: v[(slice(None), *PLACES[0].T)],
    ),
    "gather_elements": (
        lambda emit, x: op.gather_elements(x, literal(ALONG), 2),
        lambda v: v.gather(2, torch.tensor(ALONG[: len(v)])),
    ),
    "index_tensor": (
        lambda emit, x: op.permute_dims(
            emit(op.index_tensor(emit(op.permute_dims(x, [1, 2, 3, 0])), (literal([[0], [2]]), literal([1, 1, 0])))),
            [3, 0, 1, 2],
        ),
        lambda v: v[:, [[0], [2]], [1, 1, 0]],
    ),
    "tile with a new axis": (
        lambda emit, x: op.permute_dims(emit(op.tile(x, (3, 1, 1, 2, 1))), [1, 0, 2, 3, 4]),
        lambda v: v.tile(3, 1, 1, 2, 1).transpose(0, 1),
    ),
    "conv3d": (
        volume(lambda v: op.nn.conv3d(v, const(KERNEL), padding=1)),
        lambda v: F.conv3d(v.reshape(-1, *VOLUME[1:]), t(KERNEL), padding=1),
    ),
    "conv3d with everything": (
        volume(lambda v: op.nn.conv3d(v, const(GROUPED), padding=(2, 0, 1, 1, 1, 0), **ALL)),
        lambda v: F.conv3d(F.pad(v.reshape(-1, *VOLUME[1:]), (1, 0, 0, 1, 2, 1)), t(GROUPED), None, *ALL_OF_TORCH),
    ),
    "conv3d_transpose": (
        volume(lambda v: op.nn.conv3d_transpose(v, const(BACK), padding=1)),
        lambda v: F.conv_transpose3d(v.reshape(-1, *VOLUME[1:]), t(BACK), padding=1),
    ),
    "conv3d_transpose with everything": (
        volume(
            lambda v: op.nn.conv3d_transpose(
                v, const(BACK_GROUPED), strides=(2, 3, 2), padding=(1, 0, 1) * 2, output_padding=(1, 2, 0), groups=2
            )
        ),
        lambda v: F.conv_transpose3d(
            v.reshape(-1, *VOLUME[1:]), t(BACK_GROUPED), None, (2, 3, 2), (1, 0, 1), (1, 2, 0), 2
        ),
    ),
}


# What the rows and the tests below try, below "relax.".
COMPOSED_RULES = {"nn.softmax", "nn.log_softmax"}
COMPOSED_RULES |= {"divide", "maximum", "minimum", "max", "min", "where", "cumsum", "nn.avg_pool3d"}
COMPOSED_RULES |= {"greater", "greater_equal", "less", "less_equal", "equal", "not_equal", "astype"}
COMPOSED_RULES |= {*(f"logical_{name}" for name in ("and", "or", "xor", "not")), "isnan", "isinf", "isfinite"}
COMPOSED_RULES |= {"prod", "nn.conv3d", "nn.conv3d_transpose"}
COMPOSED_RULES |= {"zeros_like", "ones_like", "full_like", "quantize", "dequantize"}


@pytest.fixture(scope="module")
def explained() -> tuple[Any, Any, Any, Any]:
    """Input, reference, what each row's results are multiplied by, and both explanations."""
    x = RNG.normal(size=(N, len(ROWS), C, H, W)).astype(np.float32)
    x0 = RNG.normal(size=x.shape[1:]).astype(np.float32)
    x[:, :, 0, 0, 0] = x0[:, 0, 0, 0]
    factors: list[Any] = []

    def body(emit: Any, value: Any) -> Any:
        flat = []
        for i, (f, _) in enumerate(ROWS.values()):
            row = emit(op.reshape(emit(op.strided_slice(value, [1], [i], [i + 1])), SHAPE), f"x{i}")
            y = emit(f(emit, row), f"f{i}")
            count = int(np.prod([int(d) for d in y.ty.shape])) // N
            factors.append(RNG.normal(size=count).astype(np.float32))
            flat.append(emit(op.reshape(y, (N, count))))
        weights = const(np.concatenate(factors)[:, None])
        return emit(op.matmul(emit(op.concat(flat, 1)), weights), "total")

    methods = [tvm_lowbit.DeepLift(target=0, reference=x0), tvm_lowbit.Gradient(target=0)]
    found = tvm_lowbit.build(module(body, x.shape), "host", explain=methods).run(x).explanations
    return x, x0, factors, found


@pytest.mark.parametrize("name", ROWS)
def test_row(name: str, explained: Any) -> None:
    """Contributions sum to the row's difference; the gradient is torch's, straight through rounding."""
    x, x0, factors, found = explained
    i = list(ROWS).index(name)
    f = ROWS[name][1]
    here = torch.tensor(x[:, i], dtype=torch.float64, requires_grad=True)
    total = (f(here).reshape(N, -1) * t(factors[i])).sum(1)
    total.sum().backward()
    np.testing.assert_allclose(found["gradient"].multipliers[:, i], here.grad.numpy(), rtol=2e-4, atol=5e-5)
    with torch.no_grad():
        start = (f(t(x0[i])[None]).reshape(1, -1) * t(factors[i])).sum(1)
    contributions = found["deeplift"].contributions[:, i].astype(np.float64)
    delta = (total.detach() - start).numpy()
    gap = np.abs(contributions.sum((1, 2, 3)) - delta)
    assert np.all(gap <= 1e-5 * np.maximum(1, np.abs(delta))), gap
    assert np.all(contributions[x[:, i] == x0[i]] == 0)
    # No multiplier is noise over a small difference.
    assert np.abs(found["deeplift"].multipliers[:, i]).max() < 200


@pytest.mark.parametrize("scale", [1.0, 5.0, 60.0])
def test_softmax_by_hand(scale: float) -> None:
    """``s_i = dy_i / dlog y_i``, and each logit's share in the change of the log-sum-exp; in float64."""
    x = (RNG.normal(size=(3, 7)) * scale).astype(np.float32)
    x0 = (RNG.normal(size=7) * scale).astype(np.float32)
    mod, g = summed(lambda emit, v: emit(op.nn.softmax(v)), (3, 7))
    found = explain(mod, x, reference=x0)
    a, b = x.astype(np.float64), x0.astype(np.float64)[None]

    def lse(v: Any) -> Any:
        top = v.max(1, keepdims=True)
        return top + np.log(np.exp(v - top).sum(1, keepdims=True))

    change = lse(a) - lse(b)
    top = np.maximum(a.max(1), b.max(1))[:, None]
    shares = (np.exp(a - top) - np.exp(b - top)) / (a - b)
    shares *= change / (np.exp(a - top).sum(1) - np.exp(b - top).sum(1))[:, None]
    y, y0 = np.exp(a - lse(a)), np.exp(b - lse(b))
    s = g * (y - y0) / (a - b - change)
    expected = s - shares * s.sum(1, keepdims=True)
    np.testing.assert_allclose(found.multipliers, expected, rtol=1e-3, atol=1e-5)
    assert np.all(np.abs(found.gap) <= 1e-5)
    assert np.abs(found.multipliers).max() <= np.abs(g).max()


def test_step_from_the_range_of_a_tensor() -> None:
    """Over the batch as well, which is one item here: complete, and the gradient straight through."""
    x = RNG.normal(size=(1, 3, 4)).astype(np.float32)
    mod, g = summed(lambda emit, v: emit(quantised_by_range(emit, v)), x.shape)
    methods = [tvm_lowbit.DeepLift(target=0, reference=0.25), tvm_lowbit.Gradient(target=0)]
    found = tvm_lowbit.build(mod, "host", explain=methods).run(x).explanations
    assert abs(float(found["deeplift"].gap[0])) <= 1e-5
    here = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    (torch_by_range(here) * t(g)).sum().backward()
    np.testing.assert_allclose(found["gradient"].multipliers, here.grad.numpy(), rtol=2e-4, atol=1e-4)


STOPPED: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "argmax": (
        lambda emit, x: op.add(x, op.astype(emit(op.argmax(x, 1, keepdims=True), "bad"), "float32")),
        "relax.argmax",
    ),
    "topk": (lambda emit, x: emit(op.topk(x, 2, -1, "values"), "bad"), "relax.topk"),
    "sort": (lambda emit, x: emit(op.sort(x), "bad"), "relax.sort"),
}


@pytest.mark.parametrize("name", STOPPED)
def test_stop(name: str) -> None:
    """The message names layer and operator and says why."""
    body, operator = STOPPED[name]
    mod, _ = summed(lambda emit, x: emit(body(emit, x), "after"), (2, 5))
    with pytest.raises(LowbitError) as caught:
        tvm_lowbit.build(mod, "host", explain=[tvm_lowbit.DeepLift()])
    assert caught.value.where == "layer bad"
    assert caught.value.got.startswith(f"{operator}: ")
    assert "Element" in caught.value.hint


def test_a_stop_beside_the_way() -> None:
    """It gives another output, of which nothing is asked."""

    def body(emit: Any, x: Any) -> Any:
        first = emit(op.matmul(x, const(np.ones((3, 2)))), "first")
        return relax.Tuple([first, emit(op.argmax(first, 1), "second")])

    found = explain(module(body, (1, 3)), np.float32([[1, 2, 3]]))
    np.testing.assert_allclose(found.contributions, [[1, 2, 3]])
