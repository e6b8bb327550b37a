"""Splits follow every operator: contributions sum up at all cuts, and fusing functions changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from explained import explain
from relax_models import const, module, operators, quantised
from tvm import relax

import tvm_lowbit
from tvm_lowbit import DeepLift
from tvm_lowbit.boards.rows import resolve
from tvm_lowbit.frontend import import_model
from tvm_lowbit.pipeline import Options, run_phases

RNG = np.random.default_rng(1)


def weights(*shape: int) -> Any:
    """Random constants."""
    return const(RNG.normal(size=shape))


def everything(emit: Any, x: Any) -> Any:
    """A graph in which pairs meet moves, pools, joins, pads, products of two that vary, and chains of functions."""
    op, nn = relax.op, relax.op.nn
    v = emit(op.multiply(emit(nn.conv2d(x, weights(4, 2, 3, 3), padding=1), "c1"), weights(4, 1, 1)), "bn")
    v = quantised(emit, emit(nn.relu(v), "r1"), "q1", scale=0.7, qmax=3)
    v = emit(nn.max_pool2d(v, (3, 3), strides=(2, 2), padding=(1, 1)), "pool")
    c2 = emit(nn.conv2d(v, weights(4, 4, 3, 3), padding=1), "c2")
    padded = emit(nn.pad(emit(nn.max_pool2d(c2, (2, 2), strides=(1, 1)), "pool2"), [0, 0, 0, 0, 0, 1, 0, 1]), "pad")
    options = {"layout": "NCHW", "method": "cubic", "coordinate_transformation_mode": "half_pixel"}
    wide = emit(relax.op.image.resize2d(c2, relax.ShapeExpr([8, 8]), **options), "resized")
    wide = emit(nn.avg_pool2d(wide, (2, 2), strides=(2, 2)), "average")
    joined = emit(op.flip(emit(op.strided_slice(emit(op.concat([c2, padded], axis=1)), [1], [2], [6])), 2), "joined")
    v = emit(op.permute_dims(emit(op.subtract(joined, wide), "sub"), [0, 1, 3, 2]), "turned")
    v = emit(op.multiply(emit(nn.relu(v), "r2"), c2), "product")
    v = quantised(emit, emit(op.abs(v), "abs"), "q2", scale=0.9, qmax=3)
    v = emit(op.add(v, emit(op.mean(c2, [2, 3], keepdims=True), "mean")), "broadcast")
    v = emit(op.reshape(quantised(emit, v, "q3", scale=1.1, qmin=-8, qmax=7), (2, 64)), "flat")
    v = emit(nn.relu(emit(op.add(emit(op.matmul(v, weights(64, 6)), "fc"), weights(6)), "shifted")), "r3")
    return emit(op.matmul(quantised(emit, v, "q4", scale=1.7, qmax=15), weights(6, 3)), "logits")


def test_complete_at_every_cut() -> None:
    """At the input, and at layers that all ways pass, whatever lies between."""
    shape = (2, 2, 8, 8)
    cuts = ["c1", "q1", "c2", "q3", "r3", "q4"]
    methods = [
        DeepLift(rule=r, name=r, reference=RNG.normal(size=shape[1:]), target=1, layers=[*cuts, "sub", "abs"])
        for r in ("reveal_cancel", "genomics")
    ]
    result = tvm_lowbit.build(module(everything, shape), "host", explain=methods).run(
        RNG.normal(size=(8, *shape[1:])).astype(np.float32)
    )
    for found in result.explanations.values():
        total = np.abs(found.contributions).sum()
        assert total > 1
        np.testing.assert_allclose(found.gap, 0, atol=2e-5)
        for cut in cuts:
            np.testing.assert_allclose(found.layers[cut]["gap"], 0, atol=2e-5)
            assert np.abs(found.layers[cut]["contributions"]).sum() > 1
        for cut in ("sub", "abs"):
            assert np.all(np.isfinite(found.layers[cut]["multipliers"]))
    first, second = (found.contributions for found in result.explanations.values())
    assert np.abs(first - second).max() > 1e-3


def chain(kind: str) -> Any:
    """A dense layer and an unsigned quantiser of its result, with functions in between that change nothing."""
    random = np.random.default_rng(3)
    w0, w1 = random.normal(size=(6, 8)), random.normal(size=(8, 2))

    def body(emit: Any, x: Any) -> Any:
        v = emit(relax.op.matmul(x, const(w0)), "fc")
        if kind != "fused":
            v = emit(relax.op.nn.relu(v), "relu")
        if kind == "moved":
            v = emit(relax.op.permute_dims(emit(relax.op.reshape(v, (3, 2, 4))), [0, 2, 1]), "moved")
        v = quantised(emit, v, "q", scale=0.31, qmax=15)
        if kind == "moved":
            v = emit(relax.op.reshape(emit(relax.op.permute_dims(v, [0, 2, 1])), (3, 8)), "back")
        return emit(relax.op.matmul(v, const(w1)), "out")

    return module(body, (3, 6))


def test_fused_functions() -> None:
    """ReLU and an unsigned quantiser are one function: apart, fused, or with values moved in between."""
    x, x0 = RNG.normal(size=(3, 6)), RNG.normal(size=6)
    found = {kind: explain(chain(kind), x, rule="reveal_cancel", reference=x0) for kind in ("fused", "apart", "moved")}
    rescaled = explain(chain("fused"), x, reference=x0)
    assert np.abs(found["fused"].contributions - rescaled.contributions).max() > 0.01
    for other in ("apart", "moved"):
        np.testing.assert_allclose(found[other].contributions, found["fused"].contributions, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[other].multipliers, found["fused"].multipliers, rtol=1e-5, atol=1e-6)


def convolutions(emit: Any, x: Any) -> Any:
    """Functions behind convolutions only, and a classifier."""
    v = x
    for i in range(2):
        v = emit(relax.op.nn.conv2d(quantised(emit, v, f"q{i}"), weights(2, 2, 3, 3), padding=1), f"c{i}")
        v = emit(relax.op.nn.relu(v), f"r{i}")
    flat = emit(relax.op.reshape(quantised(emit, v, "last"), (1, 32)), "flat")
    return emit(relax.op.matmul(flat, weights(32, 2)), "logits")


def test_one_multiplier_where_two_are_the_same() -> None:
    """Pairs cost nothing where no function lies behind a dense layer: the very operators of Rescale."""
    mod = module(convolutions, (1, 2, 4, 4))
    core = resolve("host").core
    found = {}
    for rule in ("rescale", "genomics", "reveal_cancel"):
        options = Options(core, (DeepLift(rule=rule),))
        found[rule] = operators(run_phases(import_model(mod, None, 1), options, stop_after="instrument"))
    assert found["genomics"] == found["rescale"]
    assert len(found["reveal_cancel"]) > len(found["rescale"])
    products = [name for name in found["reveal_cancel"] if "conv2d" in name]
    # Two of the model, |W| |dx| of each, and two back through each.
    assert len(products) == 2 + 2 + 4


def mixed(emit: Any, x: Any) -> Any:
    """Functions in a row behind a convolution and before what is revealed, whose split goes through them."""
    v = emit(relax.op.nn.conv2d(x, weights(3, 2, 3, 3), padding=1), "c")
    v = emit(relax.op.abs(emit(relax.op.nn.leakyrelu(v, -0.5), "apart0")), "apart1")
    v = quantised(emit, v, "q", scale=0.4, qmax=7)
    v = emit(relax.op.matmul(emit(relax.op.reshape(v, (2, 48)), "flat"), weights(48, 5)), "fc")
    v = emit(relax.op.sin(emit(relax.op.nn.prelu(v, const([0.3]), 1), "apart2")), "between")
    v = quantised(emit, emit(relax.op.nn.relu(v), "revealed"), "q4", scale=0.1, qmax=15)
    return emit(relax.op.matmul(v, weights(5, 2)), "logits")


def test_joined_secants() -> None:
    """The multipliers of both parts are the same whether functions in a row count as one or, being asked for, apart."""
    x, x0 = RNG.normal(size=(2, 2, 4, 4)), RNG.normal(size=(2, 4, 4))
    methods = [
        DeepLift(rule="genomics", name=name, target=0, reference=x0, layers=("c", "q", *layers))
        for name, layers in (("one", ()), ("apart", ("apart0", "apart1", "apart2")))
    ]
    mod = module(mixed, (2, 2, 4, 4))
    found = tvm_lowbit.build(mod, "host", explain=methods).run(x.astype(np.float32)).explanations
    np.testing.assert_allclose(found["one"].gap, 0, atol=1e-5)
    for field in ("contributions", "multipliers"):
        here, there = ([f.values[field], *(f.layers[c][field] for c in "cq")] for f in (found["one"], found["apart"]))
        for a, b in zip(here, there, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * np.abs(b).max())
    rescaled = explain(mod, x, rule="rescale", reference=x0)
    assert np.abs(found["one"].contributions - rescaled.contributions).max() > 0.01


def test_volumes() -> None:
    """Of one slice they are images, whatever weights lie beside it; of several complete at every cut."""
    w0, w1 = RNG.normal(size=(4, 2, 3, 3, 3)), RNG.normal(size=(4, 2, 3, 3, 2))
    w2 = RNG.normal(size=(2 * 6 * 7, 2))

    def image(emit: Any, x: Any) -> Any:
        v = emit(relax.op.nn.relu(emit(relax.op.nn.conv2d(x, const(w0[:, :, 1]), padding=1), "c")), "r")
        v = emit(relax.op.nn.conv2d_transpose(v, const(w1[:, :, 1])), "t")
        v = emit(relax.op.reshape(emit(relax.op.nn.relu(v), "s"), (2, 84)), "flat")
        return emit(relax.op.matmul(v, const(w2)), "y")

    def volume(slices: int) -> Any:
        def body(emit: Any, x: Any) -> Any:
            x = emit(relax.op.reshape(x, (2, 2, slices, 4, 6)), "x3")
            v = emit(relax.op.nn.relu(emit(relax.op.nn.conv3d(x, const(w0), padding=1), "c")), "r")
            v = emit(relax.op.nn.conv3d_transpose(v, const(w1), padding=(1, 0, 0)), "t")
            v = emit(relax.op.sum(emit(relax.op.nn.relu(v), "s"), [2]), "sum")
            return emit(relax.op.matmul(emit(relax.op.reshape(v, (2, 84)), "flat"), const(w2)), "y")

        return module(body, (2, 2, 4 * slices, 6))

    x, x0 = RNG.normal(size=(2, 2, 12, 6)), RNG.normal(size=(2, 12, 6))
    options: dict[str, Any] = {"rule": "reveal_cancel", "layers": ("c", "r", "t", "s")}
    flat = explain(module(image, (2, 2, 4, 6)), x[:, :, :4], reference=x0[:, :4], **options)
    one = explain(volume(1), x[:, :, :4], reference=x0[:, :4], **options)
    several = explain(volume(3), x, reference=x0, **options)
    np.testing.assert_allclose(one.contributions, flat.contributions, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(one.multipliers, flat.multipliers, rtol=1e-3, atol=1e-3)
    for found in (flat, one, several):
        size = np.abs(found.contributions).sum() * 1e-6
        assert np.all(np.abs(found.gap) <= size)
        assert all(np.all(np.abs(found.layers[cut]["gap"]) <= size) for cut in ("c", "r", "t", "s"))
    rescaled = explain(volume(3), x, reference=x0)
    assert np.abs(several.contributions - rescaled.contributions).max() > 0.01
