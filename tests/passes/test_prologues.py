"""What a kernel reads is computed as it reads it: no kernel of its own, no stored product, the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from relax_models import const, module, quantised, spec
from tvm import relax

import tvm_lowbit
from relay_passes import compile as compiling
from relay_passes.lower import lower_lowbit
from relay_passes.ops import fake_quant, op_name
from relay_passes.prologues import fuse_prologues
from relay_passes.rewrite import rewrite_lowbit
from schedules.cores import host_core
from schedules.reads import FIRST_BYTES

RNG = np.random.default_rng(11)
CORE = host_core()


def weights(*shape: int) -> Any:
    """Random ones."""
    return RNG.normal(size=shape).astype(np.float32) * 0.4


def calls(mod: Any) -> list[str]:
    """The kernels that a program's functions call, in order."""
    functions = [f for f in mod.functions.values() if isinstance(f, relax.Function)]
    values = [b.value for f in functions for block in f.body.blocks for b in block.bindings]
    return [str(v.args[0].name_hint) for v in values if op_name(v) == "relax.call_tir"]


def both(run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, list[str], list[str]]:
    """What ``run()`` gives with prologues and without, and which kernels it calls with them and without."""
    seen: dict[Any, list[str]] = {}
    found: list[Any] = []
    for chosen in (fuse_prologues, lambda mod, lanes: mod):

        def watched(mod: Any, lanes: int, chosen: Any = chosen) -> Any:
            after = chosen(mod, lanes)
            # Of reference runs and the program, the program comes last.
            seen[chosen] = calls(after)
            kernels = {str(gv.name_hint) for gv, f in after.functions.items() if isinstance(f, tvm.tirx.PrimFunc)}
            assert kernels == set(seen[chosen]), "kernels are compiled that nobody calls"
            return after

        with monkeypatch.context() as patch:
            patch.setattr(compiling, "fuse_prologues", watched)
            found.append(run())
    with_them, without = seen.values()
    got, want = found
    return got, want, with_them, without


def program(body: Callable[..., Any], *shapes: tuple[int, ...]) -> Callable[[], list[Any]]:
    """A call that compiles a small program of several results for this machine and runs it."""
    names = [f"x{i}" for i in range(len(shapes))]
    given = [np.random.default_rng(1).normal(size=shape).astype(np.float32) for shape in shapes]

    def run() -> list[Any]:
        lowered = lower_lowbit(rewrite_lowbit(module(body, *shapes, names=names)), CORE)
        executable = compiling.compile_module(lowered, tvm.target.Target(CORE.target_dict()))
        found = relax.VirtualMachine(executable, tvm.cpu())["main"](*map(tvm.runtime.tensor, given))
        return [each.numpy() for each in found]

    return run


FIRST, SECOND, THIRD, LAST = weights(6, 3, 3, 3), weights(8, 6, 3, 3), weights(8, 8, 3, 3), weights(8, 5)


def network(low_bit: bool) -> Any:
    """Two convolutions, a third one beside which a branch goes on, and a dense layer; of 2 bits or float."""

    def layer(emit: Any, h: Any, w: Any, name: str) -> Any:
        w = emit(fake_quant(const(w), spec(0.3, -2, 1)), f"{name}/weights") if low_bit else const(w)
        return emit(relax.op.nn.conv2d(h, w, padding=1), name)

    def activated(emit: Any, h: Any, name: str) -> Any:
        h = emit(relax.op.nn.relu(h), name)
        return quantised(emit, h, f"{name}/codes", scale=0.6) if low_bit else h

    def body(emit: Any, x: Any) -> Any:
        h = activated(emit, layer(emit, quantised(emit, x) if low_bit else x, FIRST, "conv1"), "relu1")
        h = activated(emit, layer(emit, h, SECOND, "conv2"), "relu2")
        h = activated(emit, emit(relax.op.add(layer(emit, h, THIRD, "conv3"), h), "join"), "relu3")
        return emit(relax.op.matmul(emit(relax.op.mean(h, [2, 3]), "mean"), const(LAST)), "scores")

    return module(body, (1, 3, 11, 9))


