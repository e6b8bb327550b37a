"""Functions of their own: called many times, held once; and the forward program once more within ``main``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from emulator import require_emulator
from relax_models import const, module, quantised, spec
from tvm import relax

import tvm_lowbit
from relay_passes import notes
from relay_passes.attribution.methods import Method
from relay_passes.attribution.model import Forward, Model, Part
from relay_passes.attribution.steps import Extra, Step, again, make_step
from relay_passes.ops import constant, fake_quant, literal
from tvm_lowbit import Conductance, IntegratedGradients, SmoothGrad
from tvm_lowbit.boards.emulated import EmulatedBoard
from tvm_lowbit.boards.rows import resolve
from tvm_lowbit.frontend import import_model
from tvm_lowbit.pipeline import Options, run_phases

SHAPE = (1, 16, 12, 12)
WEIGHTS = np.random.default_rng(0).normal(size=(16, 16, 3, 3)).astype(np.float32)


def network_body(emit: Any, x: Any) -> Any:
    """Three quantised convolutions with residuals."""
    q = quantised(emit, x, "q0")
    for i in range(3):
        w = emit(fake_quant(const(WEIGHTS + 0.1 * i), spec(0.5, -2, 1)), f"w{i}")
        conv = emit(relax.op.nn.conv2d(q, w, padding=1), f"conv{i}")
        q = quantised(emit, emit(relax.op.add(conv, q), f"add{i}"), f"q{i + 1}", scale=2.0)
    return q


def network(emit: Any, x: Any) -> Any:
    """The same, and a classifier."""
    pooled = emit(relax.op.mean(network_body(emit, x), [2, 3]), "pool")
    return emit(relax.op.matmul(pooled, const(WEIGHTS[:, :4, 0, 0])), "logits")


@dataclass(frozen=True, eq=False, kw_only=True)
class Sum(Method):
    """The sum of the outputs, times ``factor``, at ``count`` points between 0 and the input."""

    method: ClassVar[str] = "sum"

    count: int = 5
    factor: float = 1.0

    def settings(self) -> dict[str, Any]:
        return {}

    def prepare(self, model: Model) -> Step:
        def write(forward: Forward) -> list[Any]:
            scaled = forward.emit(relax.op.multiply(forward.outputs[0], literal(np.float32(self.factor))))
            return [forward.emit(relax.op.add(scaled, forward.extra[0]))]

        return make_step(model, f"{self.key}_step", [Extra("so_far", (1, 4))], write)

    def explain(self, forward: Forward, prepared: Step) -> list[Part]:
        so_far: Any = literal(np.zeros((1, 4), np.float32))
        for share in shares(self.count):
            point = forward.emit(relax.op.multiply(forward.params[0], literal(share)))
            (so_far,) = prepared.call(forward, [point, so_far])
        return [Part("contributions", so_far)]


@dataclass(frozen=True, eq=False, kw_only=True)
class Half(Method):
    """The outputs at half the input."""

    method: ClassVar[str] = "half"

    def settings(self) -> dict[str, Any]:
        return {}

    def explain(self, forward: Forward, prepared: Any) -> list[Part]:
        half = forward.emit(relax.op.multiply(forward.params[0], literal(np.float32(0.5))))
        return [Part("contributions", again(forward, [half])[forward.outputs[0]])]


def shares(count: int) -> list[Any]:
    return [np.full((1,), (i + 1) / count, np.float32) for i in range(count)]


def test_a_step_is_called_many_times() -> None:
    """Its results are the library's own; kernels, weights and memory are there once, whatever the number of calls."""
    x = (3 * np.random.default_rng(1).normal(size=SHAPE)).astype(np.float32)
    plain = tvm_lowbit.build(module(network, SHAPE), "host")
    methods = [Sum(), Sum(name="more", count=50), Sum(name="doubled", factor=2.0), Half()]
    built = tvm_lowbit.build(module(network, SHAPE), "host", explain=methods)
    found = built.run(x)
    (output,) = found.outputs.values()

    def at(share: Any) -> Any:
        return next(iter(plain.run(x * share).outputs.values()))

    np.testing.assert_array_equal(output, at(np.float32(1)))
    for name, count, factor in (("sum", 5, 1), ("more", 50, 1), ("doubled", 5, 2)):
        want = np.float32(0)
        for share in shares(count):
            want = at(share) * np.float32(factor) + want
        np.testing.assert_array_equal(found.explanations[name].contributions, want)
    np.testing.assert_array_equal(found.explanations["half"].contributions, at(np.float32(0.5)))

    rows = {row.name: row.technique for row in plain.manifest.layers}
    also = {f"{name}/reference": technique for name, technique in rows.items()}
    assert {row.name: row.technique for row in built.manifest.layers} == rows | also, "steps have no rows; half has"
    assert len(plain.manifest.kernels) == 3 and len(built.manifest.kernels) == 6, "main's, and half's"
    before, after = plain.manifest.memory, built.manifest.memory
    assert before is not None and after is not None
    assert after.weights - before.weights < 4 * (50 + 5 + 4 + 8), "weights are held once"
    few = tvm_lowbit.build(module(network, SHAPE), "host", explain=[Sum(count=2)]).manifest.memory
    many = tvm_lowbit.build(module(network, SHAPE), "host", explain=[Sum(count=20)]).manifest.memory
    assert few is not None and many is not None
    assert few.activations == many.activations and few.peak == many.peak, "what a call leaves is used by the next"
    assert few.peak >= before.peak + x.nbytes