@pytest.mark.parametrize("low_bit", [False, True], ids=["float", "low-bit"])
def test_secants_are_computed_where_the_reverse_convolution_reads(
    low_bit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = RNG.normal(size=(1, 3, 11, 9)).astype(np.float32)
    mod, rescale = network(low_bit), tvm_lowbit.DeepLift(target=0)
    got, want, kernels, before = both(lambda: tvm_lowbit.build(mod, "host", explain=[rescale]).run(x), monkeypatch)
    reverse = [name for name in kernels if name.startswith("float_conv_transposed")]
    # Those of conv1 and conv2 compute what they read; at the join two read the product, which is stored.
    assert len(reverse) == 3 and sum("_prologue" in name for name in reverse) == 2
    gone = [name for name in before if name.startswith("fused")]
    left = [name for name in kernels if name.startswith("fused")]
    assert len(left) <= len(gone) - 2
    _same(got, want)


def test_every_carrier_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, mod = RNG.normal(size=(1, 3, 11, 9)).astype(np.float32), network(low_bit=True)
    methods = [tvm_lowbit.DeepLift(target=0, rule="reveal_cancel"), tvm_lowbit.Conductance("conv1", steps=4)]
    got, want, kernels, _ = both(lambda: tvm_lowbit.build(mod, "host", explain=methods).run(x), monkeypatch)
    assert any("_prologue" in name for name in kernels)
    _same(got, want)


def _same(got: Any, want: Any) -> None:
    for name, explanation in got.explanations.items():
        other = want.explanations[name]
        fields = [(explanation.values, other.values), *((explanation.layers[k], other.layers[k]) for k in other.layers)]
        for mine, theirs in fields:
            for field, value in mine.items():
                np.testing.assert_array_equal(value, theirs[field], err_msg=f"{name} {field}")


# Rows of fewer elements than a vector has, of as many, of more, and of several vectors; strides that read every other
# element, groups, a padding that leaves rows out, several images, side by side where the weights are many.
GEOMETRIES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "1 wide": ((1, 2, 5, 1), (3, 2, 3, 1), {"padding": (1, 0)}),
    "7 wide, images side by side": ((3, 4, 7, 7), (40, 4, 3, 3), {"padding": 1}),
    "16 wide": ((1, 3, 4, 16), (5, 3, 3, 3), {"padding": 1}),
    "37 wide, strides": ((2, 3, 9, 37), (5, 3, 3, 3), {"padding": 1, "strides": (2, 2)}),
    "groups": ((1, 6, 6, 10), (6, 1, 5, 5), {"padding": 2, "groups": 6}),
    "steps past the kernel": ((1, 2, 9, 11), (3, 2, 1, 1), {"strides": (3, 2)}),
}


def test_rows_of_every_length(monkeypatch: pytest.MonkeyPatch) -> None:
    def body(emit: Any, *images: Any) -> Any:
        found = []
        for x, (shape, kernel, options) in zip(images, GEOMETRIES.values(), strict=True):
            shift = const(np.linspace(-1, 1, shape[1]).reshape(-1, 1, 1))
            h = emit(relax.op.tanh(emit(relax.op.multiply(emit(relax.op.add(x, shift)), x))))
            w = np.random.default_rng(2).normal(size=kernel)
            found.append(emit(relax.op.nn.conv2d(h, const(w), **options)))
        return relax.Tuple(found)

    shapes = [shape for shape, _, _ in GEOMETRIES.values()]
    got, want, kernels, before = both(program(body, *shapes), monkeypatch)
    assert len(kernels) == len(GEOMETRIES) == sum("_prologue" in name for name in kernels)
    assert len(before) == 2 * len(GEOMETRIES)
    for name, mine, other in zip(GEOMETRIES, got, want, strict=True):
        np.testing.assert_array_equal(mine, other, err_msg=name)


def test_what_stays_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """What two read, what only moves elements, what sums, and what the kernel would read too often."""
    size, many = FIRST_BYTES // 4, 2 * FIRST_BYTES // 4
    w = const(weights(4, 4, 1, 1))

    def conv(emit: Any, h: Any) -> Any:
        return emit(relax.op.nn.conv2d(h, w))

    def body(emit: Any, x: Any, small: Any, large: Any) -> Any:
        twice = emit(relax.op.exp(x))
        found = [emit(relax.op.add(conv(emit, twice), twice))]
        found.append(conv(emit, emit(relax.op.permute_dims(x, [0, 1, 3, 2]))))
        found.append(conv(emit, emit(relax.op.subtract(x, emit(relax.op.mean(x, [2], keepdims=True))))))
        # As TVM has it for single values only, this is computed one by one.
        found.append(conv(emit, emit(relax.op.sinh(x))))
        for row, n in ((small, size), (large, many)):
            found.append(emit(relax.op.matmul(emit(relax.op.tanh(row)), const(np.ones((n, 3)) / n))))
        return relax.Tuple(found)

    got, want, kernels, before = both(program(body, (1, 4, 6, 5), (1, size), (1, many)), monkeypatch)
    # Into kernels go sinh, and tanh of the small row.
    assert len(before) - len(kernels) == sum("_prologue" in name for name in kernels) == 2
    for stays in ("exp", "transpose", "mean", "tanh"):
        assert sum(stays in name for name in kernels) == 1, kernels
    for i, (mine, other) in enumerate(zip(got, want, strict=True)):
        np.testing.assert_array_equal(mine, other, err_msg=str(i))