def test_steps_share_kernels() -> None:
    """One function for two methods that ask for the same, two for different ones, and one copy of each kernel."""
    methods = (Sum(), Sum(name="more", count=50), Sum(name="doubled", factor=2.0))
    options = Options(resolve("host").core, methods)
    lowered = run_phases(import_model(module(network, SHAPE), None, 1), options)
    functions = {gv.name_hint for gv, f in lowered.functions.items() if isinstance(f, relax.Function)}
    assert functions == {"main", "sum_step", "doubled_step"}
    kernels = {call["symbol"] for call in notes.read(lowered)["kernels"].values()}
    technique = next(iter(kernels)).rsplit("_", 1)[0]
    assert {gv.name_hint for gv in lowered.functions if gv.name_hint.startswith(technique)} == kernels


def test_ways_back_read_the_weights_of_kernels() -> None:
    """Also where gradients need no output, so that nobody would read what the last layer computes."""

    def classifier(emit: Any, x: Any) -> Any:
        q = quantised(emit, emit(relax.op.mean(network_body(emit, x), [2, 3]), "pool"), "last")
        w = emit(fake_quant(const(WEIGHTS.reshape(16, 144)), spec(0.5, -2, 1)), "v")
        return emit(relax.op.matmul(q, w), "logits")

    methods = (IntegratedGradients(steps=2, target=0), Conductance("add1", steps=2, target=0))
    lowered = run_phases(import_model(module(classifier, SHAPE), None, 1), Options(resolve("host").core, methods))
    codes = {gv.name_hint: packed(f) for gv, f in lowered.functions.items() if isinstance(f, relax.Function)}
    own = codes.pop("main")
    assert len(own) == 4 and set(codes) == {"gradient", "conductance_step"}
    assert codes["gradient"] == own and codes["conductance_step"] == own


def test_equal_on_emulated_arm(tmp_path: Path) -> None:
    """From a bundle: functions called many times, and noise that is made on the board."""
    require_emulator()
    x = (3 * np.random.default_rng(1).normal(size=SHAPE)).astype(np.float32)
    methods = [SmoothGrad(samples=3, target=0), Conductance("add1", steps=3, target=0)]
    here = tvm_lowbit.build(module(network, SHAPE), "host", explain=methods).run(x).explanations
    tvm_lowbit.build(module(network, SHAPE), "rpi4", explain=methods).save(tmp_path / "bundle")
    there = tvm_lowbit.load(tmp_path / "bundle").run(x, board=EmulatedBoard("cortex-a72")).explanations
    smooth, layer = here["smooth_grad"].values, here["conductance"].layers["add1"]
    assert smooth["contributions"].any() and layer["contributions"].any()
    for name, array in smooth.items():
        np.testing.assert_allclose(there["smooth_grad"].values[name], array, rtol=1e-6, atol=1e-6)
    for name, array in layer.items():
        np.testing.assert_allclose(there["conductance"].layers["add1"][name], array, rtol=1e-6, atol=1e-6)


def packed(function: Any) -> set[bytes]:
    """The large constants of bytes that a function reads."""
    found = set()
    for binding in (b for block in function.body.blocks for b in block.bindings):
        arguments = list(getattr(binding.value, "args", ()))
        arguments += [field for a in arguments if isinstance(a, relax.Tuple) for field in a.fields]
        arrays = (constant(a) for a in arguments if constant_of(a))
        found |= {a.tobytes() for a in arrays if a.dtype.itemsize == 1 and a.nbytes > 500}
    return found


def constant_of(expr: Any) -> bool:
    """Whether an expression is a constant tensor."""
    return hasattr(expr, "value") and hasattr(expr.value, "numpy")
